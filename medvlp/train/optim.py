"""AdamW and its learning rate: linear warm-up, then cosine decay to zero."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from medvlp.config import STRICT

Fraction = Annotated[float, Field(ge=0, lt=1)]


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


def build_optimizer(module: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the parameters that learn; only those of two or more dimensions decay."""
    learning = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    # The fused step takes no sharded weights beside whole ones.
    fused = not any(isinstance(weight, DTensor) for weight in learning)
    optimizer = AdamW(filled, lr=config.lr, betas=config.betas, fused=fused)
    # Lightning will not clip the gradients of an optimiser that divides by a loss scale in its
    # step; bf16 needs no scale, so ours never does.
    optimizer._step_supports_amp_scaling = False
    return optimizer


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
