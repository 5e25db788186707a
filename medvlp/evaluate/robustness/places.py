"""Where a finding lies in a stored array, and what an array looks like with a place covered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.evaluate.masks import Reference
from medvlp.evaluate.robustness.forms import form_of

Box = tuple[slice, ...]
"""One slice an axis of (H,W) or (D,H,W)."""


def boxes_of(reference: Reference, place: int, name: str) -> list[Box]:
    """The boxes of one name on the model's grid, as far as they are in view.

    Args:
        reference: What is known of the sample (`medvlp.evaluate.masks`).
        place: The name's place among the reference's masks.
        name: A name with a mask but no box gets the least box that holds the mask.
    """
    mask = reference.masks[place]
    told = reference.boxes.get(name)
    if told is None:
        inside = np.argwhere(mask)
        if not len(inside):
            return []
        return [
            tuple(
                slice(int(a), int(b) + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True)
            )
        ]
    placed = [_within(corners, mask.shape) for corners in told]
    return [box for box in placed if all(side.start < side.stop for side in box)]


def _within(corners: Sequence[float], grid: Sequence[int]) -> Box:
    """Corners (x, y(, z), twice) as the grid's pixels of which at least half lies inside."""
    half = len(corners) // 2
    lows, highs = corners[:half][::-1], corners[half:][::-1]
    return tuple(
        slice(max(0, math.ceil(low - 0.5)), min(n, math.floor(high + 0.5)))
        for low, high, n in zip(lows, highs, grid, strict=True)
    )


def covered(stored: NDArray[Any], box: Box) -> NDArray[Any]:
    """The array with the box filled by the median of what surrounds it."""
    done = stored.copy()
    done[box] = _surrounding(stored, box)
    return done


def _surrounding(stored: NDArray[Any], box: Box) -> NDArray[Any]:
    wider = tuple(
        slice(max(0, s.start - _margin(s)), min(n, s.stop + _margin(s)))
        for s, n in zip(box, stored.shape, strict=True)
    )
    ring = np.ones(stored.shape, bool)
    ring[box] = False
    around = stored[wider][ring[wider]]
    values = around if len(around) else stored.ravel()
    return np.asarray(np.median(values)).astype(stored.dtype)


def _margin(side: slice) -> int:
    return max(2, int(side.stop - side.start) // 4)


def elsewhere(
    stored: NDArray[Any], boxes: Sequence[Box], like: Box, rng: np.random.Generator
) -> Box | None:
    """A place of the same size that touches none of `boxes`; None where there is no room.

    Of 64 drawn places, the one where covering changes the array by about as much as covering
    `like` does: a place in the black background would be no comparison.
    """
    sizes = [s.stop - s.start for s in like]
    wanted = _change(stored, like)
    best: tuple[float, Box] | None = None
    for _ in range(64):
        starts = [int(rng.integers(0, n - m + 1)) for n, m in zip(stored.shape, sizes, strict=True)]
        place = tuple(slice(a, a + m) for a, m in zip(starts, sizes, strict=True))
        if any(_touch(place, box) for box in boxes):
            continue
        gap = abs(_change(stored, place) - wanted)
        if best is None or gap < best[0]:
            best = gap, place
    return None if best is None else best[1]


def _change(stored: NDArray[Any], box: Box) -> float:
    fill = float(_surrounding(stored, box))
    return float(np.abs(stored[box].astype(np.float64) - fill).mean())


def _touch(one: Box, other: Box) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def blank(stored: NDArray[Any]) -> NDArray[Any]:
    """An array of the same form that shows nothing: its own median throughout."""
    axes = tuple(range(stored.ndim - 1)) if form_of(stored).kind == "video" else None
    flat = np.median(stored, axis=axes, keepdims=True).astype(stored.dtype)
    return np.broadcast_to(flat, stored.shape).copy()
