"""The inflated residual network: grids, widths, and what its norm makes of a batch."""

import pytest
import torch

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp_volumetric.encoders.i3d import I3dConfig

SMALL = {"stem": 8, "widths": (8, 8, 8, 16), "blocks": (1, 1, 1, 1)}


def test_the_stem_strides_within_slices_and_stages_along_all_axes():
    torch.manual_seed(0)
    tower = I3dConfig(**SMALL).build(2).eval()
    features = tower(torch.randn(1, 2, 32, 64, 64))
    assert [tuple(level.shape[1:]) for level in features.maps] == [
        (32, 16, 16, 16),
        (32, 8, 8, 8),
        (32, 4, 4, 4),
        (64, 2, 2, 2),
    ]
    assert tower.map_widths == (32, 32, 32, 64)
    assert features.grid == (2, 2, 2)
    torch.testing.assert_close(features.tokens_BPD.mean(1), features.pooled_BD)
    torch.testing.assert_close(features.maps[-1].flatten(2).mT, features.tokens_BPD)


def test_group_norm_keeps_samples_apart_and_gradients_reach_all():
    x = torch.randn(2, 1, 16, 32, 32, generator=torch.Generator().manual_seed(1))
    grads = []
    for again in (False, True):
        torch.manual_seed(0)
        tower = I3dConfig(**SMALL, norm="group", checkpoint_activations=again).build(1)
        both = tower(x).pooled_BD
        both.square().sum().backward()
        grads.append({name: p.grad for name, p in tower.named_parameters()})
    assert all(grad is not None and grad.isfinite().all() for grad in grads[0].values())
    torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(tower(x[1:]).pooled_BD, both[1:], atol=1e-5, rtol=1e-4)


def test_the_defaults_are_an_inflated_resnet_152():
    with torch.device("meta"):
        tower = I3dConfig().build(1)
        features = tower.eval()(torch.empty(1, 1, 160, 224, 224))
    assert features.grid == (10, 7, 7)
    assert features.tokens_BPD.shape == (1, 490, 2048)
    # A kernel of 3x3 becomes a cube: three times the weights of the bottlenecks' middles.
    middles = sum(p.numel() for n, p in tower.named_parameters() if ".cube.weight" in n)
    assert middles == 27 * (3 * 64**2 + 8 * 128**2 + 36 * 256**2 + 3 * 512**2)


@pytest.mark.parametrize("values", [{"stem": 12}, {"widths": [8, 8, 8, 20]}, {"blocks": [1, 1, 1]}])
def test_impossible_towers_are_refused(values):
    with pytest.raises(ConfigError):
        validate(I3dConfig, {"kind": "i3d"} | values, "t")
    config = I3dConfig(**SMALL)
    assert validate(I3dConfig, plain(config), "t") == config
