"""Towers, projections and objectives together learn which text belongs to which image."""

import pytest
import torch

from medvlp.data.batch import Batch
from medvlp.losses.objectives import ClipConfig, SigLipConfig
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig

RESNET = ResNet2dConfig(depths=(1, 1), widths=(16, 32), stem=16, norm="group")
VIT = Vit2dConfig(size=32, patch=8, width=32, depth=2, heads=2)
TEXT = TextTowerConfig(width=32, depth=1, heads=2, max_tokens=8)


def eight_pairs():
    """A bright square in one of eight places, and the place's own word among common ones."""
    image = torch.zeros(8, 1, 32, 32)
    text = torch.randint(20, 40, (8, 1, 5), generator=torch.Generator().manual_seed(0))
    for i in range(8):
        row, column = divmod(i, 4)
        image[i, 0, 16 * row : 16 * row + 8, 8 * column : 8 * column + 8] = 2.0
        text[i, 0, 2] = 1 + i
    return Batch(
        image=image,
        text_BNT=text,
        text_mask_BNT=torch.ones_like(text, dtype=torch.bool),
        level_BN=torch.zeros(8, 1, dtype=torch.long),
        labels_BL=torch.zeros(8, 0),
        sample=tuple("abcdefgh"),
    )


@pytest.mark.parametrize(
    ("image", "objective", "bias"),
    [(RESNET, ClipConfig(), 0.0), (VIT, ClipConfig(), 0.0), (RESNET, SigLipConfig(), -10.0)],
)
def test_two_towers_learn_eight_pairs(image, objective, bias):
    torch.manual_seed(0)
    joint = TwoTowerConfig(embed=16, init_temperature=0.1, init_bias=bias)
    model = TwoTower(joint, image.build(1), TEXT.build(40, 0))
    loss_of, batch = objective.build(model.sizes()), eight_pairs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss_of(model(batch), batch).backward()
        optimizer.step()
    with torch.no_grad():
        out = model.eval()(batch)
    found = (out.image_BE @ out.text_BNE[:, 0].T).argmax(1)
    assert found.tolist() == list(range(8))
