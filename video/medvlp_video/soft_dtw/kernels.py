"""Compiled sweeps over the table of soft-DTW; `cpu` launches them.

Cells of an anti-diagonal ``d = t + k`` depend on no other of the same one, so each sweep goes from
diagonal to diagonal and computes whole vectors. A diagonal's lanes are the steps; several samples
of few steps lie side by side, each behind one lane for the border:

    | . | border  k=0  k=1 ... | border  k=0  k=1 ... |

Tables are kept sheared: cell (t,k) stands in row ``(t + k) mod T`` of column k, so that diagonals
are contiguous and a table takes no more than T x K numbers.

With `big` for infinity nothing becomes NaN: sums stop there, and its soft minima get weight 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LANES = 256
"""Samples lie side by side up to this many lanes, which leave room in the nearest cache."""

_STRIDE = 32
"""Lanes are computed in multiples of this, the largest step of the compiled loops."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; the machine code is kept where a folder for it can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder can be written, neither beside this file nor in the user's own.
        return njit(**options)(function)


def _horner(builder: ir.IRBuilder, x: ir.Value, coefficients: list[float]) -> ir.Value:
    """A polynomial, the highest power first."""
    value = ir.Constant(x.type, coefficients[0])
    for coefficient in coefficients[1:]:
        value = builder.fadd(builder.fmul(value, x), ir.Constant(x.type, coefficient))
    return value


@intrinsic
def _exp(_: Any, z: Any) -> Any:
    """``exp(z)`` of z at most 0, in vectors; 0 where the result would not be a normal number.

    2^n is made in the exponent's bits; of the rest, at most log(2)/2 in size, the Taylor series.
    """
    single = z == types.float32
    bits, mantissa, bias, terms = (32, 23, 127, 7) if single else (64, 52, 1023, 13)
    lowest = -87.0 if single else -708.0
    high = float(np.float32(math.log(2))) if single else 0.6931471803691238
    low = math.log(2) - high if single else 1.9082149292705877e-10

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        x, kind, whole = values[0], values[0].type, ir.IntType(bits)
        # Added, it leaves the nearest integer in the lowest bits.
        shift = ir.Constant(kind, 1.5 * 2.0**mantissa)
        shifted = builder.fadd(builder.fmul(x, ir.Constant(kind, 1 / math.log(2))), shift)
        n = builder.fsub(shifted, shift)
        rest = builder.fsub(x, builder.fmul(n, ir.Constant(kind, high)))
        rest = builder.fsub(rest, builder.fmul(n, ir.Constant(kind, low)))
        power = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, mantissa))
        power = builder.add(power, ir.Constant(whole, bias << mantissa))
        series = _horner(builder, rest, [1 / math.factorial(n) for n in range(terms, -1, -1)])
        value = builder.fmul(series, builder.bitcast(power, kind))
        counts = builder.fcmp_ordered(">", x, ir.Constant(kind, lowest))
        return builder.select(counts, value, ir.Constant(kind, 0.0))

    return z(z), generate


@intrinsic
def _log(_: Any, s: Any) -> Any:
    """``log(s)`` of s from 1 to 3, in vectors: ``log c + 2 artanh((s - c)/(s + c))``, c = √3."""
    terms = 6 if s == types.float32 else 14

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        x, kind = values[0], values[0].type
        centre = ir.Constant(kind, math.sqrt(3))
        ratio = builder.fdiv(builder.fsub(x, centre), builder.fadd(x, centre))
        square = builder.fmul(ratio, ratio)
        series = _horner(builder, square, [2 / (2 * n + 1) for n in range(terms - 1, -1, -1)])
        value = builder.fmul(ratio, series)
        return builder.fadd(value, ir.Constant(kind, math.log(math.sqrt(3))))

    return s(s), generate


@compiled
def _least(a, b):
    return a if a < b else b


@compiled
def _most(a, b):
    return a if a > b else b


@compiled
def _log_sum(a, b, c, gamma, inverse, one):
    """``-γ log Σ exp(-x/γ)``; sorted, since the least one's exponential is 1."""
    low, high = _least(a, b), _most(a, b)
    middle = _least(_most(low, c), high)
    low, high = _least(low, c), _most(high, c)
    rest = _exp((low - middle) * inverse) + _exp((low - high) * inverse)
    return low - gamma * _log(one + rest)


@compiled
def _expected(a, b, c, gamma, inverse, floor):
    """``Σ p x`` with ``p = softmax(-x/γ)``."""
    low = _least(_least(a, b), c)
    u = _most((low - a) * inverse, floor)
    v = _most((low - b) * inverse, floor)
    w = _most((low - c) * inverse, floor)
    p, q, r = _exp(u), _exp(v), _exp(w)
    return low - gamma * (p * u + q * v + r * w) / (p + q + r)


@compiled
def _shares(a, b, c, inverse, floor, one, expected):
    """The derivatives of either soft minimum, which sum to 1."""
    low = _least(_least(a, b), c)
    u = _most((low - a) * inverse, floor)
    v = _most((low - b) * inverse, floor)
    w = _most((low - c) * inverse, floor)
    p, q, r = _exp(u), _exp(v), _exp(w)
    whole = one / (p + q + r)
    p, q, r = p * whole, q * whole, r * whole
    if expected:
        more = one - (p * u + q * v + r * w)
        p, q, r = p * (more + u), q * (more + v), r * (more + w)
    return p, q, r


@compiled
def _soften(cost, up, left, corner, out, first, stop, gamma, inverse, floor, big, expected):
    """Lanes of ``cost + softmin``; `left` and `corner` are those of the lane before."""
    one = out.dtype.type(1)
    if expected:
        for n in range(first, stop):
            soft = _expected(up[n], left[n - 1], corner[n - 1], gamma, inverse, floor)
            out[n] = _least(cost[n] + soft, big)
    else:
        for n in range(first, stop):
            soft = _log_sum(up[n], left[n - 1], corner[n - 1], gamma, inverse, one)
            out[n] = _least(cost[n] + soft, big)


@compiled
def _soften_drop(shown, drop, up, out, first, stop, gamma, inverse, floor, big, expected):
    """Lanes of ``softmin(shown, drop + up)``."""
    one = out.dtype.type(1)
    if expected:
        for n in range(first, stop):
            soft = _expected(shown[n], drop[n] + up[n], big, gamma, inverse, floor)
            out[n] = _least(soft, big)
    else:
        for n in range(first, stop):
            soft = _log_sum(shown[n], drop[n] + up[n], big, gamma, inverse, one)
            out[n] = _least(soft, big)


@compiled
def _pull(from_up, from_left, from_corner, share, first, stop, tiny):
    """Lanes of a cell's share in the value, from the cells that build upon it."""
    none = share.dtype.type(0)
    for n in range(first, stop):
        found = from_up[n] + from_left[n + 1] + from_corner[n + 1]
        # Numbers below the normal ones would be slow, and count for nothing.
        share[n] = found if abs(found) > tiny else none


@compiled
def _split(
    from_up, from_left, from_corner, shown, drop, up, share, dropped, first, stop,
    inverse, floor, tiny, big, expected,
):  # fmt: skip
    """`_pull` with drops: shares of frames that are shown, and of those that are dropped."""
    one, none = share.dtype.type(1), share.dtype.type(0)
    for n in range(first, stop):
        found = from_up[n] + from_corner[n + 1]
        p, q, _ = _shares(shown[n], drop[n] + up[n], big, inverse, floor, one, expected)
        show, miss = found * p + from_left[n + 1], found * q
        share[n] = show if abs(show) > tiny else none
        dropped[n] = miss if abs(miss) > tiny else none


@compiled
def _push(
    share, dropped, up, left, corner, to_up, to_left, to_corner, first, stop,
    inverse, floor, expected,
):  # fmt: skip
    """Lanes of what each cell hands on to the three that it is built upon."""
    one = share.dtype.type(1)
    for n in range(first, stop):
        p, q, r = _shares(up[n], left[n - 1], corner[n - 1], inverse, floor, one, expected)
        to_up[n] = share[n] * p + dropped[n]
        to_left[n] = share[n] * q
        to_corner[n] = share[n] * r


@compiled
def _span(d, frames, steps):
    """The steps of a sample's cells on a diagonal: from, and up to."""
    return max(0, d - frames + 1), min(steps, d + 1)


@compiled
def _reach(d, frames, steps, samples, lanes):
    """The lanes to compute: all of several samples, those of its span of one."""
    if samples > 1:
        return 1, lanes - 1
    begin, end = _span(d, frames, steps)
    return 1 + begin // _STRIDE * _STRIDE, 1 + -(-(end + 1) // _STRIDE) * _STRIDE


@compiled
def _take(cost_TK, d, begin, end, lanes, at, big):
    """Put a diagonal's costs into lanes; whether one of them is no cost."""
    bad = False
    for k in range(begin, end):
        c = cost_TK[d - k, k]
        bad |= not c >= -big
        lanes[at + k] = _least(c, big)
    return bad


@compiled
def _take_drop(drop_T, d, begin, end, lanes, at, big):
    """Put the drop costs of a diagonal's frames into lanes; whether one of them is no cost."""
    bad = False
    for k in range(begin, end):
        c = drop_T[d - k]
        bad |= not c >= -big
        lanes[at + k] = _least(c, big)
    return bad


@compiled
def _keep(table_TK, d, begin, end, lanes, at):
    row = table_TK[d % len(table_TK)]
    for k in range(begin, end):
        row[k] = lanes[at + k]


@compiled
def _recall(table_TK, d, frames, steps, lanes, at, big):
    """Put a diagonal of a table into lanes that held the third one after it."""
    begin, end = _span(d, frames, steps)
    if end > begin:
        row = table_TK[d % len(table_TK)]
        for k in range(begin, end):
            lanes[at + k] = row[k]
    for k in range(max(end, 0), min(steps, max(end, 0) + 3)):
        lanes[at + k] = big


@compiled
def _begin(cost_BTK, drop_BT, frames_B, steps_B, value_B, d, head, samples, cost, drop, big):
    """Put a diagonal's costs into lanes; the value of a sample with one that is none is NaN."""
    width = cost_BTK.shape[2] + 1
    for b in range(head, head + samples):
        begin, end = _span(d, frames_B[b], steps_B[b])
        at = 2 + (b - head) * width
        bad = _take(cost_BTK[b], d, begin, end, cost, at, big)
        if drop_BT.shape[1]:
            early = max(-1, d - frames_B[b] + 1)
            bad |= _take_drop(drop_BT[b], d, early, end, drop, at, big)
        if bad:
            value_B[b] = np.nan


@compiled
def _finish(frames_B, steps_B, d, head, samples, kept, lanes, table_BTK, width):
    """Keep a diagonal of a table."""
    if kept:
        for b in range(head, head + samples):
            begin, end = _span(d, frames_B[b], steps_B[b])
            _keep(table_BTK[b], d, begin, end, lanes, 2 + (b - head) * width)


@compiled
def _values(frames_B, steps_B, value_B, d, head, samples, lanes, width, big):
    """Add the values of samples that end with a diagonal, infinity beyond half of `big`."""
    for b in range(head, head + samples):
        if d == frames_B[b] + steps_B[b] - 2:
            value = lanes[2 + (b - head) * width + steps_B[b] - 1]
            value_B[b] += value if value < big / 2 else np.inf


@compiled
def forward(
    cost_BTK, drop_BT, frames_B, steps_B, limits, expected, kept, shown_BTK, all_BTK, value_B,
    start, stop,
):  # fmt: skip
    """Values of samples `start` to `stop` and, where they are `kept`, the tables for `backward`.

    With drop costs, (B,T) and not (B,0), `shown_BTK` is P of soft Drop-DTW and `all_BTK` D;
    without, the table is `all_BTK`. `limits` are gamma, its inverse, and `cpu.LIMITS`.
    """
    gamma, inverse, big, floor, _ = limits
    width, dropping = cost_BTK.shape[2] + 1, drop_BT.shape[1] > 0
    side = max(1, LANES // width)
    size = 2 + -(-side * width // _STRIDE) * _STRIDE
    kind = cost_BTK.dtype
    cost, drop = np.empty(size, kind), np.empty(size, kind)
    whole, parts = np.empty((3, size), kind), np.empty((3, size), kind)
    shown = parts if dropping else whole
    for head in range(start, stop, side):
        samples = min(side, stop - head)
        cost[:], drop[:], whole[:], shown[:] = big, big, big, big
        last = 0
        for b in range(head, head + samples):
            last = max(last, frames_B[b] + steps_B[b] - 1)
            value_B[b] = 0
            # The origin is the border of diagonal -2.
            whole[1, 1 + (b - head) * width] = 0
        # Diagonal -1 is that of the first frame's border, which is of use to drops alone.
        for d in range(-1 if dropping else 0, last):
            now, before, corner = d % 3, (d + 2) % 3, (d + 1) % 3
            _begin(cost_BTK, drop_BT, frames_B, steps_B, value_B, d, head, samples, cost, drop, big)
            n, m = _reach(d, frames_B[head], steps_B[head], samples, size)
            _soften(
                cost, whole[before], shown[before], whole[corner], shown[now], n, m,
                gamma, inverse, floor, big, expected,
            )  # fmt: skip
            if dropping:
                _soften_drop(
                    shown[now], drop, whole[before], whole[now], n, m,
                    gamma, inverse, floor, big, expected,
                )  # fmt: skip
                _finish(frames_B, steps_B, d, head, samples, kept, shown[now], shown_BTK, width)
            _finish(frames_B, steps_B, d, head, samples, kept, whole[now], all_BTK, width)
            _values(frames_B, steps_B, value_B, d, head, samples, whole[now], width, big)


@compiled
def _border(drop_T, frames, big, out):
    """The border's D: nothing shown yet, every frame dropped; without drops only the origin."""
    out[:] = big
    out[0] = 0
    if len(drop_T):
        for t in range(frames):
            out[t + 1] = _least(out[t] + _least(drop_T[t], big), big)


@compiled
def _recall_all(table_BTK, frames_B, steps_B, d, head, samples, lanes, border, width, big):
    """A diagonal of a table into lanes; `border` has none, or a row for every sample."""
    for b in range(head, head + samples):
        at = 2 + (b - head) * width
        _recall(table_BTK[b], d, frames_B[b], steps_B[b], lanes, at, big)
        if len(border):
            lanes[at - 1] = border[b - head, d + 2] if d + 2 <= frames_B[b] else big


@compiled
def _give(grad_BTK, frames_B, steps_B, grad_B, d, head, samples, lanes):
    """A diagonal's lanes, times each sample's own factor, to the gradient of the costs."""
    for b in range(head, head + samples):
        at = 2 + (b - head) * (grad_BTK.shape[2] + 1)
        begin, end = _span(d, frames_B[b], steps_B[b])
        for k in range(begin, end):
            grad_BTK[b, d - k, k] = lanes[at + k] * grad_B[b]


@compiled
def _give_drop(grad_BT, frames_B, steps_B, grad_B, d, head, samples, lanes, width):
    """A diagonal's lanes of drops, border included, to the gradient of the drop costs."""
    for b in range(head, head + samples):
        at = 2 + (b - head) * width
        for k in range(max(-1, d - frames_B[b] + 1), _span(d, frames_B[b], steps_B[b])[1]):
            grad_BT[b, d - k] += lanes[at + k] * grad_B[b]


@compiled
def _seed(frames_B, steps_B, value_B, d, head, samples, lanes, width):
    """A sample's last cell is its value."""
    for b in range(head, head + samples):
        if d == frames_B[b] + steps_B[b] - 2 and np.isfinite(value_B[b]):
            lanes[2 + (b - head) * width + steps_B[b] - 1] = 1


@compiled
def backward(
    drop_BT, frames_B, steps_B, limits, expected, shown_BTK, all_BTK, value_B, grad_B,
    grad_cost_BTK, grad_drop_BT, start, stop,
):  # fmt: skip
    """The gradients of ``Σ grad · value``; those of the costs need no costs.

    `grad_drop_BT` starts as zeros, `grad_cost_BTK` as anything.
    """
    _, inverse, big, floor, tiny = limits
    dropping, width = drop_BT.shape[1] > 0, all_BTK.shape[2] + 1
    side = max(1, LANES // width)
    size = 2 + -(-side * width // _STRIDE) * _STRIDE
    kind = all_BTK.dtype
    whole, parts = np.empty((3, size), kind), np.empty((3, size), kind)
    shown = parts if dropping else whole
    to_up, to_left, to_corner = (
        np.empty((3, size), kind), np.empty((3, size), kind), np.empty((3, size), kind)
    )  # fmt: skip
    share, dropped, drop = np.empty(size, kind), np.zeros(size, kind), np.empty(size, kind)
    border, none = np.empty((side, all_BTK.shape[1] + 1), kind), np.empty((0, 0), kind)
    for head in range(start, stop, side):
        samples = min(side, stop - head)
        drop[:], whole[:], shown[:] = big, big, big
        to_up[:], to_left[:], to_corner[:] = 0, 0, 0
        last = 0
        for b in range(head, head + samples):
            last = max(last, frames_B[b] + steps_B[b] - 2)
            _border(drop_BT[b], frames_B[b], big, border[b - head])
            if frames_B[b] < all_BTK.shape[1] or steps_B[b] < all_BTK.shape[2]:
                grad_cost_BTK[b] = 0
        before = whole[(last + 2) % 3]
        _recall_all(all_BTK, frames_B, steps_B, last - 1, head, samples, before, border, width, big)
        if dropping:
            now = shown[last % 3]
            _recall_all(shown_BTK, frames_B, steps_B, last, head, samples, now, none, width, big)
        for d in range(last, -2 if dropping else -1, -1):
            now, after, later = d % 3, (d + 1) % 3, (d + 2) % 3
            # Of three buffers in turn, the one for d - 1 was that of d + 2.
            _recall_all(
                all_BTK, frames_B, steps_B, d - 2, head, samples, whole[after], border, width, big
            )
            _seed(frames_B, steps_B, value_B, d, head, samples, to_up[after], width)
            n, m = _reach(d, frames_B[head], steps_B[head], samples, size)
            if dropping:
                _recall_all(
                    shown_BTK, frames_B, steps_B, d - 1, head, samples, shown[later], none, width,
                    big,
                )  # fmt: skip
                for b in range(head, head + samples):
                    early, end = max(-1, d - frames_B[b] + 1), min(steps_B[b], d + 1)
                    at = 2 + (b - head) * width
                    _take_drop(drop_BT[b], d, early, end, drop, at, big)
                _split(
                    to_up[after], to_left[after], to_corner[later], shown[now], drop, whole[later],
                    share, dropped, n, m, inverse, floor, tiny, big, expected,
                )  # fmt: skip
                _give_drop(
                    grad_drop_BT, frames_B, steps_B, grad_B, d, head, samples, dropped, width
                )
            else:
                _pull(to_up[after], to_left[after], to_corner[later], share, n, m, tiny)
            _push(
                share, dropped, whole[later], shown[later], whole[after],
                to_up[now], to_left[now], to_corner[now], n, m, inverse, floor, expected,
            )  # fmt: skip
            _give(grad_cost_BTK, frames_B, steps_B, grad_B, d, head, samples, share)
