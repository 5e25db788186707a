"""The clip contract and the frame tower."""

import numpy as np
import pytest
import torch
from PIL import Image

from medvlp.archive.verdict import Reject
from medvlp.data.preprocess import contract_digest, model_input
from medvlp.errors import ConfigError, InputError
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp_video.border import picture_box
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_video.preprocess import ClipPreprocessConfig

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


@pytest.fixture
def folder(tmp_path):
    """Twelve seconds: four red, four green, four blue; 40 wide and 20 high."""
    for second in range(12):
        colour = (RED, GREEN, BLUE)[second // 4]
        Image.new("RGB", (40, 20), colour).save(tmp_path / f"{second:03d}.png")
    return tmp_path


def test_frames_are_taken_from_the_middle_of_equal_parts(folder):
    clip = ClipPreprocessConfig(frames=3, size=16).build().read([folder])
    assert clip.shape == (3, 16, 16, 3)
    assert clip.dtype == np.uint8
    assert [tuple(c) for c in clip[:, 8, 8].tolist()] == [RED, GREEN, BLUE]
    later = ClipPreprocessConfig(frames=2, size=16).build().read([folder], (2.0, 6.0))
    assert [tuple(c) for c in later[:, 8, 8].tolist()] == [RED, GREEN]


def test_letterbox_keeps_all_and_center_crop_fills(folder):
    boxed = ClipPreprocessConfig(frames=1, size=16).build().read([folder])[0]
    assert boxed[:4].max() == 0
    assert boxed[12:].max() == 0
    assert boxed[4:12].min() >= 30
    filled = ClipPreprocessConfig(frames=1, size=16, fit="center-crop").build().read([folder])[0]
    assert filled.min() >= 30


def textured(rows, columns):
    return np.random.default_rng(0).integers(40, 255, (rows, columns, 3), np.uint8)


def test_the_picture_is_stretched_and_its_middle_cut_out_as_asked():
    frame = textured(50, 90)
    keep = {"frames": 1, "border": "keep"}
    wide = ClipPreprocessConfig(size=32, fit="center-crop", resize_to=(40, 60), **keep).build()
    expected = Image.fromarray(frame).resize((60, 40), Image.Resampling.BILINEAR)
    expected = expected.crop((14, 4, 46, 36))
    np.testing.assert_array_equal(wide.from_array(frame)[0], np.asarray(expected))
    squash = ClipPreprocessConfig(size=32, fit="squash", interpolation="bicubic", **keep).build()
    expected = Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(squash.from_array(frame)[0], np.asarray(expected))


def test_contracts_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="belongs to fit center-crop, not to letterbox"):
        ClipPreprocessConfig(resize_to=(360, 640))
    with pytest.raises(ValueError, match="below size 224"):
        ClipPreprocessConfig(fit="center-crop", resize_to=(200, 640))


def test_a_contract_of_before_keeps_its_digest():
    assert contract_digest(ClipPreprocessConfig()) == (
        "eca7c30c1c50b3b460282d35f973dfb83450fb20fa0a81c648cc3401978e1171"
    )
    assert contract_digest(ClipPreprocessConfig(interpolation="bicubic")) != contract_digest(
        ClipPreprocessConfig()
    )


def test_sampling_around_the_middle_has_a_fixed_stride():
    build = ClipPreprocessConfig(frames=4, sampling="center", stride_s=0.5).build()
    np.testing.assert_allclose(build.times((10.0, 20.0)), [14.25, 14.75, 15.25, 15.75])
    uniform = ClipPreprocessConfig(frames=4).build()
    np.testing.assert_allclose(uniform.times((10.0, 20.0)), [11.25, 13.75, 16.25, 18.75])


def test_a_span_behind_the_end_is_refused(folder):
    with pytest.raises(Reject, match="span_outside"):
        ClipPreprocessConfig(size=16).build().read([folder], (12.0, 15.0))


def test_the_recorders_black_border_is_cut_but_a_dark_scene_is_not():
    frames = np.zeros((3, 100, 160, 3), np.uint8)
    frames[:, 5:95, 30:130] = 90
    frames[:, 50, 2] = 255
    assert picture_box(frames) == (30, 5, 130, 95)
    assert picture_box(np.zeros((2, 10, 12, 3), np.uint8)) == (0, 0, 12, 10)
    small = np.zeros((1, 100, 100, 3), np.uint8)
    small[:, 40:60, 40:60] = 90
    assert picture_box(small) == (0, 0, 100, 100)


def test_all_frames_of_a_clip_are_augmented_alike_and_never_flipped():
    build = ClipPreprocessConfig(frames=3, size=32).build()
    ramp = np.broadcast_to(np.linspace(20, 230, 32).astype(np.uint8)[None, None, :, None],
                           (3, 32, 32, 3)).copy()  # fmt: skip

    def augmented(seed):
        return model_input(build, [ramp], rngs=[np.random.default_rng(seed)])[0]

    (plain,) = model_input(build, [ramp])
    assert plain.shape == (3, 3, 32, 32)
    assert plain.dtype == torch.float32
    mean, std = torch.tensor(build.config.mean), torch.tensor(build.config.std)
    torch.testing.assert_close(plain[0, :, 0, 0], (20 / 255 - mean) / std)
    for seed in range(20):
        changed = augmented(seed)
        assert not torch.equal(changed, plain)
        torch.testing.assert_close(changed[0], changed[1])
        assert bool((changed[..., -1] > changed[..., 0]).all())
    assert torch.equal(augmented(7), augmented(7))


def test_a_users_own_array_becomes_the_stored_array():
    build = ClipPreprocessConfig(frames=2, size=16).build()
    frames = np.repeat(np.array([RED, RED, BLUE, BLUE], np.uint8), 400, 0).reshape(4, 20, 20, 3)
    stored = build.from_array(frames)
    assert [tuple(c) for c in stored[:, 8, 8].tolist()] == [RED, BLUE]
    assert build.from_array(frames[0]).shape == (2, 16, 16, 3)
    # An array has no seconds: however a contract samples files, its frames are taken evenly.
    around = ClipPreprocessConfig(frames=4, size=16, sampling="center", stride_s=0.5).build()
    np.testing.assert_array_equal(around.from_array(frames)[:, 8, 8], frames[:, 8, 8])
    assert build.picture(stored, 1.0).tolist() == stored[1].tolist()
    with pytest.raises(InputError, match="uint8 RGB"):
        build.from_array(frames.astype(np.float32))


RESNET = ResNet2dConfig(depths=(1, 1), widths=(16, 24), stem=8)
VIT = Vit2dConfig(size=32, patch=8, width=24, depth=2, heads=2)


@pytest.mark.parametrize("frame", [RESNET, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_features_of_a_clip(frame, pool):
    torch.manual_seed(0)
    tower = FrameEncoderConfig(frame=frame, pool=pool).build(3).eval()
    clip = torch.randn(2, 5, 3, 32, 32)
    out = tower(clip)
    assert out.grid == (5, 4, 4)
    assert out.tokens_BPD.shape == (2, 80, 24)
    assert out.pooled_BD.shape == (2, 24)
    assert all(level.shape[2] == 5 for level in out.maps)
    alone = tower.frame(clip[1])
    torch.testing.assert_close(out.tokens_BPD[1].unflatten(0, (5, 16)), alone.tokens_BPD)
    torch.testing.assert_close(out.maps[-1][1, :, 3], alone.maps[-1][3])


def test_mean_pooling_forgets_the_order_and_attention_does_not():
    torch.manual_seed(0)
    clip = torch.randn(1, 6, 3, 32, 32)
    mean = FrameEncoderConfig(frame=RESNET).build(3).eval()
    torch.testing.assert_close(mean(clip).pooled_BD, mean(clip.flip(1)).pooled_BD)
    torch.testing.assert_close(mean(clip).pooled_BD, mean(clip).tokens_BPD.mean(1))
    # Every frame twice is the same clip to a mean.
    torch.testing.assert_close(mean(clip.repeat_interleave(2, 1)).pooled_BD, mean(clip).pooled_BD)
    ordered = FrameEncoderConfig(frame=RESNET, pool="attention").build(3).eval()
    with torch.no_grad():
        ordered.pool.place_FD.mul_(50)
        gap = (ordered(clip).pooled_BD - ordered(clip.flip(1)).pooled_BD).abs().max()
    assert gap > 1e-4


def test_attention_takes_clips_up_to_its_length():
    tower = FrameEncoderConfig(frame=RESNET, pool="attention", max_frames=4).build(3)
    assert tower(torch.randn(2, 1, 3, 32, 32)).pooled_BD.shape == (2, 24)
    with pytest.raises(ConfigError, match="5 frames, the tower takes 4"):
        tower(torch.randn(2, 5, 3, 32, 32))
    with pytest.raises(ConfigError, match="does not divide"):
        FrameEncoderConfig(frame=RESNET, pool="attention", heads=5).build(3)
