"""The loss curve of a tiny fixed run: a refactoring must not move it.

`golden_loss.json` was written on Linux x86-64 with the pinned torch on one thread, where the
losses agree to 1e-6. Other platforms, thread counts and torch versions order sums differently:
they are held to 1e-3 over these few steps. Where a change is meant to move the curve, say so in
the commit and put the new values, which the failure shows, into the file.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medvlp.data.batch import Batch
from medvlp.encoding import Sizes
from medvlp.losses.objectives import ClipConfig, LabelsConfig
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.optim import OptimConfig, build_optimizer, build_schedule

GOLDEN = Path(__file__).with_name("golden_loss.json")
STEPS = 12


def _model() -> TwoTower:
    image = Vit2dConfig(size=16, patch=8, width=16, depth=1, heads=2).build(1)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8).build(30, 0)
    model = TwoTower(TwoTowerConfig(embed=8), image, text)
    # Numpy's generator, not torch's: its stream is the same in every version.
    rng = np.random.Generator(np.random.Philox(key=1))
    with torch.no_grad():
        for _, value in sorted(model.named_parameters()):
            if value.ndim:  # the scale and the bias of the logits keep their start
                value.copy_(torch.from_numpy(rng.normal(0, 0.2, value.shape)))
    return model


def _batch(rng: np.random.Generator) -> Batch:
    ids = torch.from_numpy(rng.integers(5, 30, (8, 1, 6)))
    image = torch.from_numpy(rng.normal(size=(8, 1, 16, 16)).astype(np.float32))
    image += ids[:, 0, 0].view(8, 1, 1, 1) / 10
    return Batch(
        image=image,
        text_BNT=ids,
        text_mask_BNT=torch.ones(8, 1, 6, dtype=torch.bool),
        level_BN=torch.full((8, 1), 2),
        labels_BL=torch.from_numpy(rng.integers(-1, 2, (8, 2)).astype(np.float32)),
        sample=tuple("abcdefgh"),
    )


def _curve() -> list[float]:
    model = _model()
    rng = np.random.Generator(np.random.Philox(key=2))
    labels = LabelsConfig(weight=0.5).build(Sizes(image=16, text=16, embed=8, labels=("a", "b")))
    with torch.no_grad():
        for value in labels.parameters():
            value.copy_(torch.from_numpy(rng.normal(0, 0.2, value.shape)))
    clip = ClipConfig().build(model.sizes())
    config = OptimConfig(lr=0.01, warmup_steps=3)
    both = torch.nn.ModuleList([model, labels])
    optimizer = build_optimizer(both, config)
    schedule = build_schedule(optimizer, config, STEPS)
    batches = [_batch(rng) for _ in range(3)]
    losses = []
    for step in range(STEPS):
        batch = batches[step % 3]
        encodings = model(batch)
        loss = clip(encodings, batch) + 0.5 * labels(encodings, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def test_the_loss_curve_has_not_moved() -> None:
    curve = _curve()
    golden = json.loads(GOLDEN.read_text())
    assert curve == pytest.approx(golden["losses"], rel=1e-3)
    assert curve[-1] < curve[0]
