"""Where a finding lies in a stored array, and what an array looks like with a place covered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.data.preprocess import Preprocess
from medvlp.evaluate.robustness.forms import form_of

Box = tuple[slice, ...]
"""One slice an axis of (H,W) or (D,H,W)."""

_DENSE, _THIN = 1000.0, -1000.0


def stored_box(
    preprocess: Preprocess,
    shape: Sequence[int],
    spacing_mm: Sequence[float] | None,
    geometry: Sequence[float],
) -> Box | None:
    """A manifest's box on the model's grid; None if nothing of it is in view.

    The contract itself says where an edge goes: an image that is dense from the edge on is stored
    as any image is, and the edge looked up there.

    Args:
        preprocess: The contract.
        shape: Of the array that the box was drawn on, (H,W) or (D,H,W).
        spacing_mm: Of that array.
        geometry: (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1), far edges exclusive.
    """
    count = len(shape)
    lows, highs = geometry[:count][::-1], geometry[count:][::-1]
    found = []
    for axis in range(count):
        first = _edge(preprocess, shape, spacing_mm, axis, lows[axis], beyond=True)
        last = _edge(preprocess, shape, spacing_mm, axis, highs[axis], beyond=False)
        if first >= last:
            return None
        found.append(slice(first, last))
    return tuple(found)


def _edge(
    preprocess: Preprocess,
    shape: Sequence[int],
    spacing_mm: Sequence[float] | None,
    axis: int,
    at: float,
    *,
    beyond: bool,
) -> int:
    """The first stored index at or beyond `at`, or one past the last before it."""
    place = np.arange(shape[axis])
    dense = place >= at if beyond else place < at
    wide = dense.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    image = np.where(np.broadcast_to(wide, tuple(shape)), _DENSE, _THIN).astype(np.float32)
    stored = preprocess.from_array(image, spacing_mm)
    others = tuple(k for k in range(stored.ndim) if k != axis)
    profile = stored.max(axis=others).astype(np.float64)
    if profile.min() == profile.max():
        # The edge is out of view; greys that are stretched to their own range tell nothing more.
        signed = stored.dtype.kind == "i"
        filled = bool(profile[0] > 0) if signed else bool(dense.mean() > 0.5)
        return 0 if filled == beyond else len(profile)
    hits = np.flatnonzero(profile > (profile.min() + profile.max()) / 2)
    return int(hits[0]) if beyond else int(hits[-1]) + 1


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
