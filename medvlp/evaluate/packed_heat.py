"""Heatmaps as bytes in a table, and back.

A heatmap is float16, rescaled so that its own range fills [0,1]; `low` and `high` beside it give
the values back. Half precision alone would lose what tells patches apart where all cosines are
nearly equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlp.digest import digest_bytes
from medvlp.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PackedHeat:
    """A heatmap's bytes and the range of its values."""

    data: bytes
    shape: tuple[int, ...]
    low: float
    high: float

    @property
    def digest(self) -> str:
        """SHA-256 of shape, range and bytes."""
        return digest_bytes(f"{self.shape}|{self.low!r}|{self.high!r}|".encode() + self.data)


def pack_heat(grid: NDArray[np.floating]) -> PackedHeat:
    """The bytes of a heatmap; a flat one is all zeros."""
    values = grid.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return PackedHeat(
        data=unit.astype(np.float16).tobytes(), shape=tuple(grid.shape), low=low, high=high
    )


def unpack_heat(data: bytes, shape: Sequence[int]) -> Floats:
    """The heatmap's values within its own range, in [0,1].

    Raises:
        InputError: The bytes hold no heatmap of this shape.
    """
    if len(data) != 2 * int(np.prod(shape)):
        raise InputError(
            f"the bytes of a heatmap are not those of shape {tuple(shape)}",
            remedy="evaluate again: the table was changed",
        )
    return np.frombuffer(data, np.float16).astype(np.float64).reshape(tuple(shape))
