"""The exponential moving average of the weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medvlp.train.optim import EmaConfig


class Average(nn.Module):
    """The average of the weights that learn, as buffers: checkpoints hold it beside the weights.

    Batch norm's running statistics are averaged like them: those of the last weights would not fit
    what averaged ones compute.

    Every rank computes it for itself, from equal weights.

    Args:
        config: Decay and start.
        module: What holds the weights; those that do not learn are left out.
    """

    def __init__(self, config: EmaConfig, module: nn.Module) -> None:
        super().__init__()
        self.config = config
        statistics = _statistics(module)
        self.statistics = list(statistics)
        learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.names = [*learning, *statistics]
        for name, tensor in (learning | statistics).items():
            self.register_buffer(_buffer(name), tensor.detach().clone())

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take the weights in after optimiser step `step` (from 1)."""
        keep = 0.0 if step <= self.config.start else self.config.decay
        for name, tensor in self._live(module).items():
            self._of(name).lerp_(tensor, 1.0 - keep)

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Put the average into the weights' place for the time of the context."""
        live = self._live(module)
        before = {name: tensor.data for name, tensor in live.items()}
        for name, tensor in live.items():
            tensor.data = self._of(name)
        try:
            yield
        finally:
            for name, value in before.items():
                live[name].data = value

    @torch.no_grad()
    def put(self, module: nn.Module) -> None:
        """Make the average the weights."""
        for name, tensor in self._live(module).items():
            tensor.copy_(self._of(name))

    def completed(self, state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """A checkpoint's tensors, with statistics of its weights where it has no averaged ones.

        Args:
            state: Of the module, the average included.
            prefix: Of the average's names in it.
        """
        known = [name for name in self.statistics if name in state]
        return {prefix + _buffer(name): state[name] for name in known} | dict(state)

    def _live(self, module: nn.Module) -> dict[str, Tensor]:
        found = dict(module.named_parameters()) | _statistics(module)
        return {name: found[name] for name in self.names}

    def _of(self, name: str) -> Tensor:
        return self.get_buffer(_buffer(name))


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    """Batch norm's running means and variances, by name; not its count of batches."""
    return {
        f"{place}.{name}": buffer
        for place, norm in module.named_modules()
        if isinstance(norm, _BatchNorm)
        for name, buffer in norm.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }


def _buffer(name: str) -> str:
    return name.replace(".", "/")
