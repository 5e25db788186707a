"""The contract of slices: depths, places, pictures, and batches that depend on no other sample."""

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medvlp.archive.measure import measure
from medvlp.config import plain, validate
from medvlp.data.batch import Batch
from medvlp.data.dataset import Example, collater
from medvlp.data.placement import BoxRegion
from medvlp.data.preprocess import absent_slice, check_one_shape, model_input
from medvlp.errors import ConfigError, InputError
from medvlp.train.guards import _culprits
from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.preprocess_slices import CtSlicesConfig
from medvlp_volumetric.read import probe, resolve
from medvlp_volumetric.view import view

CONFIG = CtSlicesConfig(size=(12, 10), spacing_mm=(2, 2), slice_mm=4, more_windows_hu=((0, 100),))


def nifti(path, depth, mm=4.0):
    """(W,H,D) in RAS axes: air, and a bright mark at the patient's left, back and head."""
    values = np.full((10, 12, depth), -1000, np.int16)
    values[:2, :3, -1] = 700
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, mm, 1])), path)
    return path


def picture(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def arrays(*depths):
    rng = np.random.default_rng(0)
    return [rng.integers(-1500, 1500, (depth, 12, 10)).astype(np.int16) for depth in depths]


def test_a_volume_keeps_its_depth_and_its_places(tmp_path):
    preprocess = CONFIG.build()
    for depth, mm, expected in ((7, 4.0, 7), (7, 8.0, 14), (9, 2.0, 4), (2, 0.5, 1)):
        stored = preprocess.read([nifti(tmp_path / "a.nii", depth, mm)])
        assert stored.shape == (expected, 12, 10)
        assert stored.dtype == np.int16
    stored = preprocess.read([nifti(tmp_path / "a.nii", 7)])
    np.testing.assert_array_equal(np.argwhere(stored == 700).min(0), [6, 9, 8])
    image = model_input(preprocess, [stored])[0]
    assert image.shape == (3, 7, 12, 10) == (CONFIG.channels, 7, 12, 10)
    assert image[-1, :, 0, 0].tolist() == [-12, -8, -4, 0, 4, 8, 12]
    assert (image[-1] == image[-1, :, :1, :1]).all()
    assert image[0, 6, 9, 8] == pytest.approx(0.7)
    assert image[1, 6, 9, 8] == 1  # the second window ends at 100 HU


def test_what_exceeds_the_slices_is_cut_off_at_both_ends():
    preprocess = CtSlicesConfig(size=(1, 1), slice_mm=1, max_slices=3, spacing_mm=(1, 1)).build()
    hu_DHW = np.arange(7, dtype=np.float32).reshape(7, 1, 1)
    assert preprocess.from_array(hu_DHW).ravel().tolist() == [2, 3, 4]


def test_no_voxel_is_stored_as_a_slice_that_is_not_there():
    stored = CONFIG.build().from_array(np.full((2, 12, 10), -40_000.0))
    assert (stored == CtSlicesConfig.ABSENT + 1).all()
    assert not model_input(CONFIG.build(), [stored]).isnan().any()


def test_a_picture_is_a_slice_that_fits_in(tmp_path):
    path = picture(tmp_path / "a.png", np.linspace(0, 200, 24 * 40).reshape(24, 40))
    stored = CONFIG.build().read([path])
    assert stored.shape == (1, 12, 10)
    # 24 x 40 becomes 6 x 10; above and below there is air.
    assert (stored[0, [0, 1, 2, 9, 10, 11]] == -1000).all()
    assert stored[0, 3:9].min() < -850
    assert stored[0, 3:9].max() > 850
    assert (np.diff(stored[0, 3:9].astype(int), axis=0) > 0).all()
    image = model_input(CONFIG.build(), [stored])
    assert image[0, -1].eq(0).all()
    flat = CONFIG.build().read([picture(tmp_path / "b.png", np.full((4, 4), 9))])
    assert (flat == -1000).all()
    assert resolve(path) == [(path,)]
    assert probe([path]).shape == (1, 24, 40)
    assert measure([path], domain="volumetric").probe.reader == "pillow"
    assert view([path]).pictures
    with pytest.raises(InputError):  # beside volumes, pictures are no samples
        resolve(tmp_path)
    with pytest.raises(InputError, match="lies in a picture"):
        CONFIG.build().regions([path], (), [BoxRegion(corners=(0, 0, 0, 1, 1, 1))])
    placed = CONFIG.build().regions([path], (), [])
    assert placed.masks.shape == (0, 1, 12, 10)
    assert placed.placement.image() == ((0, 1), (3, 9), (0, 10))


def test_arrays_of_the_user_s_own_are_volumes_or_single_slices():
    preprocess = CONFIG.build()
    (array,) = arrays(3)
    np.testing.assert_array_equal(preprocess.from_array(array), array)
    np.testing.assert_array_equal(preprocess.from_array(array[0]), array[:1])
    for spacing in ((8, 2, 2), np.array([8.0, 2.0, 2.0])):
        assert preprocess.from_array(array, spacing).shape == (6, 12, 10)
    with pytest.raises(InputError):
        preprocess.from_array(array[None])


@pytest.mark.parametrize("fit", ["crop_pad", "resize"])
def test_regions_lie_where_the_volume_lies(tmp_path, fit):
    config = CtSlicesConfig(size=(8, 8), spacing_mm=(4, 4), slice_mm=4, max_slices=5, fit=fit)
    path = nifti(tmp_path / "a.nii", 7)
    # The mark in NIfTI's own order x, y, z, far edges exclusive.
    box = BoxRegion(corners=(0, 0, 5, 2, 3, 6))
    placed = config.build().regions([path], (), [box])
    stored = config.build().read([path])
    assert placed.placement.grid == stored.shape == (5, 8, 8)
    found = np.argwhere(placed.masks[0])
    assert set(found[:, 0]) == {4}
    assert found[:, 1:].min() >= 4  # at the back and the left


@pytest.mark.parametrize("augmented", [False, True])
def test_a_batch_is_its_samples_one_by_one(augmented):
    preprocess, stored = CONFIG.build(), arrays(4, 1, 7)

    def rngs(*seeds):
        return [np.random.default_rng(seed) for seed in seeds] if augmented else None

    whole = model_input(preprocess, stored, rngs=rngs(3, 1, 4))
    assert whole.shape == (3, 3, 7, 12, 10)
    for b, (one, seed) in enumerate(zip(stored, (3, 1, 4), strict=True)):
        alone = model_input(preprocess, [one], rngs=rngs(seed))[0]
        assert torch.equal(whole[b, :, : len(one)], alone)
        assert whole[b, :, len(one) :].isnan().all()
        assert not alone.isnan().any()
    plainly = model_input(preprocess, stored)
    assert torch.equal(whole.nan_to_num(9), plainly.nan_to_num(9)) is not augmented


def example(array, name):
    return Example(
        image=torch.from_numpy(array), drawn_K=None, ids=([1, 2],), levels=(0,),
        confidences=(1.0,), seed=0,
        labels_L=torch.zeros(0), sample=name, patient=name,
    )  # fmt: skip


def test_the_collater_fills_up_what_the_contract_says_and_parts_of_a_batch_keep_it():
    stored = arrays(2, 5)
    collate = collater(0, {"items": 1}, absent=absent_slice(CONFIG))
    batch = collate([example(array, name) for array, name in zip(stored, "ab", strict=True)])
    assert isinstance(batch, Batch)
    assert batch.image.dtype == torch.int16
    assert (batch.image[0, 2:] == CtSlicesConfig.ABSENT).all()
    ready = batch.ready(CONFIG.build())
    expected = model_input(CONFIG.build(), stored)
    torch.testing.assert_close(ready.image, expected, equal_nan=True)
    first = batch.part(slice(0, 1)).ready(CONFIG.build()).image
    torch.testing.assert_close(first, expected[:1], equal_nan=True)
    # A slice that is not there is no bad value; half a slice that is none, is.
    assert _culprits(ready) == ["a", "b"]
    expected[1, 0, 3, 2:] = torch.nan
    assert _culprits(Batch(**{**batch.__dict__, "image": expected})) == ["b"]


def test_contracts_of_one_shape_are_told_apart():
    assert absent_slice(CONFIG) == -32768
    assert absent_slice(CtPreprocessConfig()) is None
    check_one_shape(CtPreprocessConfig(), "segmentation")
    with pytest.raises(ConfigError, match=r"segmentation: preprocess\.kind=ct-slices"):
        check_one_shape(CONFIG, "segmentation")


def test_a_contract_survives_yaml_and_refuses_nonsense():
    assert validate(CtSlicesConfig, plain(CONFIG), "t") == CONFIG
    for values, reason in (
        ({"window_hu": [5, 5]}, "window"),
        ({"augment": {"shift": [1, 0, 0]}}, "along D, must be 0"),
        ({"max_slices": 0}, "max_slices"),
    ):
        with pytest.raises(ConfigError, match=reason):
            validate(CtSlicesConfig, values, "t")


def test_the_picture_of_a_volume_goes_from_the_feet_to_the_head():
    stored = np.stack([np.full((12, 10), hu, np.int16) for hu in (-1000, 0, 1000)])
    shades = [int(CONFIG.build().picture(stored, at)[0, 0, 0]) for at in (0, 0.5, 1)]
    assert shades == [0, 127, 255]
