"""The exponential moving average of the weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medvlp.train.optim import EmaConfig


class Average(nn.Module):
    """The average of the weights that learn, as buffers: checkpoints hold it beside the weights.

    Every rank computes it for itself, from equal weights.

    Args:
        config: Decay and start.
        weights: The weights, by name; those that do not learn are left out.
    """

    def __init__(self, config: EmaConfig, weights: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.config = config
        self.names = [name for name, weight in weights.items() if weight.requires_grad]
        for name in self.names:
            self.register_buffer(_buffer(name), weights[name].detach().clone())

    @torch.no_grad()
    def update(self, weights: Mapping[str, nn.Parameter], step: int) -> None:
        """Take the weights in after optimiser step `step` (from 1)."""
        keep = 0.0 if step <= self.config.start else self.config.decay
        for name in self.names:
            self._of(name).lerp_(weights[name], 1.0 - keep)

    @contextmanager
    def in_place(self, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Put the average into the weights' place for the time of the context."""
        before = {name: weights[name].data for name in self.names}
        for name in self.names:
            weights[name].data = self._of(name)
        try:
            yield
        finally:
            for name, value in before.items():
                weights[name].data = value

    @torch.no_grad()
    def put(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Make the average the weights."""
        for name in self.names:
            weights[name].copy_(self._of(name))

    def _of(self, name: str) -> Tensor:
        return self.get_buffer(_buffer(name))


def _buffer(name: str) -> str:
    return name.replace(".", "/")
