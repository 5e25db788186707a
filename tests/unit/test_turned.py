"""Towers whose axes run otherwise than ours, and those of learned positions."""

import itertools

import pytest
import torch

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp_volumetric.encoders.turned import TurnedConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig

WAYS = {"S": (0, 1), "I": (0, -1), "P": (1, 1), "A": (1, -1), "L": (2, 1), "R": (2, -1)}
VIT = {"kind": "vit3d", "patch": [2, 4, 4], "width": 24, "depth": 1, "heads": 2}
CODES = [
    "".join(code)
    for pairs in itertools.permutations(["SI", "PA", "LR"])
    for code in itertools.product(*pairs)
]


def build(axes, **values):
    config = validate(TurnedConfig, {"kind": "turned", "axes": axes, "encoder": VIT | values}, "t")
    assert validate(TurnedConfig, plain(config), "t") == config
    torch.manual_seed(0)
    return config.build(1).eval()


@pytest.mark.parametrize("axes", CODES)
def test_the_tower_sees_the_volume_along_its_own_axes(axes):
    tower = build(axes, patch=[2, 2, 2])
    x = torch.randn(2, 1, 4, 6, 8)
    seen = torch.empty(2, 1, *(x.shape[2 + WAYS[letter][0]] for letter in axes))
    for place in itertools.product(*(range(n) for n in seen.shape[2:])):
        ours = [0, 0, 0]
        for k, letter in zip(place, axes, strict=True):
            axis, way = WAYS[letter]
            ours[axis] = k if way > 0 else x.shape[2 + axis] - 1 - k
        seen[:, :, *place] = x[:, :, *ours]
    found, expected = tower(x), tower.encoder(seen)
    torch.testing.assert_close(found.pooled_BD, expected.pooled_BD)
    # Its map lies in our axes again, and its tokens are the map's voxels in raster order.
    assert found.grid == (2, 3, 4)
    (level,) = found.maps
    torch.testing.assert_close(level.flatten(2).mT, found.tokens_BPD)
    for place in itertools.product(*(range(n) for n in expected.grid)):
        ours = [0, 0, 0]
        for k, letter in zip(place, axes, strict=True):
            axis, way = WAYS[letter]
            ours[axis] = k if way > 0 else found.grid[axis] - 1 - k
        torch.testing.assert_close(level[:, :, *ours], expected.maps[0][:, :, *place])


def test_our_own_axes_change_nothing_and_weights_belong_to_the_tower():
    tower = build("SPL")
    x = torch.randn(1, 1, 4, 8, 8)
    assert torch.equal(tower(x).tokens_BPD, tower.encoder(x).tokens_BPD)
    assert tower.within == "encoder"
    assert tower.patch == ()
    assert (tower.width, tower.map_widths) == (24, (24,))


def test_left_out_patches_stay_without_a_grid():
    tower = build("RAS", patch_dropout=0.5).train()
    features = tower(torch.randn(2, 1, 4, 8, 8))
    assert features.grid == (4,)
    assert features.tokens_BPD.shape == (2, 4, 24)
    assert features.maps == ()


@pytest.mark.parametrize("axes", ["SPS", "SPA", "sPL", "SP", "XYZ"])
def test_axes_are_one_of_each(axes):
    with pytest.raises(ConfigError):
        validate(TurnedConfig, {"kind": "turned", "axes": axes, "encoder": VIT}, "t")


def learned(**values):
    torch.manual_seed(0)
    values = {"patch": (2, 4, 4), "width": 20, "depth": 2, "heads": 2} | values
    return Vit3dConfig(positions="learned", grid=(2, 2, 2), **values).build(1).eval()


def test_learned_positions_are_interpolated_on_other_grids():
    tower = learned()
    with torch.no_grad():
        tower.position.copy_(torch.arange(2.0)[:, None, None].expand(tower.position.shape))
    assert torch.equal(tower._positions((2, 2, 2))[0, :, 0], torch.arange(2.0).repeat_interleave(4))
    finer = tower._positions((4, 2, 2))[0, :, 0].view(4, 2, 2)[:, 0, 0]
    torch.testing.assert_close(finer, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert tower(torch.randn(1, 1, 8, 8, 8)).grid == (4, 2, 2)


def test_a_token_in_front_may_stand_for_the_volume():
    tower = learned(pool="cls", patch_dropout=0.5)
    x = torch.randn(2, 1, 4, 8, 8)
    features = tower(x)
    assert features.tokens_BPD.shape == (2, 8, 20)
    assert not torch.allclose(features.pooled_BD, features.tokens_BPD.mean(1), atol=1e-3)
    # By hand: the token in front has no position.
    patches = tower.embed(x).flatten(2).mT + tower.position.flatten(2).mT
    tokens = torch.cat([tower.cls_token.expand(2, 1, 20), patches], 1)
    for block in tower.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(features.pooled_BD, tower.norm(tokens)[:, 0])
    kept = tower.train()(x)
    assert kept.tokens_BPD.shape == (2, 4, 20)
    kept.pooled_BD[:, 0].sum().backward()  # the sum over all is fixed by the last norm
    assert tower.cls_token.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "values", [{"positions": "learned"}, {"grid": (1, 1, 1)}, {"width": 20, "heads": 2}]
)
def test_positions_and_sizes_belong_together(values):
    with pytest.raises(ConfigError):
        validate(Vit3dConfig, {"kind": "vit3d"} | values, "t")
