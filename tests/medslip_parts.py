"""A small MeDSLIP and made-up relations for its tests."""

import torch

from medvlp.data.batch import Batch, TokenIds
from medvlp.data.presence import PRESENT, UNTOLD
from medvlp.data.relations import Names
from medvlp.losses.medslip.objective import MedslipConfig
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig

NAMES = Names(
    anatomies=("heart", "left lung", "right lung"), observations=("edema", "big_mass", "clip", "x")
)
SMALL = {"width": 8, "depth": 2, "heads": 2, "hidden": 12, "dropout": 0.0, "count": 2}


def encode(texts):
    """Made-up ids: the length of each word, and of the text."""
    rows = [[min(5 + len(word), 39) for word in text.split()] + [5 + len(text)] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, ids > 0


TOKENS = TokenIds(count=60, mask=4, special=(0, 1, 2, 3, 4), encode=encode)


def relations(count=6, anatomies=3, observations=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, anatomies, observations)
    found = torch.randint(-2, 2, shape, generator=generator).to(torch.int8)
    found[1] = UNTOLD
    found[2, :, 1] = PRESENT
    return found


def model(dropout=0.0, dtype=torch.float64, image=None):
    torch.manual_seed(0)
    tower = image or Vit2dConfig(size=16, patch=8, width=12, depth=1, heads=2)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=12, dropout=dropout)
    return TwoTower(TwoTowerConfig(embed=6), tower.build(1), text.build(60, 0)).to(dtype)


def objective(two_tower, dtype=torch.float64, **options):
    torch.manual_seed(1)
    config = MedslipConfig(**SMALL | options)
    return config.build(two_tower.sizes(NAMES, TOKENS)).to(dtype)


def batch(told, dtype=torch.float64):
    count = len(told)
    torch.manual_seed(2)
    return Batch(
        image=torch.randn(count, 1, 16, 16, dtype=dtype),
        text_BNT=torch.randint(5, 40, (count, 1, 6)),
        text_mask_BNT=torch.ones(count, 1, 6, dtype=torch.bool),
        level_BN=torch.zeros(count, 1, dtype=torch.long),
        labels_BL=torch.zeros(count, 0, dtype=dtype),
        sample=tuple(map(str, range(count))),
        relations_BAQ=told,
    )


# The three sums, literally.


def loop_existence(logits, told):
    total = logits.new_zeros(())
    for b in range(told.shape[0]):
        for m in range(told.shape[1]):
            if told[b, m] in (0, 1):
                exps = [logits[b, m, k].exp() for k in range(2)]
                total = total - (exps[int(told[b, m])] / (exps[0] + exps[1])).log()
    return total


def loop_prototype(found, weight, bias, book, told, index, real):
    total = found.new_zeros(())
    for b in range(told.shape[0]):
        for m in range(told.shape[1]):
            present = [n for n in range(told.shape[2]) if told[b, m, n] == 1]
            chosen = [int(n) for n, ok in zip(index[b, m], real[b, m], strict=True) if ok]
            if not present or not chosen:
                continue
            z = weight @ found[b, m] + bias
            positive = sum(book[n] for n in present) / len(present)
            scores = [positive @ z, *(book[n] @ z for n in chosen)]
            total = total - (scores[0].exp() / sum(s.exp() for s in scores)).log()
    return total


def loop_relation(anatomy, observation, told):
    total = anatomy.new_zeros(())
    for b in range(told.shape[0]):
        for a in range(told.shape[1]):
            for q in range(told.shape[2]):
                p = torch.sigmoid(anatomy[b, a] @ observation[b, q])
                if told[b, a, q] == 1:
                    total = total - p.log()
                elif told[b, a, q] == 0:
                    total = total - (1 - p).log()
    return total


def leaves(*shapes):
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).mul_(0.5).requires_grad_()
        for shape in shapes
    ]


def equal(found, expected, inputs):
    torch.testing.assert_close(found, expected)
    assert expected.abs() > 0
    for one, other in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other)
        assert other.abs().sum() > 0
