"""Whether two pictures show one exposure: laid upon each other, their detail must agree.

From a candidate's placement an affine map is refined by the inverse compositional scheme (Baker
and Matthews, IJCV 2004), first on coarse detail at every second place, then on fine detail. What
counts is the correlation of the fine detail where the pictures overlap. Two exposures of one chest
share its anatomy, not the detail; an inverted copy correlates negatively.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.fingerprint import SIDE
from medvlp.archive.landmarks import LEVELS, Candidate, Floats, band

_ROUGH = (1.6, 4.0)
_FINE = (0.8, 3.0)
_ROUGH_STEPS, _FINE_STEPS = 6, 6
_PROMISING = 0.3
_OVERLAP = 0.6
"""So much of the smaller picture must lie upon the other."""
_LARGEST_STEP = 0.6
_BATCH = 64


@dataclass(frozen=True)
class _Stack:
    """Pairs in work: the reduced first picture of each on a canvas, the second as it is."""

    template: Floats
    """(m, places): zero mean and unit norm over the mask."""
    mask: Floats
    """(m, places), 1 where the canvas holds the picture."""
    slope: Floats
    """(m, places, 6): change of the template with each parameter."""
    solve: NDArray[np.float64]
    """(m, 6, 6): inverse of the slopes' products."""
    other: Floats
    """(m, SIDE * SIDE)."""
    at: Floats
    """(places, 3): row, column, 1."""


def agreement(pictures: NDArray[np.uint8], candidates: Sequence[Candidate]) -> Floats:
    """How well the detail of each candidate's pictures agrees where they overlap, 0 to 1.

    Args:
        pictures: (n, SIDE, SIDE), as `fingerprint.picture` gives them.
        candidates: Placements of one picture upon another.
    """
    scores = np.zeros(len(candidates), dtype=np.float32)
    for start in range(0, len(candidates), _BATCH):
        part = list(candidates[start : start + _BATCH])
        warp = _placed(part)
        first = _stack(pictures, part, _ROUGH, step=2)
        warp, rough = _refine(first, warp, _ROUGH_STEPS)
        kept = np.flatnonzero(rough >= _PROMISING)
        if kept.size:
            second = _stack(pictures, [part[i] for i in kept], _FINE, step=1)
            scores[start + kept] = _refine(second, warp[kept], _FINE_STEPS)[1]
    return scores


def _placed(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Maps (m, 3, 3) from (row, column, 1) of the template to the other picture."""
    warp = np.tile(np.eye(3), (len(candidates), 1, 1))
    warp[:, :2, 2] = [candidate.shift for candidate in candidates]
    return warp


def _stack(
    pictures: NDArray[np.uint8],
    candidates: Sequence[Candidate],
    widths: tuple[float, float],
    step: int,
) -> _Stack:
    canvas = np.zeros((len(candidates), SIDE, SIDE), dtype=np.float32)
    mask = np.zeros_like(canvas)
    levels = np.array([candidate.level for candidate in candidates])
    query = np.array([candidate.query for candidate in candidates])
    mirrored = np.array([candidate.mirrored for candidate in candidates])
    shown = np.where(mirrored[:, None, None], pictures[query][:, :, ::-1], pictures[query])
    for level in np.unique(levels):
        rows, columns = LEVELS[level]
        mine = levels == level
        canvas[mine, :rows, :columns] = band(shown[mine], (rows, columns), *widths)
        mask[mine, :rows, :columns] = 1
    others = pictures[[candidate.base for candidate in candidates]]
    other = band(others, (SIDE, SIDE), *widths).reshape(len(candidates), -1)
    places = np.zeros((SIDE, SIDE), dtype=bool)
    places[step // 2 :: step, step // 2 :: step] = True
    at = np.stack([*np.nonzero(places), np.ones(places.sum())], axis=1).astype(np.float32)
    down, across = np.gradient(canvas, axis=(1, 2))
    return _prepared(
        canvas[:, places], mask[:, places], down[:, places], across[:, places], other, at
    )


def _prepared(
    values: Floats, mask: Floats, down: Floats, across: Floats, other: Floats, at: Floats
) -> _Stack:
    template, norm = _normed(values, mask)
    slope = np.concatenate([(g * mask / norm)[:, :, None] * at for g in (down, across)], axis=2)
    product = np.swapaxes(slope, 1, 2) @ slope
    # A little more on the diagonal keeps featureless pictures solvable.
    ridge = 1e-4 * np.einsum("mii->m", product)[:, None, None] / 6 * np.eye(6)
    solve = np.linalg.inv(product + ridge + 1e-9 * np.eye(6))
    return _Stack(template, mask, slope.astype(np.float32), solve, other, at)


def _normed(values: Floats, mask: Floats) -> tuple[Floats, Floats]:
    """Values with zero mean and unit norm under the mask, and the norm (m, 1)."""
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    centred = (values - (values * mask).sum(axis=1, keepdims=True) / count) * mask
    norm = np.maximum(np.sqrt(np.square(centred).sum(axis=1, keepdims=True)), 1e-6)
    return centred / norm, norm


def _refine(
    stack: _Stack, warp: NDArray[np.float64], steps: int
) -> tuple[NDArray[np.float64], Floats]:
    """Better maps, and the absolute correlation reached with the best of them."""
    sign, best, best_warp = None, np.zeros(len(warp), dtype=np.float32), warp.copy()
    for step in range(steps + 1):
        seen, inside = _seen(stack, warp)
        template, _ = _normed(stack.template, inside)
        values, _ = _normed(seen, inside)
        correlation = (template * values).sum(axis=1)
        covered = inside.sum(axis=1) >= _OVERLAP * stack.mask.sum(axis=1)
        score = np.where(covered, np.abs(correlation), 0).astype(np.float32)
        better = score > best
        best = np.where(better, score, best)
        best_warp[better] = warp[better]
        if step == steps:
            break
        sign = np.sign(correlation) if sign is None else sign
        error = (values * sign[:, None] - template) * inside
        change = (stack.solve @ (np.swapaxes(stack.slope, 1, 2) @ error[:, :, None]))[:, :, 0]
        warp = _compose(warp, change)
    return best_warp, best


def _compose(warp: NDArray[np.float64], change: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map after the inverse of a small change of the template's places."""
    small = np.tile(np.eye(3), (len(warp), 1, 1))
    moved = change.reshape(-1, 2, 3)
    reach = np.abs(moved @ np.array([SIDE / 2, SIDE / 2, 1.0])).max(axis=1)
    limit = np.minimum(1.0, SIDE * _LARGEST_STEP / 8 / np.maximum(reach, 1e-9))
    small[:, :2] += moved * limit[:, None, None]
    composed: NDArray[np.float64] = warp @ np.linalg.inv(small)
    return composed


def _seen(stack: _Stack, warp: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """The other pictures at the template's places, and where those lie inside."""
    to = stack.at @ np.swapaxes(warp[:, :2], 1, 2).astype(np.float32)
    inside = ((to >= 0) & (to <= SIDE - 1)).all(axis=2) * stack.mask
    to = np.clip(to, 0, SIDE - 1.001)
    corner = to.astype(np.int32)
    part = to - corner
    index = corner[:, :, 0] * SIDE + corner[:, :, 1]
    index += (np.arange(len(warp), dtype=np.int32) * (SIDE * SIDE))[:, None]
    flat = stack.other.ravel()
    row, column = part[:, :, 0], part[:, :, 1]
    upper = flat[index] * (1 - column) + flat[index + 1] * column
    lower = flat[index + SIDE] * (1 - column) + flat[index + SIDE + 1] * column
    return upper * (1 - row) + lower * row, inside.astype(np.float32)
