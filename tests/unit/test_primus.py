"""The rotary 3D tower: positions, blocks, and a pooler whose tokens mean what it pools."""

import math

import pytest
import torch
import torch.nn.functional as F

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp.models.patch_dropout import keeping
from medvlp.models.pooling import AttentionPool
from medvlp_volumetric.encoders.primus import (
    PrimusConfig,
    RotaryBlock,
    patch_grid,
    rotary_angles,
    turned,
)
from medvlp_volumetric.encoders.vit3d import Vit3dConfig

SMALL = {"patch": (4, 8, 8), "width": 24, "depth": 3, "heads": 2}
GRID = (2, 3, 4)
PLACES = [(d, h, w) for d in range(2) for h in range(3) for w in range(4)]


def double(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned_loop(vector, place, pairs, base=10_000.0):
    """One head's channels, pair by pair of each axis, by a rotation of the plane."""
    out = vector.clone()
    for axis, coordinate in enumerate(place):
        for r in range(pairs):
            angle = coordinate * base ** (-r / pairs)
            i = 2 * (axis * pairs + r)
            x, y = vector[i], vector[i + 1]
            out[i] = x * math.cos(angle) - y * math.sin(angle)
            out[i + 1] = x * math.sin(angle) + y * math.cos(angle)
    return out


def test_each_axis_turns_its_own_pairs_of_channels():
    x = double(1, 2, 24, 12)
    found = turned(x, rotary_angles(GRID, 12).double())
    for n in range(2):
        for p, place in enumerate(PLACES):
            expected = turned_loop(x[0, n, p], place, 2)
            torch.testing.assert_close(found[0, n, p], expected, rtol=0, atol=1e-6)


def test_products_depend_on_differences_of_positions_alone():
    query, key = double(12), double(12, seed=1)
    grid = (5, 6, 7)
    angle = rotary_angles(grid, 12).double().view(*grid, -1)

    def product(at, other):
        return (turned(query, angle[at]) * turned(key, angle[other])).sum().item()

    expected = product((0, 1, 2), (2, 0, 3))
    for d, h, w in ((1, 1, 0), (2, 5, 3), (0, 2, 5)):
        assert product((d, h, w), (d + 2, h - 1, w + 1)) == pytest.approx(expected, abs=1e-5)
    assert product((0, 1, 2), (2, 0, 4)) != pytest.approx(expected, abs=1e-3)


def block_loop(block, x_PE, places):
    """A rotary block of one sample, token by token, in evaluation."""
    heads, width = block.heads, x_PE.shape[1]
    head = width // heads
    normed = block.attention_norm(x_PE)
    query, key, value = block.query_key_value(normed).chunk(3, -1)
    rows = []
    for p, place in enumerate(places):
        found = []
        for n in range(heads):
            part = slice(n * head, (n + 1) * head)
            asked = turned_loop(query[p, part], place, head // 6)
            logits = torch.stack(
                [
                    asked @ turned_loop(key[q, part], other, head // 6) / math.sqrt(head)
                    for q, other in enumerate(places)
                ]
            )
            weights = logits.exp() / logits.exp().sum()
            found.append(sum(weights[q] * value[q, part] for q in range(len(places))))
        rows.append(x_PE[p] + block.attention_scale * block.attention_out(torch.cat(found)))
    x_PE = torch.stack(rows)
    gate, value = block.mlp_in(block.mlp_norm(x_PE)).chunk(2, -1)
    hidden = block.hidden_norm(gate / (1 + (-gate).exp()) * value)
    return x_PE + block.mlp_scale * block.mlp_out(hidden)


def test_a_block_of_kept_tokens_is_attention_among_their_own_places():
    torch.manual_seed(0)
    block = RotaryBlock(24, 2, 16, layer_scale=0.3, drop_path=0.5).double().eval()
    kept = torch.tensor([[0, 5, 6, 23], [1, 2, 11, 17]])
    x = double(2, 4, 24)
    found = block(x, rotary_angles(GRID, 12).double()[kept][:, None])
    for b in range(2):
        expected = block_loop(block, x[b], [PLACES[p] for p in kept[b].tolist()])
        torch.testing.assert_close(found[b], expected, rtol=0, atol=1e-6)


def test_the_tower_sees_the_patches_that_it_is_given_where_they_lie():
    torch.manual_seed(0)
    tower = PrimusConfig(**SMALL, pool="mean").build(1).double().eval()
    image = double(2, 1, 8, 24, 32)
    kept = torch.tensor([[0, 5, 6, 23], [1, 2, 11, 17]])
    with keeping(tower, kept):
        some = tower(image)
    assert (some.grid, some.maps) == ((4,), ())
    angle = rotary_angles(GRID, 12)
    patches = tower.embed(image).flatten(2).transpose(1, 2)
    for b in range(2):
        x = patches[b, kept[b]][None]
        for block in tower.blocks:
            x = block(x, angle[kept[b]])
        torch.testing.assert_close(some.tokens_BPD[b : b + 1], tower.norm(x))
    # Seeing every patch is seeing the volume, and the choice does not outlive its block.
    with keeping(tower, torch.arange(24).expand(2, -1)):
        every = tower(image)
    torch.testing.assert_close(every.tokens_BPD, tower(image).tokens_BPD)
    assert tower(image).grid == GRID
    with pytest.raises(ConfigError, match="as a whole"), keeping(tower.embed, kept):
        pass


def test_patch_dropout_turns_what_stays_by_its_own_place():
    torch.manual_seed(0)
    tower = PrimusConfig(**SMALL, patch_dropout=0.75, drop_path=0.0).build(1).train()
    seen = []
    tower.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs))
    image = torch.randn(2, 1, 8, 24, 32)
    tower(image)
    tower.eval()(image)
    (some, angles), (every, angle) = seen
    assert some.shape[1] == 6
    for b in range(2):
        match = torch.cdist(some[b], every[b]).argmin(1)
        assert (match.diff() > 0).all()
        torch.testing.assert_close(angles[b, 0], angle[match])


def test_scales_of_zero_change_nothing_and_skipping_is_right_on_the_average():
    torch.manual_seed(0)
    block = RotaryBlock(24, 2, 16, drop_path=0.4)
    x, angle = torch.randn(1, 24, 24), rotary_angles(GRID, 12)
    expected = block.eval()(x, angle)
    torch.testing.assert_close(block(x, angle), expected)
    block.train()
    # Only the perceptron adds: then a sample's result is one of two.
    torch.nn.init.zeros_(block.attention_scale)
    added = block.eval()(x, angle) - x
    found = block.train()(x.expand(1000, -1, -1), angle) - x
    skipped = found.flatten(1).abs().amax(1) == 0
    assert skipped.float().mean() == pytest.approx(0.4, abs=0.05)
    torch.testing.assert_close(found[~skipped][0], added[0] / 0.6, rtol=1e-4, atol=1e-6)
    torch.nn.init.zeros_(block.mlp_scale)
    torch.testing.assert_close(block(x, angle), x)


def test_drop_path_grows_with_depth_and_evaluation_repeats():
    tower = PrimusConfig(**SMALL, drop_path=0.2, layer_scale=0.1).build(1)
    assert [block.drop_path for block in tower.blocks] == pytest.approx([0.0, 0.1, 0.2])
    assert all((block.mlp_scale == 0.1).all() for block in tower.blocks)
    image = torch.randn(3, 1, 8, 16, 16)
    first = tower.train()(image).pooled_BD
    assert not torch.equal(tower(image).pooled_BD, first)
    first = tower.eval()(image).pooled_BD
    assert torch.equal(tower(image).pooled_BD, first)
    torch.testing.assert_close(tower(image[1:2]).pooled_BD, first[1:2])


def test_the_pooler_is_attention_of_the_mean_token():
    torch.manual_seed(0)
    pool = AttentionPool(24, 4).double()
    reference = torch.nn.MultiheadAttention(24, 4, batch_first=True).double()
    with torch.no_grad():
        parts = (pool.query, pool.key, pool.value)
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.load_state_dict(pool.out.state_dict())
    x = double(2, 7, 24)
    pooled, tokens = pool(x)
    expected, _ = reference(x.mean(1, keepdim=True), x, x)
    torch.testing.assert_close(pooled, expected[:, 0])
    # A patch alone is pooled to its token.
    torch.testing.assert_close(pool(x[:, 3:4])[0], tokens[:, 3])
    assert not torch.allclose(pooled, tokens.mean(1), atol=1e-4)


def test_under_even_attention_the_mean_of_the_tokens_is_the_pooled_vector():
    pool = AttentionPool(24, 4).double()
    torch.nn.init.zeros_(pool.query.weight)
    torch.nn.init.zeros_(pool.query.bias)
    pooled, tokens = pool(double(2, 7, 24))
    torch.testing.assert_close(tokens.mean(1), pooled)


def test_tokens_are_the_map_through_the_poolers_value_and_output():
    torch.manual_seed(0)
    tower = PrimusConfig(**SMALL).build(2).eval()
    features = tower(torch.randn(2, 2, 8, 24, 32))
    assert features.grid == GRID
    assert features.pooled_BD.shape == (2, tower.width)
    x = features.maps[-1]
    for linear in (tower.pool.value, tower.pool.out):
        x = F.conv3d(x, linear.weight[..., None, None, None], linear.bias)
    torch.testing.assert_close(features.tokens_BPD, x.flatten(2).transpose(1, 2))


def test_gradients_reach_every_parameter_and_are_those_of_blocks_computed_once():
    towers = []
    for again in (False, True):
        torch.manual_seed(0)
        config = PrimusConfig(**SMALL, drop_path=0.3, checkpoint_activations=again)
        towers.append(config.build(1))
    torch.manual_seed(1)
    image = torch.randn(2, 1, 8, 16, 16)
    for tower in towers:
        torch.manual_seed(2)
        tower(image).pooled_BD.square().sum().backward()
    grads = [{name: p.grad for name, p in tower.named_parameters()} for tower in towers]
    assert all(grad is not None and grad.isfinite().all() for grad in grads[0].values())
    torch.testing.assert_close(grads[1], grads[0])


def test_the_defaults_are_the_published_sizes():
    with torch.device("meta"):
        tower = PrimusConfig().build(1)
    assert (tower.width, len(tower.blocks), tower.blocks[0].heads) == (864, 16, 12)
    assert patch_grid((192, 192, 192), tower.patch) == (24, 24, 24)
    assert 140e6 < sum(p.numel() for p in tower.parameters()) < 150e6
    assert tower.patch == (8, 8, 8)
    assert Vit3dConfig().build(1).patch == (8, 16, 16)


@pytest.mark.parametrize("values", [{"width": 864, "heads": 10}, {"drop_path": 1.0}, {"depth": 0}])
def test_impossible_towers_are_refused(values):
    with pytest.raises(ConfigError):
        validate(PrimusConfig, values, "t")
    config = PrimusConfig(**SMALL)
    assert validate(PrimusConfig, plain(config), "t") == config


def test_a_volume_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="multiple of the patch"):
        PrimusConfig(**SMALL).build(1)(torch.randn(1, 1, 8, 20, 32))
