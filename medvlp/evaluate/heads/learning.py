"""The one way in which modules that read or write text are trained: fixed steps, best on valid."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.randomness import generator
from medvlp.evaluate.heads.visual import Visual
from medvlp.progress import track

Count = Annotated[int, Field(gt=0)]
T = TypeVar("T")
Losses = Callable[[Sequence[T]], Tensor]
"""A batch's losses, one a learnt thing."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Budget:
    """How long and how fast is learnt: the same for every model, control and seed."""

    steps: Count = 1000
    batch_size: Count = 16
    lr: Annotated[float, Field(gt=0)] = 5e-4
    encoder_lr: Annotated[float, Field(gt=0)] = 1e-5
    """Of the image tower, where it is tuned."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    valid_every: Count = 100
    """Steps between looks at the validation split; the weights with the least loss there win."""


def fit(
    model: nn.Module,
    visual: Visual,
    losses: Losses[T],
    train: Sequence[T],
    valid: Sequence[T],
    budget: Budget,
    *,
    seed: int,
    label: str,
) -> float:
    """Train in place, and leave the weights that were best on validation; their mean loss there.

    Args:
        model: What learns, on its device.
        visual: The images of both splits; a tuned tower learns along.
        losses: The losses of a batch.
        train: What is learnt.
        valid: What chooses the weights.
        budget: Steps and rates.
        seed: Of the order of the batches and of dropout.
        label: For the progress bar.
    """
    own, tower = list(model.parameters()), visual.learns
    groups = [{"params": own, "lr": budget.lr}, {"params": tower, "lr": budget.encoder_lr}]
    optimizer = torch.optim.AdamW(groups[: 1 + bool(tower)], weight_decay=budget.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, budget))
    best, kept = float("inf"), _state(model, visual)
    batches = _batches(train, budget, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in track(range(1, budget.steps + 1), label):
            model.train()
            loss = losses(next(batches)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([*own, *tower], 1.0)
            optimizer.step()
            schedule.step()
            if step % budget.valid_every == 0 or step == budget.steps:
                found = mean_loss(model, losses, valid, budget.batch_size)
                if found < best:
                    best, kept = found, _state(model, visual)
    model.load_state_dict(kept[0])
    visual.restore(kept[1])
    model.eval()
    return best


@torch.no_grad()
def mean_loss(model: nn.Module, losses: Losses[T], cases: Sequence[T], batch_size: int) -> float:
    """The mean over all learnt things of `cases`."""
    model.eval()
    parts = [losses(cases[i : i + batch_size]) for i in range(0, len(cases), batch_size)]
    return float(torch.cat(parts).mean())


def _batches(train: Sequence[T], budget: Budget, seed: int) -> Iterator[Sequence[T]]:
    epoch = 0
    while True:
        order = generator(seed, epoch, "texts", "decoder").permutation(len(train))
        for i in range(0, len(order), budget.batch_size):
            yield [train[at] for at in order[i : i + budget.batch_size]]
        epoch += 1


def _rate(step: int, budget: Budget) -> float:
    """Warm-up, then a straight line to a tenth."""
    if step < budget.warmup_steps:
        return (step + 1) / budget.warmup_steps
    left = (budget.steps - step) / max(budget.steps - budget.warmup_steps, 1)
    return 0.1 + 0.9 * max(left, 0.0)


def _state(model: nn.Module, visual: Visual) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return copy.deepcopy(model.state_dict()), visual.state()
