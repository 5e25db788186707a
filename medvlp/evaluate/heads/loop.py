"""The one training loop of an evaluation: a module, a loss, a validation score."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medvlp.errors import ConfigError
from medvlp.evaluate.heads.arrays import batches
from medvlp.evaluate.heads.search import Found, SearchConfig, Setting, search
from medvlp.progress import track
from medvlp.train.optim import OptimConfig, build_optimizer, build_schedule

T = TypeVar("T")

CLIP_NORM = 1.0


def train(
    module: nn.Module,
    loss: Callable[[list[int], int], Tensor],
    validate: Callable[[], float],
    *,
    count: int,
    config: SearchConfig,
    setting: Setting,
    seed: int,
    label: str,
) -> float:
    """Train `module` and leave it with the weights of the best look at the validation split.

    AdamW with warm-up and cosine decay; every trial of every model takes the same number of steps
    unless it stops gaining.

    Args:
        module: With its parameters named as `medvlp.train.parts` has it: ``model.image`` and
            ``objectives``.
        loss: (numbers of training items, epoch) -> the batch's loss; a NaN ends the trial.
        validate: The score of the weights as they are; higher is better.
        count: Training items.
        config: The budget.
        setting: ``lr`` and ``weight_decay`` of this trial.
        seed: Of the order of items.
        label: For the progress bar.

    Returns:
        The best score; NaN if there never was one.
    """
    optim = OptimConfig(
        lr=setting["lr"],
        weight_decay=setting["weight_decay"],
        warmup_steps=config.steps // 10,
        betas=(0.9, 0.999),
        layer_decay=config.layer_decay,
        rates={"image": config.tower_rate} if _learns(module, "model.image.") else {},
    )
    optimizer = build_optimizer(module, optim)
    schedule = build_schedule(optimizer, optim, config.steps)
    looks = _looks(config)
    best, best_score, waited = _weights(module), math.nan, 0
    plan = batches(count, config.batch_size, config.steps, seed)
    for step, (epoch, chosen) in enumerate(track(plan, label, total=config.steps), 1):
        optimizer.zero_grad(set_to_none=True)
        value = loss(chosen, epoch)
        if not torch.isfinite(value):
            break
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        if step not in looks:
            continue
        score = validate()
        waited += 1
        if not math.isnan(score) and not score <= best_score:
            best, best_score, waited = _weights(module), score, 0
        if waited >= config.patience:
            break
    module.load_state_dict(best)
    return best_score


def search_trained(
    config: SearchConfig, trial: Callable[[Setting], tuple[T, float]], model: str
) -> Found[T]:
    """Search all settings of a budget with trainings by `train`.

    Args:
        config: The budget.
        trial: Setting -> what was trained, and its score on the validation split.
        model: Whose name an error says.

    Raises:
        ConfigError: Every trial diverged.
    """
    found = search(config.settings(), trial)
    if all(math.isnan(one.score) for one in found.trials):
        raise ConfigError(
            f"{model}: no trial gave a validation score (the training diverged)",
            remedy="lower task.search.rates",
        )
    return found


def _learns(module: nn.Module, prefix: str) -> bool:
    return any(n.startswith(prefix) and p.requires_grad for n, p in module.named_parameters())


def _looks(config: SearchConfig) -> set[int]:
    """The steps after which the validation split is looked at, the last among them."""
    return {max(1, round(config.steps * (k + 1) / config.checks)) for k in range(config.checks)}


def _weights(module: nn.Module) -> dict[str, Any]:
    return copy.deepcopy(module.state_dict())
