"""What makes a model's steps faster without changing what they compute, beyond rounding."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from medvlp.errors import ConfigError
from medvlp.models.two_tower import TwoTower
from medvlp.train.experiment import TrainerConfig

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the dimensions of a convolution's weight."""


def set_pace(model: TwoTower, config: TrainerConfig, device: str) -> None:
    """Lay a model out and have it compiled as the configuration asks; its weights keep their names.

    Args:
        model: The model, not wrapped yet.
        config: The trainer's configuration.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: There is no C++ compiler to compile with.
    """
    if device == "cuda":
        torch.set_float32_matmul_precision(config.matmul)
    if config.channels_last:
        lay_channels_last(model.image)
    if config.compile:
        if device == "cpu" and not has_compiler():
            raise ConfigError(
                "trainer.compile needs a C++ compiler, and none is on the PATH",
                remedy="install g++ or clang, or set trainer.compile=false",
            )
        compile_towers(model)


def lay_channels_last(tower: nn.Module) -> None:
    """Store convolution kernels with the channels last; activations follow the kernels."""
    for parameter in tower.parameters():
        layout = _LAYOUTS.get(parameter.ndim)
        if layout is not None:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def compile_towers(model: TwoTower, backend: str = "inductor") -> None:
    """Compile both towers in place: unlike `torch.compile`, this renames no weight."""
    # Random numbers as without compilation: a second pass over the same batch (gradient caching)
    # has to draw what the first drew.
    torch._inductor.config.fallback_random = True
    for tower in (model.image, model.text):
        tower.compile(backend=backend)


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which compilation for a CPU needs."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"]))
