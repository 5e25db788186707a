"""A picture small enough to keep and fine enough to know an image again: its fingerprint.

Rank-equalised grey values of the image without its flat margins, 64 by 64: a window, a gamma or
another scanner's scale leave it as it is, except where values were clipped. It is a thumbnail of a
patient's image and belongs in the private folder only. `find` compares them.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Rows and columns of a fingerprint's picture."""

PREFIX = "1:"
"""Which way of making it; fingerprints made in different ways are not compared."""

_FLAT = 0.02
"""A margin is flat while its values spread over less than this share of the image's spread."""
_LEAST = 16
"""Less than this many rows or columns say too little to be known again."""


def fingerprint(values_HW: NDArray[Any]) -> str:
    """The fingerprint of a grey image, 5.5 kB of text; empty where there is nothing to see.

    Args:
        values_HW: Real values of any scale, (rows, columns).

    Returns:
        Text for `picture`; ``""`` for an image that is constant, not finite, under 16 pixels,
        or made of lines that are each of one grey.
    """
    if values_HW.ndim != 2:
        raise ValueError(f"{values_HW.ndim} axes instead of rows and columns")
    box = _content(np.asarray(values_HW, dtype=np.float32))
    if box is None:
        return ""
    rows, columns = (triangle_weights(size, SIDE) for size in box.shape)
    return PREFIX + base64.b64encode(_ranked(rows @ box @ columns.T).tobytes()).decode("ascii")


def picture(text: str) -> NDArray[np.uint8] | None:
    """The picture in a fingerprint, (64, 64); None for an empty one or one of another making."""
    if not text.startswith(PREFIX):
        return None
    try:
        data = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        return None
    if len(data) != SIDE * SIDE:
        return None
    return np.frombuffer(data, dtype=np.uint8).reshape(SIDE, SIDE)


def _content(values_HW: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The image without flat margins; None where hardly anything is left."""
    if min(values_HW.shape) < _LEAST:
        return None
    rows = values_HW.min(axis=1), values_HW.max(axis=1)
    low, high = rows[0].min(), rows[1].max()
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        return None
    flat = np.float32(_FLAT) * (high - low)
    inner = values_HW[_span(*rows, flat)]
    if not inner.size:
        return None  # Every row is flat in itself: a wedge from top to bottom.
    part = inner[:, _span(inner.min(axis=0), inner.max(axis=0), flat)]
    return part if min(part.shape) >= _LEAST else None


def _span(low: NDArray[Any], high: NDArray[Any], flat: np.float32) -> slice:
    """From the first line that is not flat to the last."""
    full = np.flatnonzero(high - low > flat)
    return slice(int(full[0]), int(full[-1]) + 1) if full.size else slice(0)


@lru_cache(maxsize=64)
def triangle_weights(size: int, target: int) -> NDArray[np.float32]:
    """Weights (target, size) that resample a line: a triangle as wide as two target pixels.

    Twice the width of an area mean, and next to no aliasing; a line that grows is interpolated.
    """
    step = size / target
    centre = (np.arange(target) + 0.5) * step
    distance = np.abs(np.arange(size) + 0.5 - centre[:, None]) / max(step, 1.0)
    weights = np.clip(1.0 - distance, 0.0, None)
    shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _ranked(small: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values 0 to 255 by rank; equal values share the middle of their ranks."""
    ordered = np.sort(small, axis=None)
    flat = small.ravel()
    below = np.searchsorted(ordered, flat, "left") + np.searchsorted(ordered, flat, "right")
    ranks: NDArray[np.uint8] = np.rint(below * (255.0 / (2 * flat.size))).astype(np.uint8)
    return ranks.reshape(small.shape)
