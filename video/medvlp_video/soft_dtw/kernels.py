"""Compiled sweeps over the table of soft-DTW; `cpu` launches them.

Cells of an anti-diagonal ``d = t + k`` depend on no other of the same one, so each sweep goes from
diagonal to diagonal and computes vectors of lanes (`vectors`). A diagonal's lanes are the steps;
several samples of few steps lie side by side, many steps are taken in strips, one after another.
Before each sample's or strip's first step there is one lane for its border:

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
"""Lanes of a diagonal: enough to be busy with, few enough that the costs' lines stay at hand."""

# Rows of lanes; those of tables and shares are of three diagonals in turn, d in number d mod 3.
COST, DROP, BAD, WHOLE, SHOWN, UP, LEFT, CORNER, SHARE, DROPPED = 0, 1, 2, 3, 6, 9, 12, 15, 18, 19
ROWS = 20


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; the machine code is kept where a folder for it can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # No folder can be written, neither beside this file nor in the user's own.
        return njit(nogil=True)(function)


_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = njit(**_INNER)
"""For what only compiled functions call."""


@part
def _copy(source, start, step, target, at, count):
    # Unsigned places are not looked at for being negative.
    for n in range(count):
        target[np.uintp(at + n)] = source[np.uintp(start + n * step)]


@part
def _scale(source, start, target, at, stride, count, factor):
    for n in range(count):
        target[np.uintp(at + n * stride)] = source[np.uintp(start + n)] * factor


@part
def _span(d, frames, steps):
    """The steps of the cells on a diagonal: from, and up to."""
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
    """Samples side by side, steps of a strip, and the length of a row of lanes."""
    strips = -(-steps // (LANES - 1))
    strip = -(-steps // strips)
    side = max(1, LANES // (strip + 1))
    return side, strip, 2 + -(-side * (strip + 1) // WIDTH) * WIDTH


@part
def _sweep_forward(lanes, size, d, first, stop, limits, dropping, probability):
    before, corner = (d + 2) % 3, (d + 1) % 3
    shown, whole = (SHOWN if dropping else WHOLE) * size, WHOLE * size
    cost, bad = COST * size, BAD * size
    up, left, far = whole + before * size, shown + before * size - 1, whole + corner * size - 1
    out, both = shown + d % 3 * size, whole + d % 3 * size
    plain = (cost, bad, up, left, far, bad, out)
    drops = (cost, bad, up, left, far, DROP * size, bad, out, both)
    if dropping and probability:
        for n in range(first, stop, WIDTH):
            vectors.mean_drop(lanes, drops, n, limits)
    elif dropping:
        for n in range(first, stop, WIDTH):
            vectors.log_sum_drop(lanes, drops, n, limits)
    elif probability:
        for n in range(first, stop, WIDTH):
            vectors.mean(lanes, plain, n, limits)
    else:
        for n in range(first, stop, WIDTH):
            vectors.log_sum(lanes, plain, n, limits)


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
            vectors.mean_drop_shares(lanes, drops, n, limits)
    elif dropping:
        for n in range(first, stop, WIDTH):
            vectors.log_sum_drop_shares(lanes, drops, n, limits)
    elif probability:
        for n in range(first, stop, WIDTH):
            vectors.mean_shares(lanes, plain, n, limits)
    else:
        for n in range(first, stop, WIDTH):
            vectors.log_sum_shares(lanes, plain, n, limits)


@part
def _first_border(drop, start, frames, big, border):
    """D before the first step: (0) the origin, (t + 1) where all frames up to t are dropped."""
    border[:] = big
    border[0] = 0
    if len(drop):
        for t in range(frames):
            border[t + 1] = min(border[t] + min(drop[start + t], big), big)


@part
def _take_costs(cost, drop, shape, lanes, size, at, d, begin, end, b, left):
    rows, width = shape
    place = (b * rows + d - begin) * width + left + begin
    _copy(cost, place, 1 - width, lanes, COST * size + at + begin, end - begin)
    if len(drop):
        _copy(drop, b * rows + d - begin, -1, lanes, DROP * size + at + begin, end - begin)


@part
def _keep(table, shape, lanes, row, turn, begin, end, b, left):
    if len(table):
        rows, width = shape
        place = (b * rows + turn) * width + left + begin
        _copy(lanes, row + begin, 1, table, place, end - begin)


@part
def _next_border(lanes, row, borders, which, d, frames, steps, begin, big):
    """Put the border of the next diagonal but one into its lane, and what ends here in its place.

    It was read before: a border is needed as many diagonals earlier as there are steps.
    """
    table, sample = which
    lanes[row - 1] = borders[table, sample, d + 2] if d + 1 < frames else big
    if begin < steps <= d + 1:
        borders[table, sample, d - steps + 2] = lanes[row + steps - 1]


@part
def _value(lanes, bad, last, steps, big):
    """What stands in a last cell: NaN if a cost was none, infinity beyond half of `big`."""
    for n in range(bad, bad + steps):
        if lanes[n] > 0:
            return np.nan
    return lanes[last] if lanes[last] < big / 2 else np.inf


@part
def _strip_forward(
    cost, drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, lanes, size,
    borders, head, samples, left, strip,
):  # fmt: skip
    """A strip of steps from `left` on, of samples that lie side by side.

    `borders` (2,samples,T+1) are P and D of the step before, and then those of the strip's last.
    """
    big, last = limits[2], 0
    lanes[:] = big
    lanes[BAD * size : (BAD + 1) * size] = 0
    for b in range(head, head + samples):
        last = max(last, frames_B[b] + min(strip, steps_B[b] - left) - 1)
        at = 2 + (b - head) * (strip + 1)
        for row in (1, 2):
            lanes[(SHOWN + row) * size + at - 1] = borders[0, b - head, row - 1]
            lanes[(WHOLE + row) * size + at - 1] = borders[1, b - head, row - 1]
    for d in range(last):
        turn = (d + left) % shape[0]
        for b in range(head, head + samples):
            begin, end = _span(d, frames_B[b], min(strip, steps_B[b] - left))
            at = 2 + (b - head) * (strip + 1)
            _take_costs(cost, drop, shape, lanes, size, at, d, begin, end, b, left)
        first, stop = _reach(d, frames_B[head], min(strip, steps_B[head] - left), samples, size)
        _sweep_forward(lanes, size, d, first, stop, limits, len(drop) > 0, probability)
        for b in range(head, head + samples):
            frames, steps = frames_B[b], min(strip, steps_B[b] - left)
            begin, end = _span(d, frames, steps)
            at = 2 + (b - head) * (strip + 1)
            row = (WHOLE + d % 3) * size + at
            _keep(whole, shape, lanes, row, turn, begin, end, b, left)
            _next_border(lanes, row, borders, (1, b - head), d, frames, steps, begin, big)
            if d == frames + steps - 2:
                # The last strip's counts, but a cost that is none does so in any.
                value = _value(lanes, BAD * size + at, row + steps - 1, steps, big)
                value_B[b] = np.nan if left > 0 and np.isnan(value_B[b]) else value
            if len(drop):
                row = (SHOWN + d % 3) * size + at
                _keep(shown, shape, lanes, row, turn, begin, end, b, left)
                _next_border(lanes, row, borders, (0, b - head), d, frames, steps, begin, big)
    borders[:, :, 0] = big


@compiled
def forward(
    cost, drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, start, stop
):
    """Values of samples `start` to `stop` and, unless they are empty, tables for `backward`.

    Costs and tables are flat; `shape` is (T,K). Where there are drop costs, `shown` is P of soft
    Drop-DTW and `whole` D; otherwise the table is `whole`. `limits` are those of `vectors`.
    """
    side, strip, size = _layout(shape[1])
    lanes = np.empty(ROWS * size, cost.dtype)
    borders = np.empty((2, side, shape[0] + 1), cost.dtype)
    for head in range(start, stop, side):
        samples = min(side, stop - head)
        borders[0] = limits[2]
        for b in range(head, head + samples):
            _first_border(drop, b * shape[0], frames_B[b], limits[2], borders[1, b - head])
        # Only a sample that is alone has several strips.
        for left in range(0, shape[1] if samples > 1 else steps_B[head], strip):
            _strip_forward(
                cost, drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B,
                lanes, size, borders, head, samples, left, strip,
            )  # fmt: skip


@part
def _recall(table, shape, lanes, row, turn, begin, end, steps, b, left, big):
    """Put a diagonal of a table into lanes that held the third one after it."""
    rows, width = shape
    if end > begin:
        place = (b * rows + turn) * width + left + begin
        _copy(table, place, 1, lanes, row + begin, end - begin)
    for k in range(end, min(steps, end + 3)):
        lanes[row + k] = big


@part
def _border(table, shape, b, left, frames, big, border):
    """The step before a strip, from a table."""
    rows, width = shape
    border[:] = big
    for t in range(frames):
        border[t + 1] = table[(b * rows + (t + left - 1) % rows) * width + left - 1]


@part
def _recall_cells(
    drop,
    shown,
    whole,
    shape,
    lanes,
    size,
    at,
    d,
    turns,
    frames,
    steps,
    borders,
    sample,
    b,
    left,
    big,
):
    """D of diagonal d - 2, and with drops P of d - 1 and the drop costs of d."""
    begin, end = _span(d - 2, frames, steps)
    row = (WHOLE + (d + 1) % 3) * size + at
    _recall(whole, shape, lanes, row, turns[0], begin, end, steps, b, left, big)
    lanes[row - 1] = borders[1, sample, d] if d <= frames else big
    if len(drop):
        begin, end = _span(d - 1, frames, steps)
        row = (SHOWN + (d + 2) % 3) * size + at
        _recall(shown, shape, lanes, row, turns[1], begin, end, steps, b, left, big)
        lanes[row - 1] = borders[0, sample, d + 1] if d + 1 <= frames else big
        begin, end = _span(d, frames, steps)
        _copy(drop, b * shape[0] + d - begin, -1, lanes, DROP * size + at + begin, end - begin)


@part
def _give(grad_cost, grad_drop, shape, lanes, size, at, d, begin, end, b, left, factor):
    rows, width = shape
    place = (b * rows + d - begin) * width + left + begin
    _scale(lanes, SHARE * size + at + begin, grad_cost, place, 1 - width, end - begin, factor)
    if len(grad_drop):
        for k in range(begin, end):
            grad_drop[b * rows + d - k] += lanes[DROPPED * size + at + k] * factor


@part
def _cross(lanes, size, at, d, frames, steps, crossing, sample):
    """Hand on to the strip before what its last step is given, and take what this one's is.

    That was handed on by the strip after as many diagonals ago as there are steps.
    """
    for way, row in ((0, LEFT), (1, CORNER)):
        place, t = (row + d % 3) * size + at, d - steps
        given = crossing[way, sample, t] if 0 <= t < frames else crossing.dtype.type(0)
        if d < frames:
            crossing[way, sample, d] = lanes[place]
        lanes[place + steps] = given


@part
def _strip_backward(
    drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, grad_B, grad_cost,
    grad_drop, lanes, size, borders, crossing, head, samples, left, strip,
):  # fmt: skip
    """A strip of steps from `left` on; `crossing` (2,samples,T) is what strips give one another."""
    big, last = limits[2], 0
    lanes[:] = big
    lanes[UP * size :] = 0
    for b in range(head, head + samples):
        last = max(last, frames_B[b] + min(strip, steps_B[b] - left) - 2)
    # The first time there is nothing to compute: what comes before is recalled.
    for d in range(last + 1, -1, -1):
        turns = (d + left - 2) % shape[0], (d + left - 1) % shape[0]
        for b in range(head, head + samples):
            frames, steps = frames_B[b], min(strip, steps_B[b] - left)
            at = 2 + (b - head) * (strip + 1)
            _recall_cells(
                drop, shown, whole, shape, lanes, size, at, d, turns, frames, steps,
                borders, b - head, b, left, big,
            )  # fmt: skip
            if d == frames + steps_B[b] - left - 2 and np.isfinite(value_B[b]):
                lanes[(UP + (d + 1) % 3) * size + at + steps - 1] = 1
        if d <= last:
            first, stop = _reach(d, frames_B[head], min(strip, steps_B[head] - left), samples, size)
            _sweep_backward(lanes, size, d, first, stop, limits, len(drop) > 0, probability)
        for b in range(head, head + samples):
            frames, steps = frames_B[b], min(strip, steps_B[b] - left)
            begin, end = _span(d, frames, steps)
            at = 2 + (b - head) * (strip + 1)
            _give(grad_cost, grad_drop, shape, lanes, size, at, d, begin, end, b, left, grad_B[b])
            if strip < shape[1] or len(drop):
                _cross(lanes, size, at, d, frames, steps, crossing, b - head)


@compiled
def backward(
    drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, grad_B, grad_cost,
    grad_drop, start, stop,
):  # fmt: skip
    """The gradients of ``Σ grad · value``; those of the costs need no costs.

    Arguments are as in `forward`; the gradients are flat and start as zeros.
    """
    rows, width = shape
    side, strip, size = _layout(width)
    lanes = np.empty(ROWS * size, whole.dtype)
    borders = np.empty((2, side, rows + 1), whole.dtype)
    crossing = np.empty((2, side, rows), whole.dtype)
    for head in range(start, stop, side):
        samples = min(side, stop - head)
        crossing[:] = 0
        most = width if samples > 1 else steps_B[head]
        for left in range((most - 1) // strip * strip, -1, -strip):
            borders[0] = limits[2]
            for b in range(head, head + samples):
                if left == 0:
                    _first_border(drop, b * rows, frames_B[b], limits[2], borders[1, b - head])
                else:
                    _border(whole, shape, b, left, frames_B[b], limits[2], borders[1, b - head])
                if left > 0 and len(drop):
                    _border(shown, shape, b, left, frames_B[b], limits[2], borders[0, b - head])
            _strip_backward(
                drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, grad_B,
                grad_cost, grad_drop, lanes, size, borders, crossing, head, samples, left, strip,
            )  # fmt: skip
        for b in range(head, head + samples if len(drop) else head):
            # Frames dropped before the first step.
            total = crossing[1, b - head, 0] * 0
            for t in range(frames_B[b] - 1, -1, -1):
                grad_drop[b * rows + t] += total * grad_B[b]
                total += crossing[1, b - head, t]
