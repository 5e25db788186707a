import numpy as np
import pytest
import torch
from PIL import Image

from medvlp.archive.verdict import Reject
from medvlp.config import plain, validate
from medvlp.cxr.preprocess import (
    CxrAugmentConfig,
    CxrPreprocessConfig,
    Pose,
    apply_poses,
    draw_pose,
)
from medvlp.cxr.read import probe, read_xray, resolve
from medvlp.data.placement import BoxRegion
from medvlp.data.preprocess import contract_digest, model_input
from medvlp.errors import ConfigError, InputError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_8_and_16_bit_pictures_keep_their_values(tmp_path):
    np.testing.assert_array_equal(read_xray(save(tmp_path / "a.png", RAMP)), RAMP)
    deep = RAMP.astype(np.uint16) * 250
    np.testing.assert_array_equal(read_xray(save(tmp_path / "b.png", deep)), deep)
    np.testing.assert_array_equal(read_xray(save(tmp_path / "c.tif", deep)), deep)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colours_that_are_grey_become_that_grey(tmp_path, mode):
    picture = Image.fromarray(RAMP).convert(mode)
    picture.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_xray(tmp_path / "a.png"), RAMP, atol=1)


def test_a_jpeg_is_close(tmp_path):
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    assert np.abs(read_xray(save(tmp_path / "a.jpg", smooth, quality=95)) - smooth).mean() < 2


def test_bad_pictures_are_verdicts(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(Reject, match="not_a_picture"):
        read_xray(tmp_path / "a.png")
    whole = save(tmp_path / "b.png", np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8))
    whole.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(Reject, match="truncated_pixels"):
        read_xray(whole)


def test_resolve_finds_xrays_and_says_when_there_are_none(tmp_path):
    for name in ("b.png", "a.dcm", "IM0001", "x.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    found = resolve(tmp_path)
    assert [path.name for (path,) in found] == ["IM0001", "a.dcm", "b.png"]
    with pytest.raises(InputError):
        resolve(tmp_path / "absent")


def test_probe_reads_the_size(tmp_path):
    assert probe([save(tmp_path / "a.png", RAMP)]).shape == (6, 8)


def test_the_stored_array_spans_the_percentiles_and_keeps_the_proportions():
    image = np.tile(np.linspace(-500, 1500, 40, dtype=np.float32), (20, 1))
    stored = CxrPreprocessConfig(size=32, percentiles=(10, 90)).build().from_array(image)
    assert stored.dtype == np.uint16
    assert stored.shape == (32, 32)
    assert not stored[:8].any()
    assert not stored[24:].any()  # padded above and below
    assert stored[16, 1] == 0
    assert stored[16, -2] == 65535
    assert abs(int(stored[16, 16]) - 32768) < 2500
    assert (np.diff(stored[16].astype(int)) >= 0).all()


def test_squash_fills_the_square():
    image = np.random.default_rng(0).random((20, 40)).astype(np.float32) + 1
    stored = CxrPreprocessConfig(size=16, resize="squash").build().from_array(image)
    assert stored[:2].any()
    assert stored[-2:].any()


def test_more_than_8_bits_reach_the_tensor():
    ramp = np.arange(4096, dtype=np.float32).reshape(64, 64)
    preprocess = CxrPreprocessConfig(size=64, percentiles=(0, 100)).build()
    assert len(torch.unique(model_input(preprocess, [preprocess.from_array(ramp)]))) > 4000


def test_shrinking_averages_instead_of_picking_pixels():
    checker = (np.indices((128, 128)).sum(axis=0) % 2).astype(np.float32)
    preprocess = CxrPreprocessConfig(size=16, percentiles=(0, 100)).build()
    grey = preprocess.from_array(checker) / 65535
    np.testing.assert_allclose(grey, 0.5, atol=0.02)


def test_a_flat_image_is_black_and_finite():
    preprocess = CxrPreprocessConfig(size=16).build()
    tensor = model_input(preprocess, [preprocess.from_array(np.full((9, 9), 7.0))])
    assert torch.isfinite(tensor).all()


def test_tensor_is_standardised_as_the_contract_says():
    preprocess = CxrPreprocessConfig(size=16, mean=0.4, std=0.2).build()
    tensor = model_input(preprocess, [np.full((16, 16), 65535, np.uint16)])
    assert tensor.dtype == torch.float32
    assert tensor.shape == (1, 1, 16, 16)
    assert torch.allclose(tensor, torch.tensor((1 - 0.4) / 0.2))


def test_augmentation_is_the_generator_s_and_never_mirrors():
    preprocess = CxrPreprocessConfig(size=64).build()
    stored = np.zeros((64, 64), np.uint16)
    stored[20:40, 44:56] = 65535  # a mark on the image's right
    for seed in range(60):
        (tensor,) = model_input(preprocess, [stored], rngs=[np.random.default_rng(seed)])
        (again,) = model_input(preprocess, [stored], rngs=[np.random.default_rng(seed)])
        assert torch.equal(tensor, again)
        assert tensor[0, :, 32:].sum() > tensor[0, :, :32].sum()


def test_a_pose_moves_the_image_the_way_it_says():
    grey = torch.zeros(1, 1, 32, 32)
    grey[0, 0, 10, 10] = 1

    def posed(**changed):
        still = Pose(shift_x=0.0, shift_y=0.0, scale=1.0, rotation_rad=0.0, contrast=1.0,
                     brightness=0.0)  # fmt: skip
        pose = torch.tensor([still._replace(**changed)], dtype=torch.float64)
        return apply_poses(grey, pose)[0]

    assert torch.allclose(posed(), grey[0], atol=1e-5)
    assert posed(shift_x=4 / 32)[0, 10, 14] == pytest.approx(1, abs=1e-4)
    assert posed(shift_y=4 / 32)[0, 14, 10] == pytest.approx(1, abs=1e-4)
    assert posed(brightness=0.25)[0, 0, 0] == pytest.approx(0.25)


def test_drawn_poses_stay_within_their_limits():
    config = CxrAugmentConfig(shift=0.1, scale=0.2, rotation_deg=10, contrast=0, brightness=0)
    poses = [draw_pose(config, np.random.default_rng(k)) for k in range(200)]
    assert max(abs(p.shift_x) for p in poses) == pytest.approx(0.1, abs=0.01)
    assert min(p.scale for p in poses) == pytest.approx(0.8, abs=0.01)
    assert all(p.contrast == 1 and p.brightness == 0 for p in poses)


def test_a_contract_survives_yaml_and_refuses_nonsense():
    config = CxrPreprocessConfig(size=96, resize="squash")
    assert validate(CxrPreprocessConfig, plain(config), "t") == config
    with pytest.raises(ConfigError, match="percentiles"):
        validate(CxrPreprocessConfig, {"percentiles": [99, 1]}, "t")


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(InputError):
        CxrPreprocessConfig().build().from_array(np.zeros((2, 3, 4, 5)))
    with pytest.raises(InputError):
        CxrPreprocessConfig().build().from_array(np.full((4, 4), np.nan))


def test_picture_is_rgb_for_people():
    picture = CxrPreprocessConfig(size=16).build().picture(np.full((16, 16), 65535, np.uint16))
    assert picture.shape == (16, 16, 3)
    assert picture.dtype == np.uint8
    assert picture.min() == 255


def test_fields_that_came_later_leave_older_digests_alone():
    older = "ebe607c438c4e7f1166c0b6770499226fb6d3bdca66bb3d1c431225c6f7ed228"
    assert contract_digest(CxrPreprocessConfig()) == older
    assert contract_digest(CxrPreprocessConfig(resize_to=None, interpolation="bilinear")) == older
    changed = [
        CxrPreprocessConfig(resize_to=256),
        CxrPreprocessConfig(interpolation="bicubic"),
        CxrPreprocessConfig(mean=(0.5,) * 3, std=(0.25,) * 3),
    ]
    assert len({older, *map(contract_digest, changed)}) == 4


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("resize", "inner", "pad"),
    [("shortest", (44, 66), (0, 0)), ("letterbox", (29, 44), (7, 0)), ("squash", (44, 44), (0, 0))],
)
def test_the_middle_is_cut_out_as_pillow_does(interpolation, resize, inner, pad):
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (10, 15)), np.ones((8, 8))).astype(np.uint8)
    image[0, :2] = 0, 255
    contract = CxrPreprocessConfig(
        size=32, resize=resize, resize_to=44, interpolation=interpolation, percentiles=(0, 100)
    )
    stored = contract.build().from_array(image)
    how = getattr(Image.Resampling, interpolation.upper())
    whole = np.zeros((max(44, inner[0]), max(44, inner[1])))
    rows, columns = slice(pad[0], pad[0] + inner[0]), slice(pad[1], pad[1] + inner[1])
    whole[rows, columns] = Image.fromarray(image).resize(inner[::-1], how)
    top, left = (whole.shape[0] - 32) // 2, (whole.shape[1] - 32) // 2
    expected = whole[top : top + 32, left : left + 32]
    off = np.abs(stored / 257 - expected)
    # Pillow rounds and clips between its passes along the two axes: bicubic goes beyond there.
    assert off.max() <= {"bilinear": 1.01, "bicubic": 7}[interpolation]
    assert off.mean() < 0.4


def test_regions_follow_the_cut(tmp_path):
    image = np.zeros((40, 80), np.uint8)
    image[16:24, 32:48] = 255
    path = save(tmp_path / "a.png", image)
    cut = CxrPreprocessConfig(
        size=32, resize="shortest", resize_to=40, percentiles=(0, 100)
    ).build()
    placed = cut.regions([path], (), [BoxRegion(corners=(32, 16, 48, 24))])
    np.testing.assert_array_equal(placed.masks[0], cut.read([path]) > 0)
    assert placed.masks[0].sum() == 8 * 16


def test_three_means_make_three_channels_of_equal_greys():
    contract = CxrPreprocessConfig(size=16, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    stored = np.full((16, 16), 65535, np.uint16)
    image = model_input(contract.build(), [stored])
    assert contract.channels == 3
    np.testing.assert_allclose(image[0, :, 3, 5], [1.8, 0.8, 0.35], rtol=1e-6)
    posed = model_input(contract.build(), [stored], rngs=[np.random.default_rng(0)])
    assert posed.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": [0.1, 0.2, 0.3]}, "three each"),
        ({"std": [0.1, 0.2, 0.3]}, "three each"),
        ({"size": 64, "resize_to": 32}, "below size 64"),
        ({"std": [0.1, 0.2, 0.0], "mean": [0.0, 0.0, 0.0]}, "greater than 0"),
    ],
)
def test_contracts_that_cannot_be_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(CxrPreprocessConfig, values, "preprocess")
