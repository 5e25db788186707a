import nibabel as nib
import numpy as np
import polars as pl
import pytest
import torch
from minivolumes import marked_body as body
from minivolumes import saved as save
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.config import plain, validate
from medvlp.data.preprocess import contract_digest, model_input
from medvlp.errors import ConfigError, InputError
from medvlp_volumetric.nifti import read_nifti
from medvlp_volumetric.preprocess import (
    Change,
    CtPreprocessConfig,
    apply_changes,
)
from medvlp_volumetric.read import probe, resolve
from medvlp_volumetric.resampling import middle, onto_grid, resample
from medvlp_volumetric.told import Told
from medvlp_volumetric.values import is_label_map


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_left_back_and_head_end_up_in_the_same_place_from_any_orientation(tmp_path, codes):
    image = nib.Nifti1Image(body(), np.diag([2.0, 2, 2, 1]))
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    nib.save(image.as_reoriented(change), tmp_path / "a.nii.gz")
    config = CtPreprocessConfig(shape=(20, 20, 20), spacing_mm=(2, 2, 2))
    stored = config.build().read([tmp_path / "a.nii.gz"])
    assert stored.dtype == np.int16
    mark = np.argwhere(stored == 1000)
    assert mark.min(axis=0).tolist() == [13, 13, 13]
    assert mark.max(axis=0).tolist() == [16, 16, 16]


def test_resampling_keeps_the_place_and_the_value():
    ramp = np.tile(np.arange(12, dtype=np.float32)[:, None, None], (1, 4, 4))
    finer = resample(ramp, (24, 4, 4))
    # New centres lie at (k + 0.5)/2 - 0.5 old voxels.
    expected = np.clip((np.arange(24) + 0.5) / 2 - 0.5, 0, 11)
    np.testing.assert_allclose(finer[:, 0, 0], expected, atol=1e-5)
    coarser = resample(ramp, (3, 4, 4))
    np.testing.assert_allclose(coarser[:, 0, 0], [1.5, 5.5, 9.5], atol=1e-5)
    odd = resample(ramp, (5, 4, 4))
    np.testing.assert_allclose(odd[:, 0, 0], (np.arange(5) + 0.5) * 12 / 5 - 0.5, atol=0.6)


def test_shrinking_averages_fine_structure():
    stripes = np.tile((np.arange(64) % 2 * 1000.0).astype(np.float32), (8, 8, 1))
    np.testing.assert_allclose(resample(stripes, (8, 8, 16)), 500, atol=1)


def test_crop_and_pad_keep_the_centre():
    values = np.arange(5, dtype=np.float32).reshape(5, 1, 1)
    for depth, expected in ((3, [1, 2, 3]), (7, [-9, 0, 1, 2, 3, 4, -9]), (2, [1, 2])):
        shape = (depth, 1, 1)
        stored = onto_grid(values, values.shape, shape, middle(values.shape, shape), -9)
        assert stored[:, 0, 0].tolist() == expected


def test_spacing_decides_the_size_and_resize_does_not_ask(tmp_path):
    path = save(tmp_path / "a.nii", body(), np.diag([2.0, 2, 4, 1]))
    cropped = CtPreprocessConfig(shape=(40, 40, 40), spacing_mm=(2, 2, 2)).build().read([path])
    inside = np.argwhere(cropped > -500)
    assert (np.ptp(inside, axis=0) + 1).tolist() == [32, 16, 16]  # 16 voxels of 4 mm are 32 of 2
    stretched = CtPreprocessConfig(shape=(10, 30, 20), fit="resize").build().read([path])
    assert stretched.shape == (10, 30, 20)
    assert stretched[:, 15, 10].max() > 0


def test_each_window_is_a_channel_clipped_to_one():
    config = CtPreprocessConfig(
        shape=(1, 1, 4), window_hu=(-1000, 1000), more_windows_hu=((0.0, 100.0),)
    )
    assert config.channels == 2
    stored = np.array([[[-3000, 0, 50, 2000]]], dtype=np.int16)
    (tensor,) = model_input(config.build(), [stored])
    assert tensor.shape == (2, 1, 1, 4)
    expected = torch.tensor([[-1, 0, 0.05, 1], [-1, -1, 0, 1]])
    torch.testing.assert_close(tensor.flatten(1), expected)


def test_options_of_others_models_count_in_the_digest_and_their_absence_does_not():
    older = "3bdbe28d6aa953f77e86b042762884fdb8325004575d7472fa233607087cf098"
    assert contract_digest(CtPreprocessConfig()) == older
    options = [
        {"scale_to": (0.0, 1.0)},
        {"clip": "first"},
        {"antialias": False},
        {"pad": "least"},
        {"stretch": True},
    ]
    digests = {contract_digest(CtPreprocessConfig(**option)) for option in options}
    assert len(digests | {older}) == 6


def test_a_window_may_become_another_range():
    config = CtPreprocessConfig(
        shape=(1, 1, 4), window_hu=(-1150, 350), more_windows_hu=((0.0, 100.0),), scale_to=(0, 1)
    )
    stored = np.array([[[-3000, -400, 50, 2000]]], dtype=np.int16)
    (tensor,) = model_input(config.build(), [stored])
    expected = torch.tensor([[0, 0.5, 0.8, 1], [0, 0, 0.5, 1]])
    torch.testing.assert_close(tensor.flatten(1), expected)
    with pytest.raises(ConfigError, match="must be smaller"):
        validate(CtPreprocessConfig, {"kind": "ct", "scale_to": [1.0, 0.0]}, "t")


def metal(**options):
    """One column of a clip of 3000 HU in air, resampled to twice its fineness."""
    column = np.full((4, 1, 1), -1000, dtype=np.float32)
    column[2] = 3000
    config = CtPreprocessConfig(shape=(8, 1, 1), spacing_mm=(1, 1, 1), **options)
    return config.build().from_array(column, (2, 1, 1))[:, 0, 0].tolist()


def test_clipping_first_or_last_is_not_the_same():
    assert metal() == [-1000, -1000, -1000, 0, 2000, 2000, 0, -1000]
    assert metal(clip="first") == [-1000, -1000, -1000, -500, 500, 500, -500, -1000]


def test_without_antialiasing_fine_structure_is_passed_over():
    stripes = np.tile((np.arange(16) % 2 * 1000.0).astype(np.float32), (4, 4, 1))
    asked = {"shape": (4, 4, 4), "spacing_mm": (1, 1, 4)}
    averaged = CtPreprocessConfig(**asked).build().from_array(stripes, (1, 1, 1))
    # New centres lie at 4 k + 1.5 old voxels, between an even and an odd one.
    linear = CtPreprocessConfig(**asked, antialias=False).build().from_array(stripes, (1, 1, 1))
    assert np.unique(averaged).tolist() == np.unique(linear).tolist() == [500]
    spike = np.zeros((4, 4, 16), dtype=np.float32)
    spike[..., 4] = 1000
    assert CtPreprocessConfig(**asked).build().from_array(spike, (1, 1, 1)).max() == 250
    plain = CtPreprocessConfig(**asked, antialias=False).build().from_array(spike, (1, 1, 1))
    assert plain.max() == 0


def test_padding_may_be_the_volume_s_own_least_value():
    inside = np.full((2, 2, 2), -40, dtype=np.float32)
    asked = {"shape": (4, 2, 2), "spacing_mm": (1, 1, 1)}
    for pad, least, expected in (("air", -40, -1000), ("least", -40, -40), ("least", -3000, -1000)):
        inside[0, 0, 0] = least
        stored = CtPreprocessConfig(**asked, pad=pad).build().from_array(inside)
        assert stored[0, 1, 1] == stored[3, 1, 1] == expected


def test_a_stretched_volume_spans_the_window_whatever_its_values_mean():
    grey = np.arange(8, dtype=np.float32).reshape(2, 2, 2) * 30
    config = CtPreprocessConfig(shape=(2, 2, 2), fit="resize", stretch=True, scale_to=(0.0, 1.0))
    (tensor,) = model_input(config.build(), [config.build().from_array(grey)])
    torch.testing.assert_close(tensor.flatten(), torch.arange(8) / 7, atol=5e-4, rtol=0)
    flat = config.build().from_array(np.full((2, 2, 2), 7.0))
    assert (flat == -1000).all()
    values = {"kind": "ct", "stretch": True, "more_windows_hu": [[0.0, 1.0]]}
    with pytest.raises(ConfigError, match="one window"):
        validate(CtPreprocessConfig, values, "t")


def test_arrays_of_the_user_s_own_are_taken_as_canonical():
    values = body().transpose(2, 1, 0)[:, ::-1, ::-1]  # head, back, left
    preprocess = CtPreprocessConfig(shape=(20, 20, 20), spacing_mm=(2, 2, 2)).build()
    for spacing in ((2, 2, 2), np.array([2.0, 2.0, 2.0])):
        np.testing.assert_array_equal(preprocess.from_array(values, spacing), values)
    with pytest.raises(InputError):
        preprocess.from_array(values[0])


def test_augmentation_is_the_generator_s_and_never_mirrors():
    preprocess = CtPreprocessConfig(shape=(20, 20, 20), spacing_mm=(2, 2, 2)).build()
    stored = preprocess.from_array(body(), (2, 2, 2))  # the mark at small D, small H, large W
    for seed in range(20):
        (tensor,) = model_input(preprocess, [stored], rngs=[np.random.default_rng(seed)])
        (again,) = model_input(preprocess, [stored], rngs=[np.random.default_rng(seed)])
        assert torch.equal(tensor, again)
        bright = (tensor[0] > 0.7).nonzero().float().mean(dim=0)
        assert bright[0] < 10
        assert bright[1] < 10
        assert bright[2] > 10


def test_a_change_shifts_and_jitters_as_it_says():
    still = Change(
        shift_d=0, shift_h=0, shift_w=0, scale=1.0, offset_hu=0.0, noise_hu=0.0, noise_seed=0
    )

    def changed(shape, **values):
        change = torch.tensor([still._replace(**values)], dtype=torch.float64)
        return apply_changes(torch.arange(4.0).reshape(1, *shape), change, -5).ravel().tolist()

    assert changed((1, 1, 4), shift_w=1, scale=2.0, offset_hu=1.0) == [-9, 1, 3, 5]
    assert changed((1, 1, 4), shift_w=-1) == [1, 2, 3, -5]
    assert changed((1, 4, 1), shift_h=2) == [-5, -5, 0, 1]
    assert changed((4, 1, 1), shift_d=9) == [-5] * 4
    assert changed((4, 1, 1), noise_hu=1.0, noise_seed=1) != changed((4, 1, 1))


def test_picture_goes_from_the_feet_to_the_head():
    preprocess = CtPreprocessConfig(shape=(3, 4, 5)).build()
    stored = np.stack([np.full((4, 5), hu, np.int16) for hu in (-1000, 0, 1000)])
    assert [int(preprocess.picture(stored, at)[0, 0, 0]) for at in (0, 0.5, 1)] == [0, 127, 255]


def test_a_contract_survives_yaml_and_refuses_nonsense():
    config = CtPreprocessConfig(shape=(8, 8, 8), more_windows_hu=((-150.0, 250.0),))
    assert validate(CtPreprocessConfig, plain(config), "t") == config
    with pytest.raises(ConfigError, match="window"):
        validate(CtPreprocessConfig, {"window_hu": [5, 5]}, "t")


@pytest.mark.parametrize(
    ("values", "affine", "code"),
    [
        (np.zeros((4, 4, 4, 2), np.int16), None, "not_3d"),
        (np.zeros((4, 4, 1), np.int16), None, "too_few_slices"),
        (np.full((4, 4, 4), np.nan, np.float32), None, "nonfinite_pixels"),
        (np.zeros((4, 4, 4), np.int16), np.zeros((4, 4)), "bad_affine"),
        (np.zeros((4, 4, 4), np.int16), np.full((4, 4), np.nan), "bad_affine"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_bad_nifti_is_a_verdict(tmp_path, values, affine, code):
    image = nib.Nifti1Image(values, np.eye(4))
    if affine is not None:
        image.header["qform_code"] = 0
        image.header["sform_code"] = 2
        for name, row in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
            image.header[name] = row
        data = image.header.binaryblock + b"\0" * 4 + values.tobytes(order="F")
        (tmp_path / "a.nii").write_bytes(data)
    else:
        nib.save(image, tmp_path / "a.nii")
    with pytest.raises(Reject) as verdict:
        read_nifti(tmp_path / "a.nii")
    assert verdict.value.code == code


def test_a_nifti_file_cut_off_is_a_verdict(tmp_path):
    for name, code in (("a.nii", "truncated_pixels"), ("a.nii.gz", "inflate")):
        path = save(tmp_path / name, np.random.default_rng(0).integers(0, 99, (9, 9, 9), np.int16))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(Reject, match=code):
            read_nifti(path)
    (tmp_path / "b.nii").write_bytes(b"no volume")
    with pytest.raises(Reject, match="not_nifti"):
        read_nifti(tmp_path / "b.nii")


def test_values_that_are_no_hu_are_flagged_and_masks_known(tmp_path):
    assert read_nifti(save(tmp_path / "a.nii", body())).flags == ()
    mask = (body() > 0).astype(np.uint8)
    assert read_nifti(save(tmp_path / "m.nii", mask)).flags == ("not_hu",)
    assert is_label_map(mask.astype(np.float32))
    assert not is_label_map(body().astype(np.float32))


def test_what_is_no_ct_in_hounsfield_units_is_not_read_as_such(tmp_path):
    preprocess = CtPreprocessConfig(shape=(4, 4, 4), fit="resize").build()
    bright = np.where(body() == 1000, 2000, body())
    twice = save(tmp_path / "twice.nii", (bright - 1024).astype(np.int16))
    mask = save(tmp_path / "mask.nii", (body() > 0).astype(np.int16))
    grey = np.clip(body() / 8 + 125, 0, 255).T
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "hu.npy", body().T)
    Image.fromarray(grey[9].astype(np.uint8)).save(tmp_path / "grey.png")
    place = Told(affine=tuple(np.eye(4)[:3].ravel().tolist())).flags
    refused = [
        (twice, (), "double_rescale"),
        (twice, ("no_text",), "double_rescale"),
        (mask, ("no_text",), "label_map"),
        (tmp_path / "hu.npy", (), "not_hu"),
        (tmp_path / "grey.npy", place, "not_hu"),
        (tmp_path / "grey.png", (), "not_hu"),
    ]
    for path, flags, code in refused:
        with pytest.raises(Verdict) as verdict:
            preprocess.read([path], flags=flags)
        assert verdict.value.code == code
    preprocess.read([twice], flags=("double_rescale",))
    preprocess.read([tmp_path / "hu.npy"], flags=place)
    preprocess.read([tmp_path / "grey.png"], flags=("scale=8.0,-1000.0",))
    # A model of pictures takes any scale, and still no mask.
    pictures = CtPreprocessConfig(shape=(4, 4, 4), fit="resize", stretch=True).build()
    pictures.read([tmp_path / "grey.png"])
    with pytest.raises(Ignore, match="label_map"):
        pictures.read([mask])


def test_grey_levels_are_taken_in_on_wish_and_masks_never(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (12, 12, 12))
    save(source / "bytes.nii", grey.astype(np.uint8))
    save(source / "words.nii", grey.astype(np.int16) // 2 * 2 + 1)
    save(source / "organs.nii", (grey % 118).astype(np.uint8))
    wish = ["options.accept_not_hu=true"]
    index_archive(source, kind="nifti", out=tmp_path / "m", overrides=wish)
    (flags,) = pl.read_parquet(tmp_path / "m/samples.parquet")["flags"]
    assert "not_hu" in flags
    codes = pl.read_parquet(tmp_path / "m/rejects.parquet")["code"].to_list()
    assert codes == ["label_map"] * 2


def test_resolve_finds_volumes_and_probe_their_size(tmp_path):
    save(tmp_path / "b.nii", body((10, 12, 14)), np.diag([1.0, 2, 3, 1]))
    save(tmp_path / "a.nii.gz", body())
    (tmp_path / "note.txt").write_text("x")
    found = resolve(tmp_path)
    assert [paths[0].name for paths in found] == ["a.nii.gz", "b.nii"]
    seen = probe(found[1])
    assert seen.shape == (14, 12, 10)
    assert seen.spacing_mm == (3, 2, 1)
    with pytest.raises(InputError):
        resolve(tmp_path / "note.txt")
