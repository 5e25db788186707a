"""Modules that read or write text, trained by the one loop; validation loss chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from medvlp.evaluate.heads.arrays import deterministic
from medvlp.evaluate.heads.loop import search_trained, train
from medvlp.evaluate.heads.search import Found, SearchConfig, Setting
from medvlp.evaluate.heads.visual import Visual

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")
Losses = Callable[[M, Sequence[T]], Tensor]
"""A module's losses of some cases, one a learnt thing."""


class _Learner(nn.Module):
    """What learns; parts are named as `medvlp.train.parts` has it."""

    def __init__(self, head: nn.Module, visual: Visual) -> None:
        super().__init__()
        self.model = nn.ModuleDict({} if visual.tower is None else {"image": visual.tower})
        self.objectives = nn.ModuleDict({"head": head})


def fit(
    make: Callable[[], M],
    visual: Visual,
    losses: Losses[M, T],
    learnt: Sequence[T],
    valid: Sequence[T],
    config: SearchConfig,
    *,
    seed: int,
    label: str,
) -> Found[M]:
    """Try the settings of a budget, each with a module made anew; the best is left in `visual`.

    Args:
        make: A module with weights from torch's random state, on its device.
        visual: The images of both splits; a tuned tower starts each trial as it is now.
        losses: What is minimised.
        learnt: The training cases.
        valid: The cases whose mean loss chooses settings and weights.
        config: The budget.
        seed: Of weights, of the order of cases, and of dropout.
        label: For the progress bar.

    Raises:
        ConfigError: Every trial diverged.
    """
    start = visual.state()

    def trial(setting: Setting) -> tuple[tuple[M, dict[str, Tensor]], float]:
        visual.restore(start)
        with torch.random.fork_rng(devices=[]):
            deterministic(seed, "texts")
            head = make()

            def loss(chosen: list[int], epoch: int) -> Tensor:
                head.train()
                return losses(head, [learnt[i] for i in chosen]).mean()

            score = train(
                _Learner(head, visual),
                loss,
                lambda: -mean_loss(head, losses, valid, config.batch_size),
                count=len(learnt),
                config=config,
                setting=setting,
                seed=seed,
                label=label,
            )
        return (head.eval(), visual.state()), score

    found = search_trained(config, trial, label)
    head, tower = found.best
    visual.restore(tower)
    return Found(best=head, chosen=found.chosen, trials=found.trials)


@torch.no_grad()
def mean_loss(model: M, losses: Losses[M, T], cases: Sequence[T], batch_size: int) -> float:
    """The mean over all learnt things of `cases`; NaN where it is not finite."""
    model.eval()
    parts = [losses(model, cases[i : i + batch_size]) for i in range(0, len(cases), batch_size)]
    value = float(torch.cat(parts).mean())
    return value if math.isfinite(value) else math.nan
