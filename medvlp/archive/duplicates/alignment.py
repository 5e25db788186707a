"""Whether two pictures show one exposure: laid upon each other, their detail must agree.

From a candidate's placement an affine map is refined by the inverse compositional scheme (Baker
and Matthews, IJCV 2004), first on coarse detail at every second place, then on fine detail. What
counts is the correlation of the fine detail where the pictures overlap. Two exposures of one chest
share its anatomy, not the detail; an inverted copy correlates negatively. What other candidates
show too (ribs, a lead letter, the collimator's edge) says nothing about a copy, so it is regressed
out of both pictures first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.duplicates.fingerprint import SIDE
from medvlp.archive.duplicates.landmarks import LEVELS, Candidate, Floats, band

_ROUGH = (1.6, 4.0)
_FINE = (0.8, 3.0)
_ROUGH_STEPS, _FINE_STEPS = 6, 6
_PROMISING = 0.3
_OVERLAP = 0.6
"""So much of the smaller picture must lie upon the other."""
_LARGEST_STEP = 0.6
_BATCH = 64
_FINEST = (0.8, 1.6)
_SIMILAR = 0.72
"""Less agreement than this after registration is no copy; real copies reach 0.8."""
_LIKE, _COPY = 0.4, 0.96
"""Other candidates of one query that fit between these show what its kind of image looks like."""
_OTHERS, _ENOUGH = 9, 3
_SHARPEST = (0.5, 1.0)
_ALONE, _CROWDED, _TOGETHER = 0.12, 0.28, 0.17
"""What is taken off a plain correlation without others, off that of the sharpest detail among
others (which may be copies themselves), and off the mean of both with the partial one."""
_USUAL, _ALIKE = 0.5, 0.3
"""Where others agree with the query by more than the first, the partial correlation loses so much
of the excess: what few others share with a stranger is not all taken out."""
_PLACES = 400


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

    The score is the partial correlation of the finest detail, given what pictures that are no
    copies show at the same places, or what the plain correlation of still finer detail makes of
    it; where fewer than three such pictures are known, the plain correlation less `_ALONE`. It is 0
    where the pictures do not agree at all.

    Args:
        pictures: (n, SIDE, SIDE), as `fingerprint.picture` gives them.
        candidates: Placements of one picture upon another, all of a query together.
    """
    warp = _placed(candidates)
    fit = np.zeros(len(candidates), dtype=np.float32)
    for start in range(0, len(candidates), _BATCH):
        part = list(candidates[start : start + _BATCH])
        placed = warp[start : start + _BATCH]
        placed[:], rough = _refine(_stack(pictures, part, _ROUGH, step=2), placed, _ROUGH_STEPS)
        kept = np.flatnonzero(rough >= _PROMISING)
        if kept.size:
            fine = _stack(pictures, [part[i] for i in kept], _FINE, step=1)
            placed[kept], fit[start + kept] = _refine(fine, placed[kept], _FINE_STEPS)
    groups: dict[int, list[int]] = {}
    for place, candidate in enumerate(candidates):
        groups.setdefault(candidate.query, []).append(place)
    scores = np.zeros(len(candidates), dtype=np.float32)
    for place in np.flatnonzero(fit >= _SIMILAR).tolist():
        others = _others(fit, groups[candidates[place].query], place)
        scores[place] = _partial(pictures, candidates, warp, [place, *others])
    return scores


def _others(fit: Floats, group: Sequence[int], place: int) -> list[int]:
    """Candidates that show what images of this kind have in common: the worst fitting ones."""
    others = sorted((i for i in group if i != place and fit[i] >= _LIKE), key=lambda i: fit[i])
    unlike = [i for i in others if fit[i] < _COPY]
    return (unlike if len(unlike) >= _ENOUGH else others)[:_OTHERS]


def _partial(
    pictures: NDArray[np.uint8],
    candidates: Sequence[Candidate],
    warp: NDArray[np.float64],
    places: Sequence[int],
) -> float:
    """Correlation of a query with the first of `places`, the others' pictures taken out."""
    first = candidates[places[0]]
    shown = [first._replace(base=candidates[i].base) for i in places]
    maps = np.stack([warp[i] @ _between(first, candidates[i]) for i in places])
    stack = _stack(pictures, shown, _FINEST, step=1)
    seen, inside = _seen(stack, maps)
    own = inside[0] > 0
    others = [i for i in range(1, len(places)) if inside[i][own].mean() > _OVERLAP]
    own &= (inside[others] > 0).all(axis=0)
    known = np.stack([np.ones(int(own.sum())), *(seen[i][own] for i in others)], axis=1)
    if len(known) < _PLACES:
        return 0.0
    base = known if len(others) >= _ENOUGH else known[:, :1]
    axes = np.linalg.qr(base)[0]
    left, right = (v - axes @ (axes.T @ v) for v in (stack.template[0][own], seen[0][own]))
    norms = float(np.sqrt((left @ left) * (right @ right)))
    value = abs(float(left @ right)) / norms if norms > 1e-9 else 0.0
    if len(others) < _ENOUGH:
        return max(value - _ALONE, 0.0)
    sharp = _stack(pictures, shown[:1], _SHARPEST, step=1)
    pair = sharp.template[0][own], _seen(sharp, maps[:1])[0][0][own]
    plain = abs(float(np.corrcoef(*pair)[0, 1]))
    alike = np.median(np.abs(np.corrcoef(stack.template[0][own], known.T[1:])[0, 1:]))
    less = _ALIKE * max(float(alike) - _USUAL, 0.0)
    return max(value - less, plain - _CROWDED, (value + 2 * plain) / 3 - _TOGETHER)


def _between(first: Candidate, second: Candidate) -> NDArray[np.float64]:
    """The map (3, 3) from places of the first's reduced query to those of the second's."""
    (rows, columns), (high, wide) = LEVELS[first.level], LEVELS[second.level]
    down, across = high / rows, wide / columns
    change = np.array([[down, 0, down / 2 - 0.5], [0, across, across / 2 - 0.5], [0, 0, 1]])
    if first.mirrored != second.mirrored:
        change[1] = [0, -across, wide - 0.5 - across / 2]
    return change


def _placed(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Maps (m, 3, 3) from (row, column, 1) of the template to the other picture."""
    warp = np.tile(np.eye(3), (len(candidates), 1, 1))
    warp[:, :2, 2] = np.array([candidate.shift for candidate in candidates]).reshape(-1, 2)
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
    for level in np.unique(levels).tolist():
        rows, columns = LEVELS[level]
        mine = levels == level
        canvas[mine, :rows, :columns] = band(shown[mine], (rows, columns), *widths)
        mask[mine, :rows, :columns] = 1
    others = pictures[[candidate.base for candidate in candidates]]
    other = band(others, (SIDE, SIDE), *widths).reshape(len(candidates), -1)
    places = np.zeros((SIDE, SIDE), dtype=bool)
    places[step // 2 :: step, step // 2 :: step] = True
    at = np.column_stack([*np.nonzero(places), np.ones(int(places.sum()))]).astype(np.float32)
    down, across = (np.asarray(np.gradient(canvas, axis=axis)) for axis in (1, 2))
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
