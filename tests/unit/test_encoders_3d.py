import subprocess
import sys

import pytest
import torch

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig, sincos_positions

RESNET = ResNet3dConfig(widths=(8, 16, 16, 24), blocks=(1, 1, 1, 1), stem_kernel=3)
VIT = Vit3dConfig(patch=(4, 8, 8), width=24, depth=2, heads=2)


@pytest.fixture(params=[RESNET, VIT], ids=["resnet3d", "vit3d"])
def config(request):
    return request.param


def encode(config, image, channels=1):
    torch.manual_seed(0)
    return config.build(channels).eval()(image)


def test_shapes_are_those_of_the_contract(config):
    features = encode(config, torch.randn(2, 3, 16, 32, 32), channels=3)
    d, h, w = features.grid
    assert features.pooled_BD.shape == (2, 24)
    assert features.tokens_BPD.shape == (2, d * h * w, 24)
    assert features.maps[-1].shape == (2, 24, d, h, w)
    assert config.build(3).width == 24


def test_pooled_is_the_mean_of_the_tokens_in_raster_order(config):
    features = encode(config, torch.randn(2, 1, 16, 32, 32))
    torch.testing.assert_close(features.pooled_BD, features.tokens_BPD.mean(dim=1))
    torch.testing.assert_close(features.tokens_BPD, features.maps[-1].flatten(2).transpose(1, 2))


def test_maps_run_from_fine_to_coarse():
    features = encode(RESNET, torch.randn(1, 1, 32, 32, 32))
    assert [tuple(m.shape[1:]) for m in features.maps] == [
        (8, 16, 16, 16),
        (16, 8, 8, 8),
        (16, 4, 4, 4),
        (24, 2, 2, 2),
    ]


def test_a_sample_s_features_do_not_depend_on_its_batch(config):
    torch.manual_seed(1)
    encoder = config.build(1)  # in training mode: batch statistics would differ
    image = torch.randn(3, 1, 16, 32, 32)
    together = encoder(image).pooled_BD
    alone = encoder(image[1:2]).pooled_BD
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_parameter(config):
    encoder = config.build(1)
    encoder(torch.randn(2, 1, 16, 32, 32)).pooled_BD.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_both_learn_to_tell_two_volumes_apart(config):
    torch.manual_seed(0)
    encoder = config.build(1)
    head = torch.nn.Linear(24, 1)
    image = torch.zeros(4, 1, 16, 32, 32)
    image[:2, :, :8] = 1  # bright at the feet, or at the head
    image[2:, :, 8:] = 1
    target = torch.tensor([0.0, 0, 1, 1])
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 3e-3)
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            head(encoder(image).pooled_BD)[:, 0], target
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


def test_positions_are_distinct_and_take_any_grid():
    for grid in ((2, 3, 4), (5, 1, 7)):
        positions = sincos_positions(grid, 24)
        assert positions.shape == (grid[0] * grid[1] * grid[2], 24)
        assert len(torch.unique(positions, dim=0)) == len(positions)
    # First axis, first rate is 1: sin(d) at width 0, for d = 1 of the grid (2,1,1).
    assert sincos_positions((2, 1, 1), 6)[1, 0] == pytest.approx(0.8414710)


def test_a_volume_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="multiple of the patch"):
        encode(VIT, torch.randn(1, 1, 15, 32, 32))


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (ResNet3dConfig, {"widths": [10, 16, 32, 64]}),
        (ResNet3dConfig, {"blocks": [0, 1, 1, 1]}),
        (Vit3dConfig, {"width": 32}),
        (Vit3dConfig, {"width": 30, "heads": 4}),
    ],
)
def test_impossible_towers_are_refused(schema, values):
    with pytest.raises(ConfigError):
        validate(schema, values, "t")


def test_configs_survive_yaml(config):
    assert validate(type(config), plain(config), "t") == config


def test_the_schema_does_not_import_monai():
    names = ("resnet3d", "slices", "swin3d", "vit3d")
    imports = ", ".join(f"medvlp_volumetric.encoders.{name}" for name in names)
    code = f"import sys, {imports}; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mean_and_max_are_added_where_asked_for():
    image = torch.randn(2, 1, 16, 32, 32)
    options = {"widths": RESNET.widths, "blocks": RESNET.blocks, "stem_kernel": 3}
    features = encode(ResNet3dConfig(pool="mean+max", **options), image)
    tokens = features.tokens_BPD
    torch.testing.assert_close(features.pooled_BD, tokens.mean(dim=1) + tokens.amax(dim=1))


def test_one_kind_of_norm_throughout():
    kinds = {"batch": torch.nn.BatchNorm3d, "group": torch.nn.GroupNorm}
    for norm, other in (("batch", "group"), ("group", "batch")):
        config = ResNet3dConfig(
            widths=(8, 16, 16, 24), blocks=(2, 1, 1, 1), stem_kernel=3, norm=norm
        )
        modules = list(config.build(1).modules())
        assert not any(isinstance(m, kinds[other]) for m in modules)
        # A norm for each convolution: stem, two in each of five blocks, three shortcuts.
        assert sum(isinstance(m, kinds[norm]) for m in modules) == 1 + 10 + 3
