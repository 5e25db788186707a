"""Compiled sweeps over the table of soft-DTW; `cpu` launches them.

Cells of an anti-diagonal ``d = t + k`` depend on no other of the same one, so each sweep goes from
diagonal to diagonal and computes vectors of lanes (`vectors`). A diagonal's lanes are the steps;
several samples of few steps lie side by side, each behind one lane for its border:

    | spare | border  k=0  k=1 ... | border  k=0  k=1 ... | spare

Tables are kept sheared: cell (t,k) stands in row ``(t + k) mod T`` of column k, so that diagonals
are contiguous and a table takes no more than T x K numbers.

With a large number for infinity nothing becomes NaN: sums stop there, and its share in a soft
minimum is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from medvlp_video.soft_dtw import vectors
from medvlp_video.soft_dtw.vectors import WIDTH

LANES = 256
"""Samples lie side by side up to this many lanes, which leave room in the nearest cache."""

# Rows of lanes; those of tables and shares are of three diagonals in turn, d in number d mod 3.
COST, DROP, BAD, WHOLE, SHOWN, UP, LEFT, CORNER, SHARE, DROPPED = 0, 1, 2, 3, 6, 9, 12, 15, 18, 19
ROWS = 20

log_sum, mean = vectors.log_sum, vectors.mean
log_sum_drop, mean_drop = vectors.log_sum_drop, vectors.mean_drop
log_sum_shares, mean_shares = vectors.log_sum_shares, vectors.mean_shares
log_sum_drop_shares = vectors.log_sum_drop_shares
mean_drop_shares = vectors.mean_drop_shares


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; the machine code is kept where a folder for it can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # No folder can be written, neither beside this file nor in the user's own.
        return njit(nogil=True)(function)


part = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""For what only compiled functions call."""


@part
def _copy(source, start, step, target, at, stride, count):
    # Unsigned places are not looked at for being negative.
    for n in range(count):
        target[np.uintp(at + n * stride)] = source[np.uintp(start + n * step)]


@part
def _scale(source, start, target, at, stride, count, factor):
    for n in range(count):
        target[np.uintp(at + n * stride)] = source[np.uintp(start + n)] * factor


@part
def _span(d, frames, steps):
    """The steps of a sample's cells on a diagonal: from, and up to."""
    begin = max(0, d - frames + 1)
    return begin, max(begin, min(steps, d + 1))


@part
def _reach(d, frames, steps, samples, size):
    """The lanes to compute: all of several samples, of one those of its cells."""
    if samples > 1:
        return 1, size - 1
    begin, end = _span(d, frames, steps)
    return 1 + begin // WIDTH * WIDTH, 1 + -(-(end + 1) // WIDTH) * WIDTH


@part
def _layout(steps):
    """Samples side by side, and the length of a row of lanes."""
    side = max(1, LANES // (steps + 1))
    return side, 2 + -(-side * (steps + 1) // WIDTH) * WIDTH


@part
def _sweep_forward(lanes, size, d, first, stop, limits, dropping, probability):
    before, corner = (d + 2) % 3, (d + 1) % 3
    shown = (SHOWN if dropping else WHOLE) * size
    whole = WHOLE * size
    cost, bad = COST * size, BAD * size
    up, left, far = whole + before * size, shown + before * size - 1, whole + corner * size - 1
    out, both = shown + d % 3 * size, whole + d % 3 * size
    plain = (cost, bad, up, left, far, bad, out)
    drops = (cost, bad, up, left, far, DROP * size, bad, out, both)
    if dropping and probability:
        for n in range(first, stop, WIDTH):
            mean_drop(lanes, drops, n, limits)
    elif dropping:
        for n in range(first, stop, WIDTH):
            log_sum_drop(lanes, drops, n, limits)
    elif probability:
        for n in range(first, stop, WIDTH):
            mean(lanes, plain, n, limits)
    else:
        for n in range(first, stop, WIDTH):
            log_sum(lanes, plain, n, limits)


@part
def _sweep_backward(lanes, size, d, first, stop, limits, dropping, probability):
    now, after, later = d % 3 * size, (d + 1) % 3 * size, (d + 2) % 3 * size
    shown, whole = (SHOWN if dropping else WHOLE) * size, WHOLE * size
    # Of three diagonals in turn, d - 1 is where d + 2 was.
    sources = (UP * size + after, LEFT * size + after + 1, CORNER * size + later + 1)
    cells = (whole + later, shown + later - 1, whole + after - 1)
    targets = (SHARE * size, UP * size + now, LEFT * size + now, CORNER * size + now)
    plain = sources + cells + targets
    drops = sources + cells + (shown + now, DROP * size) + targets + (DROPPED * size,)
    if dropping and probability:
        for n in range(first, stop, WIDTH):
            mean_drop_shares(lanes, drops, n, limits)
    elif dropping:
        for n in range(first, stop, WIDTH):
            log_sum_drop_shares(lanes, drops, n, limits)
    elif probability:
        for n in range(first, stop, WIDTH):
            mean_shares(lanes, plain, n, limits)
    else:
        for n in range(first, stop, WIDTH):
            log_sum_shares(lanes, plain, n, limits)


@part
def _value(lanes, size, at, d, steps, big):
    """What stands in a sample's last cell: NaN if a cost was none, infinity beyond half of `big`."""
    for k in range(-1, steps):
        if lanes[BAD * size + at + k] > 0:
            return np.nan
    value = lanes[(WHOLE + d % 3) * size + at + steps - 1]
    return value if value < big / 2 else np.inf


@compiled
def forward(
    cost, drop, frames_B, steps_B, shape, limits, probability, kept, shown, whole, value_B, start,
    stop,
):  # fmt: skip
    """Values of samples `start` to `stop` and, where they are `kept`, the tables for `backward`.

    Costs and tables are flat; `shape` is (T,K). Where there are drop costs, `shown` is P of soft
    Drop-DTW and `whole` D; otherwise the table is `whole`. `limits` are those of `vectors`.
    """
    rows, width = shape
    dropping, big = len(drop) > 0, limits[2]
    side, size = _layout(width)
    lanes = np.empty(ROWS * size, cost.dtype)
    for head in range(start, stop, side):
        samples = min(side, stop - head)
        lanes[:] = big
        lanes[BAD * size : (BAD + 1) * size] = 0
        last = 0
        for b in range(head, head + samples):
            last = max(last, frames_B[b] + steps_B[b] - 1)
            # The origin is the border of diagonal -2.
            lanes[(WHOLE + 1) * size + 1 + (b - head) * (width + 1)] = 0
        # Diagonal -1 is that of the first frame's border, which is of use to drops alone.
        for d in range(-1 if dropping else 0, last):
            for b in range(head, head + samples):
                begin, end = _span(d, frames_B[b], steps_B[b])
                at = 2 + (b - head) * (width + 1)
                place = (b * rows + d - begin) * width + begin
                _copy(cost, place, 1 - width, lanes, COST * size + at + begin, 1, end - begin)
                if dropping:
                    early = max(-1, d - frames_B[b] + 1)
                    place = b * rows + d - early
                    _copy(drop, place, -1, lanes, DROP * size + at + early, 1, end - early)
            first, until = _reach(d, frames_B[head], steps_B[head], samples, size)
            _sweep_forward(lanes, size, d, first, until, limits, dropping, probability)
            for b in range(head, head + samples):
                begin, end = _span(d, frames_B[b], steps_B[b])
                at = 2 + (b - head) * (width + 1)
                place = (b * rows + d % rows) * width + begin
                row = at + begin + d % 3 * size
                if kept:
                    _copy(lanes, WHOLE * size + row, 1, whole, place, 1, end - begin)
                if kept and dropping:
                    _copy(lanes, SHOWN * size + row, 1, shown, place, 1, end - begin)
                if d == frames_B[b] + steps_B[b] - 2:
                    value_B[b] = _value(lanes, size, at, d, steps_B[b], big)


@part
def _recall(table, place, lanes, row, d, rows, frames, steps, width, big):
    """Put a diagonal of a table into lanes that held the third one after it."""
    begin, end = _span(d, frames, steps)
    if end > begin:
        place = place + d % rows * width + begin
        _copy(table, place, 1, lanes, row + begin, 1, end - begin)
    for k in range(end, min(steps, end + 3)):
        lanes[row + k] = big


@part
def _borders(drop, b, rows, frames, big, out):
    """The border's D: nothing shown yet, every frame dropped; without drops only the origin."""
    out[:] = big
    out[0] = 0
    if len(drop):
        for t in range(frames):
            out[t + 1] = min(out[t] + min(drop[b * rows + t], big), big)


@compiled
def backward(
    drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, grad_B, grad_cost,
    grad_drop, start, stop,
):  # fmt: skip
    """The gradients of ``Σ grad · value``; those of the costs need no costs.

    Arguments are as in `forward`; the gradients are flat and start as zeros.
    """
    rows, width = shape
    dropping, big = len(drop) > 0, limits[2]
    side, size = _layout(width)
    lanes = np.empty(ROWS * size, whole.dtype)
    border = np.empty((side, rows + 1), whole.dtype)
    for head in range(start, stop, side):
        samples = min(side, stop - head)
        lanes[:] = big
        lanes[UP * size :] = 0
        last = 0
        for b in range(head, head + samples):
            last = max(last, frames_B[b] + steps_B[b] - 2)
            _borders(drop, b, rows, frames_B[b], big, border[b - head])
        for d in range(last + 1, -2 if dropping else -1, -1):
            # The first time there is nothing to compute: what comes before is recalled.
            for b in range(head, head + samples):
                frames, steps = frames_B[b], steps_B[b]
                at, table = 2 + (b - head) * (width + 1), b * rows * width
                row = (WHOLE + (d + 1) % 3) * size + at
                _recall(whole, table, lanes, row, d - 2, rows, frames, steps, width, big)
                lanes[row - 1] = border[b - head, d] if 0 <= d <= frames else big
                if dropping:
                    row = (SHOWN + (d + 2) % 3) * size + at
                    _recall(shown, table, lanes, row, d - 1, rows, frames, steps, width, big)
                    early = max(-1, d - frames + 1)
                    row, count = DROP * size + at + early, min(steps, d + 1) - early
                    _copy(drop, b * rows + d - early, -1, lanes, row, 1, count)
                if d == frames + steps - 2 and np.isfinite(value_B[b]):
                    lanes[(UP + (d + 1) % 3) * size + at + steps - 1] = 1
            if d > last:
                continue
            first, until = _reach(d, frames_B[head], steps_B[head], samples, size)
            _sweep_backward(lanes, size, d, first, until, limits, dropping, probability)
            for b in range(head, head + samples):
                begin, end = _span(d, frames_B[b], steps_B[b])
                at = 2 + (b - head) * (width + 1)
                place = (b * rows + d - begin) * width + begin
                row = SHARE * size + at + begin
                _scale(lanes, row, grad_cost, place, 1 - width, end - begin, grad_B[b])
                if dropping:
                    early = max(-1, d - frames_B[b] + 1)
                    for k in range(early, end):
                        grad_drop[b * rows + d - k] += lanes[DROPPED * size + at + k] * grad_B[b]
