"""Stored arrays of a training, in memory as far as they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvlp.data.items import Item
from medvlp.data.manifest import Shown
from medvlp.data.preprocess import model_input
from medvlp.data.randomness import generator
from medvlp.evaluate.predict import Scorer, UndecodableError
from medvlp.models.inputs import chunks

KEPT_BYTES = 1 << 30
"""What is kept of one encoder's arrays; the rest is read again, from the cache if there is one."""


class Arrays:
    """Items as model input, read once each as long as memory is left."""

    def __init__(self, scorer: Scorer) -> None:
        self.bundle = scorer.bundle
        self._read = scorer.reader()
        self._kept: dict[Any, NDArray[Any]] = {}
        self._left = KEPT_BYTES

    def stored(self, item: Item) -> NDArray[Any]:
        """An item's stored array."""
        key = (item.source_paths, item.span, item.flags)
        found = self._kept.get(key)
        if found is None:
            found = self._read(item)
            if found.nbytes <= self._left:
                self._left -= found.nbytes
                self._kept[key] = found
        return found

    def check(self, items: Sequence[Item]) -> None:
        """Read all spans of recordings once, before a training begins that they would end.

        Raises:
            UndecodableError: All of them of which a frame does not decode.
        """
        lost: set[Shown] = set()
        for item in items:
            try:
                if item.span is not None:
                    self.stored(item)
            except UndecodableError as error:
                lost |= error.spans
        if lost:
            raise UndecodableError(lost)

    def input(
        self, items: Sequence[Item], rngs: Sequence[np.random.Generator] | None = None
    ) -> Tensor:
        """The items as model input; augmented with `rngs`."""
        arrays = [self.stored(item) for item in items]
        return model_input(self.bundle.preprocess, arrays, self.bundle.device, rngs)

    def each(self, items: Sequence[Item], size: int) -> Iterator[Tensor]:
        """All items as model input, `size` at a time."""
        for chunk in chunks(items, size):
            yield self.input(chunk)


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """`steps` batches of ``min(size, count)`` numbers below `count`, with the epoch of each.

    Every epoch is an order of its own; what is left of one that does not fill a batch is not
    used, so that all batches are alike.
    """
    size = min(size, count)
    each = count // size
    order: list[int] = []
    for step in range(steps):
        epoch, place = divmod(step, each)
        if place == 0:
            order = generator(seed, epoch, "items", "heads").permutation(count).tolist()
        yield epoch, order[place * size : (place + 1) * size]


def seeded(seed: int, purpose: str) -> int:
    """A seed of torch's for one purpose."""
    return int(generator(seed, 0, "torch", purpose).integers(2**31))


def deterministic(seed: int, purpose: str) -> None:
    """Set torch's random state for one purpose; call it inside ``torch.random.fork_rng``."""
    torch.manual_seed(seeded(seed, purpose))
