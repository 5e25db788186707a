"""Slice pooling: a literal loop, and what a volume's features must not depend on."""

import math
import typing

import pytest
import torch
from torch import nn

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp.models.image2d import CORE_ENCODERS, ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.parts import places
from medvlp_volumetric.encoders.slices import Encoder2d, SlicesConfig

FLAT = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
POSITIONS = ["sinusoidal", "mlp", "none"]


def build(**options):
    torch.manual_seed(0)
    tower = SlicesConfig(**{"encoder": FLAT, "heads": 2, "depth": 2} | options).build(3).double()
    for parameter in tower.score.parameters():  # so that slices do not all weigh the same
        nn.init.normal_(parameter)
    return tower


def volume(depth, seed=0, mm=5.0):
    """(3,D,16,16): two windows and places."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(2, depth, 16, 16, generator=draw, dtype=torch.float64)
    place = (torch.arange(depth, dtype=torch.float64) - (depth - 1) / 2) * mm
    return torch.cat([values, place[None, :, None, None].expand(1, -1, 16, 16)])


def batch(*volumes, depth=None):
    """Volumes as one batch; slices that are not there are NaN."""
    depth = depth or max(v.shape[1] for v in volumes)
    out = torch.full((len(volumes), 3, depth, 16, 16), torch.nan, dtype=torch.float64)
    for row, one in zip(out, volumes, strict=True):
        row[:, : one.shape[1]] = one
    return out


def place_vector(tower, mm, width):
    """The position of one place, written out."""
    if tower.place is None:
        return torch.zeros(width, dtype=torch.float64)
    if hasattr(tower.place, "layers"):
        one, _, two = tower.place.layers
        hidden = nn.functional.gelu(one.weight[:, 0] * (mm / 100) + one.bias)
        return two.weight @ hidden + two.bias
    count = width // 2
    lengths = [10.0 * 200.0 ** (i / (count - 1)) for i in range(count)]
    angles = [2 * math.pi * mm / length for length in lengths]
    waves = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return torch.tensor(waves, dtype=torch.float64)


def literal(tower, one):
    """Pooled vector, tokens and shares of one volume (C+1,D,H,W), slice by slice, head by head."""
    depth, width = one.shape[1], tower.width
    seen = [tower.encoder(one[:-1, d][None]) for d in range(depth)]
    vectors = [features.pooled_BD[0] for features in seen]
    rows = [v + place_vector(tower, float(one[-1, d, 0, 0]), width) for d, v in enumerate(vectors)]
    for layer in tower.layers:
        normal = [layer.norm(row) for row in rows]
        weight, bias = layer.attention.in_proj_weight, layer.attention.in_proj_bias
        asked, keys, values = (
            [w @ n + b for n in normal] for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)
        )
        told = []
        for query in asked:
            heads = []
            for part in range(2):
                mine = slice(part * width // 2, (part + 1) * width // 2)
                logits = torch.stack([query[mine] @ key[mine] for key in keys])
                looks = (logits / math.sqrt(width // 2)).softmax(0)
                heads.append(sum(a * v[mine] for a, v in zip(looks, values, strict=True)))
            told.append(layer.attention.out_proj(torch.cat(heads)))
        rows = [row + t for row, t in zip(rows, told, strict=True)]
    shares = torch.stack([tower.score(row)[0] for row in rows]).softmax(0)
    pooled = sum(share * row for share, row in zip(shares, rows, strict=True))
    tokens = [f.tokens_BPD[0] + (row - v) for f, row, v in zip(seen, rows, vectors, strict=True)]
    return pooled, torch.cat(tokens), shares


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_ragged_batch_is_the_literal_loop_and_so_is_its_gradient(positions):
    tower = build(positions=positions)
    volumes = [volume(3, 1), volume(1, 2), volume(5, 3)]
    features = tower(batch(*volumes))
    expected = [literal(tower, one) for one in volumes]
    for b, (pooled, tokens, shares) in enumerate(expected):
        torch.testing.assert_close(features.pooled_BD[b], pooled)
        torch.testing.assert_close(features.share_BD[b, : len(shares)], shares)
        torch.testing.assert_close(features.tokens_BPD[b][features.mask_BP[b]], tokens)
        assert not features.tokens_BPD[b][~features.mask_BP[b]].any()
    weights = [w for w in tower.parameters() if w.requires_grad]
    draw = torch.randn(tower.width, dtype=torch.float64)
    found = torch.autograd.grad(
        (features.pooled_BD @ draw).sum() + features.tokens_BPD.square().sum(), weights
    )
    loop = sum(p @ draw + t.square().sum() for p, t, _ in expected)
    for ours, theirs in zip(found, torch.autograd.grad(loop, weights), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("training", [False, True])
def test_nothing_depends_on_padding_or_on_the_other_volumes(training):
    tower = build().train(training)
    volumes = [volume(depth, depth) for depth in (4, 1, 6)]
    together = tower(batch(*volumes, depth=9))
    for b, one in enumerate(volumes):
        alone = tower(batch(one))
        torch.testing.assert_close(together.pooled_BD[b], alone.pooled_BD[0])
        kept = together.tokens_BPD[b][together.mask_BP[b]]
        torch.testing.assert_close(kept, alone.tokens_BPD[0])
        assert alone.mask_BP.all()
    torch.testing.assert_close(together.share_BD.sum(1), torch.ones(3, dtype=torch.float64))
    assert not together.share_BD[1, 1:].any()
    assert together.rows(torch.tensor([1])).mask_BP.sum() == alone.grid[1] * alone.grid[2]


def test_only_slices_that_are_there_are_encoded():
    tower, seen = build(), []
    tower.encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    tower(batch(volume(2), volume(7), depth=40))
    assert seen == [9]
    with torch.no_grad():  # where nothing is learnt, a few at a time
        small = build(at_once=4).eval()
        small.encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        torch.testing.assert_close(
            small(batch(volume(2), volume(7))).pooled_BD,
            tower(batch(volume(2), volume(7))).pooled_BD,
        )
    assert seen[1:] == [4, 4, 1, 9]


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_order_of_slices_means_nothing_when_places_go_along(positions):
    tower = build(positions=positions)
    one = volume(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plainly, shuffled = tower(batch(one)), tower(batch(one[:, order]))
    torch.testing.assert_close(shuffled.pooled_BD, plainly.pooled_BD)
    torch.testing.assert_close(shuffled.share_BD[0], plainly.share_BD[0, order])
    # Places that stay behind do change it, unless they are not looked at.
    one[:2] = one[:2, order].clone()
    moved = tower(batch(one)).pooled_BD
    assert torch.allclose(moved, plainly.pooled_BD) == (positions == "none")


def test_millimetres_count_and_not_the_number_of_a_slice():
    tower = build()
    coarse = volume(3, mm=10.0)
    assert not torch.allclose(tower(batch(volume(3))).pooled_BD, tower(batch(coarse)).pooled_BD)
    # Every second slice of 5 mm lies where the slices of 10 mm do.
    fine = volume(5)
    fine[:2, ::2] = coarse[:2]
    torch.testing.assert_close(tower(batch(fine[:, ::2])).pooled_BD, tower(batch(coarse)).pooled_BD)


def test_a_slice_s_tokens_average_to_its_vector_and_shares_to_the_volume_s():
    tower = build()
    features = tower(batch(volume(4)))
    assert features.grid == (4, *features.maps[-1].shape[3:])
    slices = features.tokens_BPD[0].unflatten(0, (4, -1)).mean(1)
    torch.testing.assert_close(features.share_BD[0] @ slices, features.pooled_BD[0])
    torch.testing.assert_close(features.maps[-1].flatten(2).transpose(1, 2), features.tokens_BPD)
    alone = build(tokens="slice")(batch(volume(4)))
    assert alone.grid == (4, 1, 1)
    torch.testing.assert_close(alone.tokens_BPD[0], slices)
    torch.testing.assert_close(alone.pooled_BD, features.pooled_BD)


def test_patches_that_stand_for_nothing_are_zero_in_the_joint_space():
    towers = build().float(), TextTowerConfig(width=16, depth=1, heads=2).build(40, 0)
    model = TwoTower(TwoTowerConfig(embed=8, project_patches_first=True), *towers)
    model.image_projection = nn.Linear(16, 8)  # a bias would make something of nothing
    image = batch(volume(2), volume(5)).float()
    features, image_BE, patch_BPE = model.encode_image(image)
    assert not patch_BPE[~features.mask_BP].any()
    assert patch_BPE[features.mask_BP].any(1).all()
    torch.testing.assert_close(model.encode_image(image[:1, :, :2])[1], image_BE[:1])


def test_every_2d_tower_of_the_core_can_be_taken():
    union = typing.get_args(typing.get_args(Encoder2d)[0])
    assert set(union) == {c for kind, c in CORE_ENCODERS.items() if kind != "none"}
    clip = {
        "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    vit = {"kind": "vit", "size": 16, "patch": 8, "width": 16, "depth": 1, "heads": 2}
    for encoder in ({"kind": "clip-vision", "architecture": clip}, vit | {"patch_dropout": 0.5}):
        config = validate(SlicesConfig, {"encoder": encoder, "heads": 2}, "t")
        assert validate(SlicesConfig, plain(config), "t") == config
        # Three channels for CLIP's kernels, and the places.
        channels = 3 if encoder["kind"] == "clip-vision" else 1
        image = torch.cat([volume(3)[:1].expand(channels, -1, -1, -1), volume(3)[2:]])[None].float()
        tower = config.build(channels + 1).train()
        features = tower(image)
        kept = 2 if encoder.get("patch_dropout") else 4
        assert features.tokens_BPD.shape == (1, 3 * kept, 16)
        assert bool(features.maps) == (kept == 4)
        assert tower.eval()(image).grid == (3, 2, 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"image\.heads: 3 does not divide the width 16"):
        build(heads=3)
    stage = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group", token_stage=-2)
    with pytest.raises(ConfigError, match="tokens have width 8"):
        build(encoder=stage)
    assert build(encoder=stage, tokens="slice").width == 16


def test_the_2d_tower_is_the_stem_that_can_be_frozen():
    model = nn.ModuleDict({"image": build(positions="mlp")})
    found = places(nn.ModuleDict({"model": model, "objectives": nn.ModuleDict()}))
    parts = {name.split(".")[2]: place.part for name, place in found.items()}
    assert parts == {
        "encoder": "image.stem", "layers": "image.layers", "place": "image.top",
        "score": "image.top",
    }  # fmt: skip


def test_mean_pooling_is_the_plain_mean_of_the_slices_and_knows_no_places():
    tower = SlicesConfig(encoder=FLAT, pool="mean").build(3).double().eval()
    one, other = volume(5), volume(3, seed=1)
    features = tower(batch(one, other))
    for row, given in enumerate((one, other)):
        slices = tower.encoder(given[:2].transpose(0, 1)).pooled_BD
        torch.testing.assert_close(features.pooled_BD[row], slices.mean(0))
    torch.testing.assert_close(features.share_BD[1, :3], torch.full((3,), 1 / 3).double())
    assert not features.share_BD[1, 3:].any()
    moved = batch(one, other)
    moved[:, 2] *= 2
    torch.testing.assert_close(tower(moved).pooled_BD, features.pooled_BD)
