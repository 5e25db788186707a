"""Volumes onto grids: values, where they are cut, and what a crop about the body keeps."""

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp.archive.series.geometry import Volume
from medvlp.config import validate
from medvlp.data.placement import BoxRegion
from medvlp.data.preprocess import contract_digest
from medvlp.errors import ConfigError
from medvlp_volumetric.body import body_centre
from medvlp_volumetric.preprocess import CtPreprocessConfig, volume_of
from medvlp_volumetric.resampling import middle, onto_grid, resample


def with_torch(hu_DHW, shape):
    """The same in one go over three axes, in float64."""
    image = torch.from_numpy(hu_DHW.astype(np.float64))[None, None]
    pairs = list(zip(hu_DHW.shape, shape, strict=True))
    averaged = [n // (n // m) if n >= 2 * m else n for n, m in pairs]
    image = F.interpolate(image, averaged, mode="area")
    image = F.interpolate(image, tuple(shape), mode="trilinear", align_corners=False)
    return image[0, 0].numpy()


@pytest.mark.parametrize(
    "shape", [(13, 11, 17), (29, 8, 17), (5, 30, 9), (6, 5, 40), (1, 1, 1), (4, 7, 3), (12, 11, 8)]
)
def test_plane_by_plane_is_all_at_once(shape):
    hu_DHW = np.random.default_rng(0).uniform(-1000, 1000, (13, 11, 17)).astype(np.float32)
    np.testing.assert_allclose(resample(hu_DHW, shape), with_torch(hu_DHW, shape), atol=2e-2)
    flipped = hu_DHW[::-1, :, ::-1]  # a view, as canonical volumes may be
    np.testing.assert_allclose(resample(flipped, shape), with_torch(flipped, shape), atol=2e-2)


@pytest.mark.parametrize("grid", [(8, 8, 8), (20, 8, 30), (40, 40, 40)])
def test_a_window_is_cut_from_the_whole(grid):
    hu_DHW = np.random.default_rng(1).uniform(-1000, 1000, (9, 12, 15)).astype(np.float32)
    shape = (14, 10, 22)
    start = middle(shape, grid)
    stored = onto_grid(hu_DHW, shape, grid, start, -1000)
    padded = np.pad(np.rint(resample(hu_DHW, shape)), 40, constant_values=-1000)
    cut = tuple(slice(40 + at, 40 + at + n) for at, n in zip(start, grid, strict=True))
    np.testing.assert_array_equal(stored, padded[cut])


def test_values_beyond_16_bits_are_the_last_that_there_are():
    hu_DHW = np.array([-1e6, 1e6, 0.5, 1.5], np.float32).reshape(1, 1, 4)
    stored = onto_grid(hu_DHW, (1, 1, 4), (1, 1, 5), (0, 0, -1), -5e4)
    assert stored.ravel().tolist() == [-32768, -32768, 32767, 0, 2]


def test_canonical_volumes_that_are_only_flipped_are_not_copied():
    hu_DHW = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    volume = Volume(hu_DHW=hu_DHW, affine=np.eye(4)[[2, 1, 0, 3]])  # towards right, front, head
    canonical = volume.canonical().hu_DHW
    assert canonical.base is hu_DHW or np.shares_memory(canonical, hu_DHW)
    np.testing.assert_array_equal(canonical, hu_DHW[:, ::-1, ::-1])


def lying(shape=(30, 60, 60), at=(15, 22, 40), table=True):
    """A body with lungs off the middle, in air, above a thin table that reaches farther."""
    d, h, w = np.ogrid[tuple(slice(0, n) for n in shape)]
    apart = ((d - at[0]) / 12) ** 2 + ((h - at[1]) / 9) ** 2 + ((w - at[2]) / 13) ** 2
    hu_DHW = np.where(apart < 1, 40.0, -1000.0)
    hu_DHW[apart < 0.4] = -850.0
    if table:
        hu_DHW[:, at[1] + 12, 2:] = 200.0
    return hu_DHW.astype(np.float32)


@pytest.mark.parametrize("spacing_mm", [(4, 4, 4), (8, 4, 4), (2, 2, 2)])
def test_the_body_s_centre_is_that_of_what_surrounds_the_lungs_not_of_the_table(spacing_mm):
    centre = body_centre(volume_of(lying(), spacing_mm))
    expected = (15.5 / 30, 22.5 / 60, 40.5 / 60)
    np.testing.assert_allclose(centre, expected, atol=1.01 / 30)


def test_no_body_no_centre():
    empty = np.full((9, 9, 9), -1000, np.float32)
    assert body_centre(volume_of(empty, (4, 4, 4))) is None
    whole = CtPreprocessConfig(shape=(6, 6, 6), spacing_mm=(4, 4, 4), centre="body").build()
    assert (whole.from_array(empty, (4, 4, 4)) == -1000).all()


def contract(**values):
    return CtPreprocessConfig(shape=(28, 24, 30), spacing_mm=(4, 4, 4), **values).build()


def test_a_crop_about_the_body_keeps_it_where_one_about_the_middle_cuts_it():
    hu_DHW = lying()
    kept = (contract(centre="body").from_array(hu_DHW, (4, 4, 4)) == 40).sum()
    assert kept == (hu_DHW == 40).sum()
    assert (contract().from_array(hu_DHW, (4, 4, 4)) == 40).sum() < 0.9 * kept


@pytest.mark.parametrize("shape", [(30, 60, 60), (20, 18, 90), (10, 10, 10)])
def test_fields_of_view_larger_and_smaller_than_the_grid(shape):
    """Axis by axis, the grid is full or holds all there is."""
    at = tuple(n - 4 for n in shape)
    stored = contract(centre="body").from_array(lying(shape, at, table=False) + 2, (4, 4, 4))
    assert stored.shape == (28, 24, 30)
    filled = (stored != -1000).any(axis=(1, 2)), (stored != -1000).any(axis=(0, 2))
    for n, m, seen in zip(shape, stored.shape, filled, strict=False):
        assert seen.sum() == min(n, m)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_a_crop_about_the_body_is_one_in_any_orientation_and_boxes_follow(tmp_path, codes):
    hu_DHW = lying(table=False)
    hu_DHW[14:18, 20:23, 34:39] = 1000
    values_RAS = hu_DHW[:, ::-1, ::-1].transpose(2, 1, 0).astype(np.int16)
    image = nib.Nifti1Image(values_RAS, np.diag([4.0, 4, 4, 1]))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(change)
    nib.save(turned, tmp_path / "a.nii.gz")
    body = contract(centre="body")
    stored = body.read([tmp_path / "a.nii.gz"])
    np.testing.assert_array_equal(stored, body.from_array(hu_DHW, (4, 4, 4)))
    bright = np.argwhere(np.asarray(turned.dataobj) == 1000)
    box = BoxRegion(corners=(*map(float, bright.min(0)), *map(float, bright.max(0) + 1)))
    placed = body.regions([tmp_path / "a.nii.gz"], (), [box])
    np.testing.assert_array_equal(placed.masks[0], stored == 1000)


def test_contracts_from_before_there_was_a_centre_keep_their_digest():
    before = "3bdbe28d6aa953f77e86b042762884fdb8325004575d7472fa233607087cf098"
    assert contract_digest(CtPreprocessConfig()) == before
    assert contract_digest(CtPreprocessConfig(centre="body")) != before


def test_the_whole_volume_has_no_crop_to_centre():
    with pytest.raises(ConfigError, match="centre: body needs fit: crop_pad"):
        validate(CtPreprocessConfig, {"fit": "resize", "centre": "body"}, "t")
