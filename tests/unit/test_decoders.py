"""Heads on towers of every kind: shapes, gradients, and samples that do not see each other."""

import numpy as np
import pytest
import torch

from medvlp.evaluate.heads.decoders import Shapes, build_head, levels_of
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig

TOWERS = {
    "resnet": (
        ResNet2dConfig(depths=(1, 1, 1), widths=(8, 16, 24), stem=8, norm="group"), (41, 36),
    ),
    "vit": (Vit2dConfig(size=32, patch=8, width=16, depth=4, heads=2), (32, 32)),
    "resnet3d": (
        ResNet3dConfig(widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1), stem_kernel=3), (17, 20, 24),
    ),
    "vit3d": (Vit3dConfig(patch=(4, 8, 8), width=24, depth=1, heads=2), (8, 16, 24)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["unet", "upernet", "swinunetr"])
@pytest.mark.parametrize("name", TOWERS)
def test_a_head_gives_a_logit_to_every_pixel_of_any_tower(kind, name):
    torch.manual_seed(0)
    config, shape = TOWERS[name]
    tower = config.build(1).eval()
    image = torch.randn(2, 1, *shape)
    with torch.no_grad():
        levels = levels_of(tower(image))
    head = build_head(kind, Shapes.of(image, levels), 16, [0.1, 0.01, 0.0])
    logits = head(levels, image)
    assert logits.shape == (2, 3, *shape)
    logits.square().mean().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in head.parameters())
    with torch.no_grad():
        alone = head([level[:1] for level in levels], image[:1])
    np.testing.assert_allclose(alone, logits[:1].detach(), atol=1e-4)
    # Before any training, each structure is as likely as it is common.
    assert logits[:, 0].mean() > logits[:, 1].mean() > logits[:, 2].mean()


def test_a_transformers_maps_become_a_pyramid():
    config, shape = TOWERS["vit"]
    levels = levels_of(config.build(1).eval()(torch.zeros(1, 1, *shape)))
    assert [level.shape[2] for level in levels] == [16, 8, 4, 2]
