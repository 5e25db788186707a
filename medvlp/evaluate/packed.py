"""Masks and heatmaps as bytes in a table, and back.

A mask is the packed bits of its pixels, compressed by zlib. A heatmap is float16, rescaled so that
its own range fills [0,1]; `low` and `high` beside it give the values back. Half precision alone
would lose what tells patches apart where all cosines are nearly equal.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlp.errors import InputError

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_LEVEL = 6


@dataclass(frozen=True, kw_only=True)
class PackedHeat:
    """A heatmap's bytes and the range of its values."""

    data: bytes
    shape: tuple[int, ...]
    low: float
    high: float


def pack_mask(mask: Bools) -> bytes:
    """The bytes of a mask of any shape.

    >>> unpack_mask(pack_mask(np.array([[True, False, True]])), (1, 3)).tolist()
    [[True, False, True]]
    """
    return zlib.compress(np.packbits(mask.ravel()).tobytes(), _LEVEL)


def unpack_mask(data: bytes, shape: Sequence[int]) -> Bools:
    """`pack_mask` undone.

    Raises:
        InputError: The bytes hold no mask of this shape.
    """
    count = int(np.prod(shape))
    # Not more than the shape can need: the bytes may come from anybody.
    opened = zlib.decompressobj()
    try:
        bits = np.frombuffer(opened.decompress(data, count // 8 + 2), np.uint8)
    except zlib.error as error:
        raise _not_of(shape, "mask") from error
    if len(bits) != (count + 7) // 8:
        raise _not_of(shape, "mask")
    return np.unpackbits(bits, count=count).astype(bool).reshape(tuple(shape))


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
        raise _not_of(shape, "heatmap")
    return np.frombuffer(data, np.float16).astype(np.float64).reshape(tuple(shape))


def _not_of(shape: Sequence[int], what: str) -> InputError:
    return InputError(
        f"the bytes of a {what} are not those of shape {tuple(shape)}",
        remedy="evaluate again: the table was changed",
    )
