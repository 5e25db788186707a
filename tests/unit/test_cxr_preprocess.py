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
from medvlp.data.preprocess import model_input
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
