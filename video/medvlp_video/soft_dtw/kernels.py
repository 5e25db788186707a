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
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from medvlp.digest import digest_file
from medvlp_video.soft_dtw import vectors
from medvlp_video.soft_dtw.vectors import WIDTH

LANES = 256
"""Lanes of a diagonal: enough to be busy with, few enough that the costs' lines stay at hand."""

# Rows of lanes; those of tables and shares are of three diagonals in turn, d in number d mod 3.
COST, DROP, BAD, WHOLE, SHOWN, UP, LEFT, CORNER, SHARE, DROPPED = 0, 1, 2, 3, 6, 9, 12, 15, 18, 19
ROWS = 20


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; the machine code is kept where a folder for it can be written."""
    # It is kept by name, and looked up by the time of this file alone.
    function.__qualname__ += "_" + digest_file(Path(vectors.__file__))[:8]
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # No folder can be written, neither beside this file nor in the user's own.
        return njit(nogil=True)(function)


_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = njit(**_INNER)
"""For what only compiled functions call."""


@part
def _span(d, frames, steps):
    """The steps of the cells on a diagonal: from, and up to."""
    begin = max(0, d - frames + 1)
    return begin, max(begin, min(steps, d + 1))


@part
def _take(table, area, base, step, lanes, row, d, frames_B, steps_B, group, big):
    """Put a diagonal of every sample of a group into a row of lanes.

    Of sample b, step k stands in place ``b * area + base + k * step`` of the table. Lanes that
    held the third diagonal after this one are cleared.
    """
    head, samples, left, strip = group
    for n in range(samples):
        steps = min(strip, steps_B[head + n] - left)
        begin, end = _span(d, frames_B[head + n], steps)
        at, place = row + 2 + n * (strip + 1), (head + n) * area + base
        # Unsigned places are not looked at for being negative.
        for k in range(begin, end):
            lanes[np.uintp(at + k)] = table[np.uintp(place + k * step)]
        for k in range(end, min(steps, end + 3)):
            lanes[at + k] = big


@part
def _keep(table, area, base, lanes, row, d, frames_B, steps_B, group):
    """Put a row of lanes into a table, in which a diagonal is contiguous."""
    head, samples, left, strip = group
    for n in range(samples if len(table) else 0):
        begin, end = _span(d, frames_B[head + n], min(strip, steps_B[head + n] - left))
        at, place = row + 2 + n * (strip + 1), (head + n) * area + base
        for k in range(begin, end):
            table[np.uintp(place + k)] = lanes[np.uintp(at + k)]


@part
def _add(table, area, base, step, factor_B, lanes, row, d, frames_B, steps_B, group):
    """Add a row of lanes, each sample's times its own factor, to a table, as `_take` reads it."""
    head, samples, left, strip = group
    for n in range(samples):
        begin, end = _span(d, frames_B[head + n], min(strip, steps_B[head + n] - left))
        at, place = row + 2 + n * (strip + 1), (head + n) * area + base
        for k in range(begin, end):
            table[np.uintp(place + k * step)] += lanes[np.uintp(at + k)] * factor_B[head + n]


@part
def _reach(d, frames_B, steps_B, group, size):
    """The lanes to compute: all of several samples, of one those of its cells."""
    head, samples, left, strip = group
    if samples > 1:
        return 1, size - 1
    begin, end = _span(d, frames_B[head], min(strip, steps_B[head] - left))
    return 1 + begin // WIDTH * WIDTH, 1 + -(-(end + 1) // WIDTH) * WIDTH


@part
def _ends(frames_B, steps_B, group):
    """The diagonals with which the first and the last of a group's samples end."""
    head, samples, left, strip = group
    first = last = frames_B[head] + min(strip, steps_B[head] - left) - 2
    for b in range(head + 1, head + samples):
        end = frames_B[b] + min(strip, steps_B[b] - left) - 2
        first, last = min(first, end), max(last, end)
    return first, last


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
def _next_borders(lanes, row, borders, d, frames_B, steps_B, group, big):
    """Put the border of the next diagonal but one into its lane, and what ends here in its place.

    It was read before: a border is needed as many diagonals earlier as there are steps.
    """
    head, samples, left, strip = group
    for n in range(samples):
        frames, steps = frames_B[head + n], min(strip, steps_B[head + n] - left)
        at = row + 2 + n * (strip + 1)
        lanes[at - 1] = borders[n, d + 2] if d + 1 < frames else big
        if steps <= d + 1 < frames + steps:
            borders[n, d - steps + 2] = lanes[at + steps - 1]


@part
def _values(lanes, size, value_B, d, frames_B, steps_B, group, big):
    """What stands in last cells: NaN if a cost was none, infinity beyond half of `big`."""
    head, samples, left, strip = group
    for n in range(samples):
        b, steps = head + n, min(strip, steps_B[head + n] - left)
        if d != frames_B[b] + steps - 2:
            continue
        at = 2 + n * (strip + 1)
        value = lanes[(WHOLE + d % 3) * size + at + steps - 1]
        wrong = left > 0 and np.isnan(value_B[b])
        for k in range(steps):
            wrong |= np.isnan(lanes[BAD * size + at + k])
        value_B[b] = np.nan if wrong else value if value < big / 2 else np.inf


@part
def _strip_forward(
    cost, drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, lanes, size,
    borders, group,
):  # fmt: skip
    """A strip of steps from `left` on, of samples that lie side by side.

    `borders` (2,samples,T+1) are P and D of the step before, and then those of the strip's last.
    """
    (rows, width), (_, samples, left, strip) = shape, group
    big, area, dropping = limits[2], rows * width, len(drop) > 0
    lanes[:] = big
    lanes[BAD * size : (BAD + 1) * size] = 0
    for n in range(samples):
        for row in (1, 2):
            at = row * size + 1 + n * (strip + 1)
            lanes[SHOWN * size + at] = borders[0, n, row - 1]
            lanes[WHOLE * size + at] = borders[1, n, row - 1]
    early, last = _ends(frames_B, steps_B, group)
    for d in range(last + 1):
        base, step = d * width + left, 1 - width
        _take(cost, area, base, step, lanes, COST * size, d, frames_B, steps_B, group, big)
        if dropping:
            _take(drop, rows, d, -1, lanes, DROP * size, d, frames_B, steps_B, group, big)
        first, stop = _reach(d, frames_B, steps_B, group, size)
        _sweep_forward(lanes, size, d, first, stop, limits, dropping, probability)
        base, row = (d + left) % rows * width + left, (WHOLE + d % 3) * size
        _keep(whole, area, base, lanes, row, d, frames_B, steps_B, group)
        if dropping or strip < width:
            _next_borders(lanes, row, borders[1], d, frames_B, steps_B, group, big)
        if dropping:
            row = (SHOWN + d % 3) * size
            _keep(shown, area, base, lanes, row, d, frames_B, steps_B, group)
            _next_borders(lanes, row, borders[0], d, frames_B, steps_B, group, big)
        if d >= early:
            _values(lanes, size, value_B, d, frames_B, steps_B, group, big)
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
        for n, b in enumerate(range(head, head + samples)):
            _first_border(drop, b * shape[0], frames_B[b], limits[2], borders[1, n])
        # Only a sample that is alone has several strips.
        for left in range(0, shape[1] if samples > 1 else steps_B[head], strip):
            _strip_forward(
                cost, drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B,
                lanes, size, borders, (head, samples, left, strip),
            )  # fmt: skip


@part
def _border(table, shape, b, left, frames, big, border):
    """The step before a strip, from a table."""
    rows, width = shape
    border[:] = big
    for t in range(frames):
        border[t + 1] = table[(b * rows + (t + left - 1) % rows) * width + left - 1]


@part
def _recall_borders(lanes, row, borders, place, frames_B, group, big):
    head, samples, _, strip = group
    for n in range(samples):
        lanes[row + 1 + n * (strip + 1)] = borders[n, place] if place <= frames_B[head + n] else big


@part
def _cross(lanes, size, d, frames_B, steps_B, crossing, group):
    """Hand on to the strip before what its last step is given, and take what this one's is.

    That was handed on by the strip after as many diagonals ago as there are steps.
    """
    head, samples, left, strip = group
    for n in range(samples):
        frames, steps = frames_B[head + n], min(strip, steps_B[head + n] - left)
        for way, row in ((0, LEFT), (1, CORNER)):
            at, t = (row + d % 3) * size + 2 + n * (strip + 1), d - steps
            given = crossing[way, n, t] if 0 <= t < frames else crossing.dtype.type(0)
            if d < frames:
                crossing[way, n, d] = lanes[at]
            lanes[at + steps] = given


@part
def _seed(lanes, row, d, frames_B, steps_B, value_B, group, big):
    """The value is its last cell's, unless there is no path."""
    head, samples, left, strip = group
    for n in range(samples):
        b = head + n
        if d == frames_B[b] + steps_B[b] - left - 2 and value_B[b] < big:
            lanes[row + 2 + n * (strip + 1) + steps_B[b] - left - 1] = 1


@part
def _strip_backward(
    drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, grad_B, grad_cost,
    grad_drop, lanes, size, borders, crossing, group,
):  # fmt: skip
    """A strip of steps from `left` on; `crossing` (2,samples,T) is what strips give one another."""
    (rows, width), (_, _, left, strip) = shape, group
    big, area, dropping, alone = limits[2], rows * width, len(drop) > 0, strip == width
    lanes[:] = big
    lanes[UP * size :] = 0
    _, last = _ends(frames_B, steps_B, group)
    # The first time there is nothing to compute: what comes before is recalled.
    for d in range(last + 1, -1, -1):
        after, later = (d + 1) % 3, (d + 2) % 3
        # Of three rows in turn, those of d + 1 and d + 2 are then for d - 2 and d - 1.
        base, row = (d + left - 2) % rows * width + left, (WHOLE + after) * size
        _take(whole, area, base, 1, lanes, row, d - 2, frames_B, steps_B, group, big)
        if dropping or not alone or d == 0:
            _recall_borders(lanes, row, borders[1], d, frames_B, group, big)
        if dropping:
            base, row = (d + left - 1) % rows * width + left, (SHOWN + later) * size
            _take(shown, area, base, 1, lanes, row, d - 1, frames_B, steps_B, group, big)
            _recall_borders(lanes, row, borders[0], d + 1, frames_B, group, big)
            _take(drop, rows, d, -1, lanes, DROP * size, d, frames_B, steps_B, group, big)
        _seed(lanes, (UP + after) * size, d, frames_B, steps_B, value_B, group, big)
        if d <= last:
            first, stop = _reach(d, frames_B, steps_B, group, size)
            _sweep_backward(lanes, size, d, first, stop, limits, dropping, probability)
            base, row = d * width + left, SHARE * size
            _add(grad_cost, area, base, 1 - width, grad_B, lanes, row, d, frames_B, steps_B, group)
        if d <= last and dropping:
            row = DROPPED * size
            _add(grad_drop, rows, d, -1, grad_B, lanes, row, d, frames_B, steps_B, group)
        if dropping or not alone:
            _cross(lanes, size, d, frames_B, steps_B, crossing, group)


@compiled
def backward(
    drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, grad_B, grad_cost,
    grad_drop, start, stop,
):  # fmt: skip
    """The gradients of ``Σ grad · value``; those of the costs need no costs.

    Arguments are as in `forward`; the gradients are flat and start as zeros.
    """
    (rows, width), big, dropping = shape, limits[2], len(drop) > 0
    side, strip, size = _layout(width)
    lanes = np.empty(ROWS * size, whole.dtype)
    borders = np.empty((2, side, rows + 1), whole.dtype)
    crossing = np.empty((2, side, rows), whole.dtype)
    for head in range(start, stop, side):
        samples = min(side, stop - head)
        crossing[:] = 0
        most = width if samples > 1 else steps_B[head]
        for left in range((most - 1) // strip * strip, -1, -strip):
            borders[0] = big
            for n, b in enumerate(range(head, head + samples)):
                if left == 0:
                    _first_border(drop, b * rows, frames_B[b], big, borders[1, n])
                else:
                    _border(whole, shape, b, left, frames_B[b], big, borders[1, n])
                if left > 0 and dropping:
                    _border(shown, shape, b, left, frames_B[b], big, borders[0, n])
            _strip_backward(
                drop, frames_B, steps_B, shape, limits, probability, shown, whole, value_B, grad_B,
                grad_cost, grad_drop, lanes, size, borders, crossing, (head, samples, left, strip),
            )  # fmt: skip
        # Frames dropped before the first step.
        for n, b in enumerate(range(head, head + samples if dropping else head)):
            total = crossing[1, n, 0] * 0
            for t in range(frames_B[b] - 1, -1, -1):
                grad_drop[b * rows + t] += total * grad_B[b]
                total += crossing[1, n, t]
