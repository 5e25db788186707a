"""AdamW and its learning rate: linear warm-up, then cosine decay to zero."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from medvlp.config import STRICT
from medvlp.train.parts import Place, check_parts, places

Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FreezeRule:
    """A part of the model that does not learn, and is as in evaluation (dropout, batch norm)."""

    part: str
    """Its name (`medvlp.train.parts`), such as ``text`` or ``image.layers[0:6]``."""

    until: Annotated[int, Field(gt=0)] | None = None
    """The first optimiser step (from 0) in which it learns; never, if not given."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EmaConfig:
    """The exponential moving average of the weights: ``a <- decay·a + (1 - decay)·w`` each step.

    Batch norm's running statistics are averaged, too.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    start: Annotated[int, Field(ge=0)] = 0
    """Steps during which the average is the weights themselves."""

    validate_average: bool = True
    """Whether validation, and so the choice of the best weights, is of the average."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """The optimiser (AdamW, arXiv:1711.05101) and its schedule (arXiv:1608.03983)."""

    lr: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On weight matrices and kernels; never on norms, biases, or the logits' scale."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global norm; none leaves them."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer of a tower learns at this fraction of the rate of the layer above it, the stem
    slowest (arXiv:2003.10555, appendix A; arXiv:2106.08254, section 3.2)."""

    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Factors on the rate of the model's parts (`medvlp.train.parts`), such as
    ``{text: 0.1, objectives: 10}``; those that hold a weight are multiplied."""

    freeze: tuple[FreezeRule, ...] = ()
    """Parts that do not learn."""

    ema: EmaConfig | None = None
    """A running average of the weights; the bundle then holds the average."""


def build_optimizer(module: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the parameters that learn; of these, matrices and kernels decay.

    Raises:
        ConfigError: A rate for a part that the model does not have.
    """
    placed = places(module)
    check_parts(config.rates, placed.values(), "optim.rates")
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            # A bias for each of several rows has two dimensions.
            free = weight.ndim < 2 or name.rpartition(".")[2].startswith("bias")
            key = (rate_of(placed[name], config), free)
            members.setdefault(key, []).append(weight)
    filled = [
        {
            "params": members[rate, free],
            "lr": config.lr * rate,
            "weight_decay": 0.0 if free else config.weight_decay,
        }
        for rate, free in sorted(members, key=lambda key: (-key[0], key[1]))
    ]
    # The fused step takes no sharded weights beside whole ones.
    fused = not any(isinstance(weight, DTensor) for group in members.values() for weight in group)
    optimizer = AdamW(filled, lr=config.lr, betas=config.betas, fused=fused)
    # Lightning will not clip the gradients of an optimiser that divides by a loss scale in its
    # step; bf16 needs no scale, so ours never does.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def rate_of(place: Place, config: OptimConfig) -> float:
    """A weight's learning rate, as a fraction of `OptimConfig.lr`."""
    rate = config.layer_decay**place.below_top
    for name, factor in config.rates.items():
        if place.is_in(name):
            rate *= factor
    return rate


def write_table(module: nn.Module, config: OptimConfig, file: Path) -> None:
    """Write what learns at which rate, a row for each layer or part: ``parameters.csv``."""
    rows: dict[tuple[Any, ...], int] = {}
    placed = places(module)
    for name, weight in module.named_parameters():
        place = placed[name]
        part = f"{place.part}[{place.layer}]" if place.part.endswith(".layers") else place.part
        until = [r.until or "end" for r in config.freeze if place.is_in(r.part)]
        frozen = "" if weight.requires_grad and not until else until[0] if until else "end"
        key = (part, config.lr * rate_of(place, config), frozen)
        rows[key] = rows.get(key, 0) + weight.numel()
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["part", "lr", "frozen_until", "parameters"])
        writer.writerows([*key, count] for key, count in rows.items())


def build_schedule(optimizer: AdamW, config: OptimConfig, steps: int) -> LambdaLR:
    """The schedule over `steps` optimiser steps."""
    return LambdaLR(optimizer, lambda step: factor(step, config, steps))


def factor(step: int, config: OptimConfig, steps: int) -> float:
    """The learning rate of step `step` (from 0), as a fraction of the peak.

    >>> [factor(s, OptimConfig(warmup_steps=2), 6) for s in (0, 1, 2, 4, 6)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
