"""CT-ViT: what its blocks see of a volume, its code book, and its pooling by places."""

import pytest
import torch
import torch.nn.functional as F

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp_volumetric.encoders.ctvit import Block, CtvitConfig, PositionBias

SMALL = {"patch": (2, 4, 4), "width": 24, "within": 1, "across": 1, "heads": 2, "head": 8}


def build(**values):
    torch.manual_seed(0)
    return CtvitConfig(**SMALL | values).build(1)


def test_pooled_is_the_mean_of_the_tokens_in_raster_order():
    tower = build().eval()
    features = tower(torch.randn(2, 1, 6, 8, 12))
    assert features.grid == (3, 2, 3)
    torch.testing.assert_close(features.pooled_BD, features.tokens_BPD.mean(1))
    torch.testing.assert_close(features.maps[0].flatten(2).mT, features.tokens_BPD)
    torch.testing.assert_close(tower(torch.zeros(2, 1, 6, 8, 12)).pooled_BD[0],
                               tower(torch.zeros(1, 1, 6, 8, 12)).pooled_BD[0])  # fmt: skip


@pytest.mark.parametrize(("published", "same"), [(False, True), (True, False)])
def test_a_column_s_convolution_reads_neighbours_in_the_volume(published, same):
    config = CtvitConfig(**SMALL, published_order=published)
    torch.manual_seed(0)
    block = Block(config, columns=not published)
    x = torch.randn(2, 3, 2, 4, 24)  # B, D, H, W, E
    expected = block.position(F.pad(x.movedim(4, 1), (1, 1, 1, 1, 2, 0))).movedim(1, 4)
    columns = x.permute(0, 2, 3, 1, 4).reshape(-1, 3, 24)
    found = block._placed(columns, (2, 3, 2, 4)).view(2, 2, 4, 3, 24).permute(0, 3, 1, 2, 4)
    assert torch.allclose(found, expected, atol=1e-6) == same
    # Either way no sample reads another.
    changed = columns.clone()
    changed[8:] = 0
    torch.testing.assert_close(block._placed(changed, (2, 3, 2, 4))[:8],
                               block._placed(columns, (2, 3, 2, 4))[:8])  # fmt: skip


def test_the_position_bias_is_a_function_of_the_offset():
    torch.manual_seed(0)
    bias = PositionBias(8, 2)
    found = bias(3, 4)
    assert found.shape == (2, 12, 12)
    for a in range(12):
        for b in range(12):
            offset = torch.tensor([a // 4 - b // 4, a % 4 - b % 4]).float()
            expected = bias.layers(offset.sign() * (offset.abs() + 1).log())
            torch.testing.assert_close(found[:, a, b], expected)


def test_tokens_become_the_nearest_codes_and_gradients_pass():
    tower = build(codes=5)
    features = tower.eval()(torch.randn(1, 1, 4, 8, 8))
    distances = torch.cdist(features.tokens_BPD[0], tower.codes)
    assert distances.amin(1).max() < 1e-5
    features.pooled_BD.sum().backward()
    assert tower.embed[1].weight.grad.abs().sum() > 0
    assert "codes" in tower.state_dict()
    assert "codes" not in build().state_dict()


def test_places_have_matrices_whose_mean_is_the_pooled_vector():
    tower = build(pool="places", grid=(2, 2), embed=7).eval()
    features = tower(torch.randn(2, 1, 6, 8, 8))
    assert features.pooled_BD.shape == (2, tower.width) == (2, 7)
    torch.testing.assert_close(features.tokens_BPD.mean(1), features.pooled_BD)
    slab = features.maps[0].mean(2).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(features.pooled_BD, slab @ tower.places.weight.T)
    with pytest.raises(ValueError, match=r"takes \(2, 2\)"):
        tower(torch.randn(1, 1, 6, 8, 12))


def test_gradients_reach_every_parameter_and_are_those_of_blocks_computed_once():
    grads = []
    for again in (False, True):
        tower = build(checkpoint_activations=again).train()
        torch.manual_seed(1)
        tower(torch.randn(2, 1, 4, 8, 8)).pooled_BD.square().sum().backward()
        grads.append({name: p.grad for name, p in tower.named_parameters()})
    assert all(grad is not None and grad.isfinite().all() for grad in grads[0].values())
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("values", [{"pool": "places"}, {"grid": [2, 2]}, {"codes": 0}])
def test_impossible_towers_are_refused(values):
    with pytest.raises(ConfigError):
        validate(CtvitConfig, {"kind": "ctvit"} | values, "t")
    config = CtvitConfig(**SMALL)
    assert validate(CtvitConfig, plain(config), "t") == config
