"""The 3D Swin tower: MONAI's own values, the shapes that objectives count on, and its bounds."""

import warnings

import pytest
import torch

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp.train.parts import places
from medvlp_volumetric.encoders.swin3d import Swin3dConfig

SMALL = {"embed": 6, "depths": (2, 1, 2, 1), "heads": (1, 2, 2, 3), "window": (3, 3, 3)}


def rearrange(values, pattern):
    """What MONAI asks einops for: an order of axes."""
    before, after = (side.split() for side in pattern.split("->"))
    return values.permute([before.index(name) for name in after])


def test_values_are_those_of_monai_s_own_tower(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import swin_unetr
    monkeypatch.setattr(swin_unetr, "rearrange", rearrange)
    torch.manual_seed(0)
    tower = Swin3dConfig(**SMALL).build(2).eval()
    theirs = swin_unetr.SwinTransformer(
        in_chans=2, embed_dim=6, window_size=(3, 3, 3), patch_size=(2, 2, 2),
        depths=SMALL["depths"], num_heads=SMALL["heads"],
    ).eval()  # fmt: skip
    names, values = theirs.state_dict(), tower.state_dict().values()
    theirs.load_state_dict(dict(zip(names, values, strict=True)))
    image = torch.randn(2, 2, 30, 22, 17)  # fills no window and no pair everywhere
    with torch.no_grad():
        features, expected = tower(image), theirs(image)
    assert [tuple(m.shape[2:]) for m in features.maps][:3] == [(15, 11, 9), (8, 6, 5), (4, 3, 3)]
    torch.testing.assert_close(list(features.maps), expected, rtol=0, atol=0)
    torch.testing.assert_close(features.tokens_BPD, expected[-1].flatten(2).transpose(1, 2))
    torch.testing.assert_close(features.pooled_BD, expected[-1].flatten(2).mean(2))


def test_velvet_med_s_sizes():
    tower = Swin3dConfig().build(1)
    assert tower.map_widths == (48, 96, 192, 384, 768)
    assert [len(stage.blocks) for stage in tower.stages] == [2, 8, 8, 8]
    assert [stage.blocks[0].attn.num_heads for stage in tower.stages] == [4, 8, 16, 32]
    # 96³ voxels give 48³, 24³, 12³, 6³ and 3³; an eighth of that keeps the test short.
    with torch.no_grad():
        features = tower.eval()(torch.randn(1, 1, 16, 16, 16))
    assert [m.shape[2] for m in features.maps] == [8, 4, 2, 1, 1]
    assert tuple(m.shape[1] for m in features.maps) == tower.map_widths
    assert features.grid == (1, 1, 1)


def test_a_sample_s_features_do_not_depend_on_its_batch_and_gradients_reach_all():
    torch.manual_seed(0)
    tower = Swin3dConfig(**SMALL).build(1)
    image = torch.randn(3, 1, 16, 16, 16)
    together = tower(image).pooled_BD
    torch.testing.assert_close(together[1:2], tower(image[1:2]).pooled_BD, atol=1e-5, rtol=1e-4)
    together.square().sum().backward()
    lacking = [n for n, p in tower.named_parameters() if p.grad is None or not p.grad.any()]
    # In the last stage the grid is one patch: nothing is asked for there but the patch itself.
    assert all("stages.3" in name or "stages.2" in name for name in lacking)


def test_stages_are_the_layers_that_can_be_frozen():
    model = torch.nn.ModuleDict({"image": Swin3dConfig(**SMALL).build(1)})
    found = places(torch.nn.ModuleDict({"model": model, "objectives": torch.nn.ModuleDict()}))
    assert {(p.part, p.layer) for p in found.values()} == {
        ("image.stem", 0), *(("image.layers", k) for k in range(4)),
    }  # fmt: skip


def test_stochastic_depth_grows_from_block_to_block():
    blocks = [b for s in Swin3dConfig(**SMALL, drop_path=0.5).build(1).stages for b in s.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_config_survives_yaml_and_refuses_heads_that_do_not_fit():
    config = Swin3dConfig(**SMALL)
    assert validate(Swin3dConfig, plain(config), "t") == config
    with pytest.raises(ConfigError, match="stage 2 has 24 channels, no multiple of 5"):
        validate(Swin3dConfig, {"embed": 12, "heads": [3, 5, 6, 6]}, "t")
