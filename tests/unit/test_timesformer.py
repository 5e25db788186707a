"""The space-time tower and means of unit vectors."""

import pytest
import torch
import torch.nn.functional as F
from published import stirred
from published_clips import SpaceTime
from torch import nn

from medvlp.errors import ConfigError
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.imports.keys import fitted
from medvlp.models.imports.towers import timm_vit
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_video.imports.surgclip import RULES
from medvlp_video.timesformer import TimesformerConfig

SIZES = {"size": 32, "patch": 16, "width": 128, "depth": 2, "heads": 2}


def tower(**options):
    torch.manual_seed(0)
    return TimesformerConfig(frames=3, **SIZES | options).build(3).eval()


def filled(pool):
    """A restated tower and ours with its weights."""
    torch.manual_seed(0)
    theirs = stirred(SpaceTime())
    state = {
        f"vision_encoder.model.{name}": value
        for name, value in theirs.state_dict().items()
        if not name.startswith("pool_norm")
    }
    architecture = timm_vit(state, "vision_encoder.model.")["architecture"]
    ours = TimesformerConfig(frames=3, pool=pool, architecture=architecture).build(3)
    held = nn.ModuleDict({"image": ours})
    held.load_state_dict(fitted(state, RULES, held.state_dict()))
    return theirs, ours.eval()


@torch.no_grad()
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_attention_is_divided_as_the_paper_divides_it(pool):
    theirs, ours = filled(pool)
    clips = torch.randn(2, 3, 3, 32, 32)
    out = ours(clips)
    assert out.grid == (3, 2, 2)
    assert out.maps[0].shape == (2, 128, 3, 2, 2)
    for b, clip in enumerate(clips):
        x_SFD = theirs.tokens(clip, published=False)
        expected = x_SFD[1:].transpose(0, 1).flatten(0, 1)
        torch.testing.assert_close(out.tokens_BPD[b], expected)
        pooled = x_SFD[0, 0] if pool == "cls" else expected.mean(0)
        torch.testing.assert_close(out.pooled_BD[b], pooled)
        torch.testing.assert_close(out.maps[0][b, :, 1, 0, 1], x_SFD[2, 1])
    if pool == "mean":
        torch.testing.assert_close(out.part_BGD, out.tokens_BPD.unflatten(1, (3, 4)).mean(2))
    else:
        assert out.part_BGD is None


@torch.no_grad()
def test_a_new_tower_is_the_transformer_on_each_frame():
    ours = tower(pool="cls")
    plain = Vit2dConfig(pool="cls", **SIZES).build(3).eval()
    vit = plain.backbone
    for mine, theirs in zip(
        (ours.embeddings, ours.norm, *(block.layer for block in ours.blocks)),
        (vit.embeddings, vit.layernorm, *vit.layers),
        strict=True,
    ):
        mine.load_state_dict(theirs.state_dict())
    frame = torch.randn(2, 3, 32, 32)
    for clip in (frame[:, None], frame[:, None].repeat(1, 4, 1, 1, 1)):
        torch.testing.assert_close(ours(clip).pooled_BD, plain(frame).pooled_BD)
        torch.testing.assert_close(ours(clip).tokens_BPD[:, :4], plain(frame).tokens_BPD)
    larger = torch.randn(1, 3, 48, 64)
    torch.testing.assert_close(ours(larger[:, None]).pooled_BD, plain(larger).pooled_BD)


@torch.no_grad()
def test_only_the_table_of_times_tells_the_order():
    _, ours = filled("mean")
    clip = torch.randn(1, 3, 3, 32, 32)
    forward, backward = ours(clip).pooled_BD, ours(clip.flip(1)).pooled_BD
    assert (forward - backward).abs().max() > 1e-3
    ours.time_FD.zero_()
    forward, backward = ours(clip).pooled_BD, ours(clip.flip(1)).pooled_BD
    torch.testing.assert_close(forward, backward)
    # Longer clips read between the table's rows.
    ours.time_FD.copy_(torch.arange(3.0)[:, None])
    assert ours(clip.repeat(1, 2, 1, 1, 1)).grid == (6, 2, 2)


def test_computing_blocks_twice_changes_no_gradient():
    clip = torch.randn(1, 3, 3, 32, 32)
    found = []
    for checkpoint_activations in (False, True):
        ours = tower(checkpoint_activations=checkpoint_activations).train()
        ours(clip).pooled_BD.square().sum().backward()
        found.append([p.grad for p in ours.parameters() if p.grad is not None])
    assert len(found[0]) > 20
    torch.testing.assert_close(found[0], found[1])


@torch.no_grad()
def test_weights_within_frames_come_from_a_folder_that_is_then_not_needed(tmp_path):
    donor = Vit2dConfig(**SIZES).build(3)
    donor.backbone.save_pretrained(tmp_path)
    ours = TimesformerConfig(pretrained=str(tmp_path), frames=2).build(3).eval()
    torch.testing.assert_close(ours.blocks[1].layer.mlp.fc1.weight,
                               donor.backbone.layers[1].mlp.fc1.weight)  # fmt: skip
    again = ours.portable.build(3).eval()
    again.load_state_dict(ours.state_dict())
    clip = torch.randn(1, 2, 3, 32, 32)
    torch.testing.assert_close(again(clip).pooled_BD, ours(clip).pooled_BD)
    with pytest.raises(ConfigError, match="takes 3 channels, the preprocessing gives 1"):
        TimesformerConfig(pretrained=str(tmp_path)).build(1)


def test_impossible_sizes_are_refused():
    for options, said in (
        ({"heads": 5}, "multiple of 5 heads"),
        ({"size": 40}, "multiple of patch"),
        ({"pool": "cls", "as_surgclip": True}, "set pool to mean"),
    ):
        with pytest.raises(ValueError, match=said):
            TimesformerConfig(**SIZES | options)


TEXT = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8)
FRAMES = FrameEncoderConfig(frame=Vit2dConfig(size=32, patch=16, width=24, depth=1, heads=2))


def two_towers(image, **model):
    torch.manual_seed(0)
    projection = {"image_projection": {"kind": "linear", "bias": True}}
    config = TwoTowerConfig(embed=8, **projection, **model)
    return TwoTower(config, image.build(3), TEXT.build(20, 0)).eval()


@torch.no_grad()
@pytest.mark.parametrize("image", [FRAMES, TimesformerConfig(frames=3, **SIZES)])
def test_a_mean_of_units_gives_the_mean_of_the_parts_cosines(image):
    model = two_towers(image, image_mean="units")
    clip = torch.randn(2, 3, 3, 32, 32)
    features, image_BE, patch_BPE = model.encode_image(clip)
    text_ME = model.embed_text(torch.tensor([[2, 5, 6], [2, 7, 0]]), torch.ones(2, 3).bool())
    frame_BFE = patch_BPE.unflatten(1, (3, 4)).mean(2)
    for b in range(2):
        for m in range(2):
            cosines = F.cosine_similarity(frame_BFE[b], text_ME[m], dim=-1)
            torch.testing.assert_close(image_BE[b] @ text_ME[m], cosines.mean())
    assert bool((image_BE.norm(dim=1) < 1).all())
    assert features.rows(torch.tensor([1])).part_BGD.shape[0] == 1
    usual = two_towers(image).encode_image(clip)[1]
    torch.testing.assert_close(usual, F.normalize(frame_BFE.mean(1), dim=-1))


def test_units_need_a_tower_with_parts():
    for image in (
        TimesformerConfig(pool="cls", **SIZES),
        FrameEncoderConfig(pool="attention", frame=FRAMES.frame),
    ):
        with pytest.raises(ConfigError, match="gives one vector for the whole"):
            two_towers(image, image_mean="units")
    with pytest.raises(ValueError, match="averages parts"):
        TwoTowerConfig(image_mean="units", project_patches_first=True)
