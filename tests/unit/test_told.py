"""What tables tell of a volume: its scale, decided by the values, and where its voxels lie."""

import dataclasses
import io

import numpy as np
import pytest
from minivolumes import affine, body, nifti, without_geometry

from medvlp.archive.codes import explain
from medvlp.archive.verdict import Reject
from medvlp.data.cache import ArrayCache
from medvlp.data.flags import flag_with, name_of, values_of, with_values
from medvlp.data.items import Item
from medvlp.data.placement import MaskRegion
from medvlp.errors import InputError
from medvlp_volumetric.arrays import read_array
from medvlp_volumetric.preprocess import CtPreprocessConfig
from medvlp_volumetric.read import read_volume
from medvlp_volumetric.told import (
    NOTHING,
    Told,
    affine_of,
    affine_of_dicom,
    is_placeholder,
    is_to_be_scaled,
    spacing_of,
)

HU = body(1).transpose(2, 1, 0).astype(np.float32)


def refused(code, call, *args):
    with pytest.raises(Reject) as caught:
        call(*args)
    assert caught.value.code == code


def test_a_scale_is_applied_where_the_values_lack_it_and_nowhere_else():
    assert is_to_be_scaled(HU + 1024, 1, -1024)
    assert is_to_be_scaled(HU + 8192, 1, -8192)
    assert is_to_be_scaled((HU + 1000) / 2, 2, -1000)
    assert not is_to_be_scaled(HU, 1, -1024)
    assert not is_to_be_scaled(HU, 1, -8192)
    assert not is_to_be_scaled(HU, 1, 0)


def test_a_scale_is_refused_where_the_values_do_not_decide():
    refused("double_rescale", is_to_be_scaled, HU - 1024, 1, -1024)
    refused("double_rescale", is_to_be_scaled, HU - 8192, 1, -8192)
    refused("not_hu", is_to_be_scaled, np.clip(HU, 0, 255), 1, -1024)
    both = np.concatenate([HU, HU + 1024])
    refused("scale_unclear", is_to_be_scaled, both, 1, -1024)


def test_a_real_volume_is_never_scaled_twice(shared):
    """In Hounsfield units, without any scale, and with one too many."""
    path = shared / "data" / "ct-totalseg" / "example_ct.nii.gz"
    values = read_volume([path]).hu_DHW[::2, ::4, ::4]
    for intercept in (-1024.0, -8192.0):
        assert not is_to_be_scaled(values, 1, intercept)
        assert is_to_be_scaled(values - np.float32(intercept), 1, intercept)
        refused("double_rescale", is_to_be_scaled, values + np.float32(intercept), 1, intercept)


def test_flags_carry_numbers_without_loss():
    told = Told(scale=(0.1, -1024.0), affine=tuple(np.linspace(-1, 1, 12).tolist()))
    assert Told.of(["no_text", *told.flags]) == told
    assert Told.of(["no_text"]) == NOTHING
    assert NOTHING.flags == ()
    assert values_of("scale", ["scaled", "scale=2.0,3.0"]) == (2.0, 3.0)
    assert [name_of(flag) for flag in told.flags] == ["scale", "affine"]
    assert explain("FLAG:scale=2.0,3.0") == explain("FLAG:scale")
    with pytest.raises(ValueError, match="finite"):
        flag_with("scale", [float("nan")])
    assert with_values(["b=1.0", "no_text", "a=2.0"]) == ["a=2.0", "b=1.0"]


def test_a_cached_array_is_known_by_the_numbers_told_of_it():
    cache = ArrayCache(None, "c")
    item = Item(
        sample="s", patient="p", sha256="a" * 64, source_paths=(), span=None, texts=(),
        labels_L=np.zeros(0, np.float32), split="train",
    )  # fmt: skip
    first = cache.key(item)
    assert cache.key(dataclasses.replace(item, flags=("no_text",))) == first
    scaled = cache.key(dataclasses.replace(item, flags=("scale=1.0,-1024.0",)))
    assert scaled != first
    assert cache.key(dataclasses.replace(item, flags=("scale=1.0,-1000.0",))) != scaled


def test_geometry_from_dicom_fields_is_the_affine_of_a_file(tmp_path):
    made = affine_of_dicom((0.8, 0.7, 2.5), (-40, -35, 10))
    wanted = affine((0.8, 0.7, 2.5), (-40, -35, 10))
    np.testing.assert_allclose(np.reshape(made, (3, 4)), wanted[:3])
    assert spacing_of(made) == pytest.approx((2.5, 0.7, 0.8))
    # Coronal slices: rows to the left, columns to the feet, so slices to the front or back.
    turned = Told(affine=affine_of_dicom((1, 1, 3), orientation=(1, 0, 0, 0, 0, -1))).matrix
    np.testing.assert_allclose(turned[:3, 2], [0, -3, 0])
    assert is_placeholder(affine_of(np.diag([-1.0, -1, 1, 1])))
    assert not is_placeholder(made)
    refused("bad_spacing", affine_of_dicom, (0.8, 0.8, 0))
    refused("bad_orientation", affine_of_dicom, (1, 1, 1), (0, 0, 0), (1, 0, 0, 1, 0, 0))
    path = nifti(tmp_path / "v.nii", (body(1) + 1024).astype(np.int16))
    told = Told(scale=(1.0, -1024.0), affine=made)
    volume = read_volume([path], told.flags)
    assert np.array_equal(volume.hu_DHW, HU)
    np.testing.assert_allclose(volume.affine_whd, wanted)


def test_a_mask_lies_where_a_table_says_that_its_volume_lies(tmp_path):
    """It is drawn on the volume's own file, whose header tells as little."""
    drawn = np.zeros(body(1).shape, np.uint8)
    drawn[3:7, 4:8, 2:5] = 1
    scan = nifti(tmp_path / "scan.nii", (body(1) + 1024).astype(np.int16))
    np.save(tmp_path / "mask.npy", drawn.T)
    told = Told(scale=(1.0, -1024.0), affine=affine_of(affine()))
    contract = CtPreprocessConfig(shape=(12, 18, 20), spacing_mm=(2.5, 0.8, 0.8)).build()

    def laid(mask):
        placed = contract.regions([scan], told.flags, [MaskRegion(paths=(mask,))])
        return placed.masks[0]

    wanted = laid(nifti(tmp_path / "placed.nii", drawn, affine()))
    assert wanted.sum() == drawn.sum()
    placeless = [
        nifti(tmp_path / "placeholder.nii", drawn),
        without_geometry(nifti(tmp_path / "without.nii", drawn)),
        tmp_path / "mask.npy",
    ]
    for mask in placeless:
        np.testing.assert_array_equal(laid(mask), wanted)
    elsewhere = nifti(tmp_path / "elsewhere.nii", drawn, affine(position=(-40, -35, 30)))
    for mask in (elsewhere, nifti(tmp_path / "smaller.nii", drawn[:-1])):
        with pytest.raises(InputError, match="does not lie on the voxels"):
            laid(mask)


def saved(array, **how) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"no array", "not_an_array"),
        (saved(np.zeros((2, 3), np.int16)), "not_3d"),
        (saved(np.zeros((1, 3, 4), np.int16)), "too_few_slices"),
        (saved(np.zeros((2, 3, 4), np.complex64)), "bad_datatype"),
        (saved(np.full((2, 3, 4), None), allow_pickle=True), "bad_datatype"),
        (saved(np.zeros((4, 5, 6), np.int16))[:-1], "truncated_pixels"),
        (saved(np.full((2, 3, 4), np.nan)), "nonfinite_pixels"),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path, data, code):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    refused(code, read_array, path, NOTHING)


def test_an_array_is_read_in_whatever_order_it_is_stored(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(values)[None])
    assert np.array_equal(read_array(path, NOTHING).hu_DHW, values)
