"""Made-up batches whose texts say what they tell, for the tests of MedCutMix."""

import torch

from medvlp.data.batch import Batch
from medvlp.data.presence import ABSENT, PRESENT, UNCERTAIN, UNTOLD
from medvlp.data.relations import Names
from medvlp.data.tables import LEVELS
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.exchange import draw_exchange

SENTENCE = LEVELS.index("sentence")
NAMES = Names(
    labels=("effusion", "pneumothorax", "Any", "sex"),
    anatomies=("left pleura", "right pleura"),
    observations=("effusion", "pneumothorax", "abnormality"),
)
VIT = Vit2dConfig(size=32, patch=8, width=16, depth=3, heads=2)
RESNET = ResNet2dConfig(depths=(1, 1, 1), widths=(8, 16, 24), stem=8, norm="group")
P, A, U, D = PRESENT, ABSENT, UNTOLD, UNCERTAIN


def batch(told, side=None, patients=None, labels=None, relations=None, place=None, seed=0):
    """One sample a row of `told`: what each of its sentences says of the three observations."""
    told_BNQ = torch.tensor(told, dtype=torch.int8)
    count, texts = told_BNQ.shape[:2]
    zeros = torch.zeros(count, texts, dtype=torch.int8)
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        image=torch.randn(count, 1, 32, 32, generator=generator),
        text_BNT=torch.randint(5, 40, (count, texts, 6), generator=generator),
        text_mask_BNT=torch.ones(count, texts, 6, dtype=torch.bool),
        level_BN=torch.full((count, texts), SENTENCE),
        labels_BL=torch.zeros(count, 4) if labels is None else torch.tensor(labels),
        sample=tuple(map(str, range(count))),
        relations_BAQ=(
            torch.full((count, 2, 3), UNTOLD, dtype=torch.int8)
            if relations is None
            else torch.tensor(relations, dtype=torch.int8)
        ),
        told_BNQ=told_BNQ,
        side_BN=zeros if side is None else torch.tensor(side, dtype=torch.int8),
        place_BNA=(
            torch.zeros(count, texts, 2, dtype=torch.int8)
            if place is None
            else torch.tensor(place, dtype=torch.int8)
        ),
        patient_B=torch.arange(count) if patients is None else torch.tensor(patients),
    )


def drawn(data, draw=(0.0, 0.0, 0.0), on_side=True, share=1.0, deny_all=()):
    on_side_BN = torch.full(data.level_BN.shape, on_side)
    draw_KB = torch.tensor(draw, dtype=torch.float64)[:, None].expand(3, len(data.sample))
    return draw_exchange(data, on_side_BN, share=share, draw_KB=draw_KB, deny_all=deny_all)


EFFUSION, NO_EFFUSION, PNEUMOTHORAX = (P, U, U), (A, U, U), (U, P, U)
NORMAL, SILENT, BOTH_SAID = (U, U, A), (U, U, U), (P, A, U)


def towers(image=VIT, seed=0):
    torch.manual_seed(seed)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, dropout=0.0).build(40, 0)
    return TwoTower(TwoTowerConfig(embed=6, init_bias=-2.0), image.build(1), text)
