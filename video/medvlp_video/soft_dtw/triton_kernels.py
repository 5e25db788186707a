"""Triton kernels of soft-DTW's two sweeps; `cuda` launches them, a program for every sample.

A program goes from anti-diagonal to anti-diagonal ``d = t + k`` with a block of steps in registers
and shifts them by one between diagonals. More steps than a block are taken in strips, one after
another, which leave each other what is needed at their border, in turn in one of two places.
Tables are sheared as in `kernels`: cell (t,k) stands in row ``(t + k) mod T`` of column k.
`limits` are gamma, its inverse, a number for infinity, and the exponent from which down an
exponential counts as 0.
"""

import triton
import triton.language as tl


@triton.jit
def _exponents(a, b, c, limits):
    """The least, and each one's exponent relative to it."""
    inverse, floor = tl.load(limits + 1), tl.load(limits + 3)
    low = tl.minimum(tl.minimum(a, b), c)
    u = tl.maximum((low - a) * inverse, floor)
    v = tl.maximum((low - b) * inverse, floor)
    w = tl.maximum((low - c) * inverse, floor)
    return low, u, v, w


@triton.jit
def _exp(z, limits):
    return tl.where(z > tl.load(limits + 3), tl.exp(z), 0.0)


@triton.jit
def _soft_min(a, b, c, limits, PROBABILITY: tl.constexpr):
    low, u, v, w = _exponents(a, b, c, limits)
    p, q, r = _exp(u, limits), _exp(v, limits), _exp(w, limits)
    below = (p * u + q * v + r * w) / (p + q + r) if PROBABILITY else tl.log(p + q + r)
    return low - tl.load(limits) * below


@triton.jit
def _shares(a, b, c, limits, PROBABILITY: tl.constexpr):
    """The derivatives of `_soft_min`."""
    _, u, v, w = _exponents(a, b, c, limits)
    p, q, r = _exp(u, limits), _exp(v, limits), _exp(w, limits)
    whole = p + q + r
    p, q, r = p / whole, q / whole, r / whole
    if PROBABILITY:
        more = 1.0 - (p * u + q * v + r * w)
        p, q, r = p * (more + u), q * (more + v), r * (more + w)
    return p, q, r


@triton.jit
def _from_before(values, first, lane):
    """Every lane's value from the lane before, the first one's from elsewhere."""
    return tl.where(lane == 0, first, tl.gather(values, tl.maximum(lane - 1, 0), 0))


@triton.jit
def _from_after(values, lane, BLOCK: tl.constexpr):
    """Every lane's value from the lane after, 0 for the last one."""
    moved = tl.gather(values, tl.minimum(lane + 1, BLOCK - 1), 0)
    return tl.where(lane == BLOCK - 1, 0.0, moved)


@triton.jit
def _row(diagonal, lane, rows, width):
    """Where a diagonal's row of a sheared table begins, for every lane."""
    return (lane * 0 + diagonal % rows).to(tl.int64) * width


@triton.jit
def forward(
    cost,
    drop,
    frames_B,
    steps_B,
    limits,
    shown,
    whole,
    edge,
    border,
    value_B,
    rows,
    width,
    PROBABILITY: tl.constexpr,
    DROP: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A sample's value, and the tables for `backward`.

    `shown` is P of soft Drop-DTW and `whole` D; without drops there is `whole` alone. `edge` (B,T)
    is D before the first step. `border` (B,2,2,T) are P and D of a strip's last step, twice.
    """
    b = tl.program_id(0).to(tl.int64)
    frames, steps = tl.load(frames_B + b), tl.load(steps_B + b)
    big = tl.load(limits + 2)
    lane = tl.arange(0, BLOCK)
    none = tl.zeros((BLOCK,), dtype=cost.dtype.element_ty)
    bad = tl.zeros((BLOCK,), dtype=tl.int32)
    value = big
    cost += b * rows * width
    shown += b * rows * width
    whole += b * rows * width
    border += b * rows * 4
    drop += b * rows
    edge += b * rows
    for left in range(0, steps, BLOCK):
        count = tl.minimum(steps - left, BLOCK)
        read = border + left // BLOCK % 2 * 2 * rows
        write = border + (1 - left // BLOCK % 2) * 2 * rows
        k = left + lane
        above, own = none + big, none + big
        corner = tl.where((left == 0) & (lane == 0), 0.0, above)
        missed = big * 0.0
        for d in range(0, frames + count - 1):
            t = d - lane
            inside = (t >= 0) & (t < frames) & (lane < count)
            c = tl.load(cost + t.to(tl.int64) * width + k, mask=inside, other=big)
            bad = bad | (inside & ((c >= -big) == 0)).to(tl.int32)
            c = tl.minimum(tl.where(c >= -big, c, 0.0), big)
            bordered = (left > 0) & (d < frames)
            first = tl.load(read + d, mask=bordered, other=big)
            beside = _from_before(own, first, lane)
            own = tl.minimum(c + _soft_min(above, beside, corner, limits, PROBABILITY), big)
            if DROP:
                away = tl.load(drop + t, mask=inside, other=big)
                bad = bad | (inside & ((away >= -big) == 0)).to(tl.int32)
                away = tl.minimum(tl.where(away >= -big, away, 0.0), big)
                missed += tl.load(drop + d, mask=d < frames, other=big)
                missed = tl.minimum(tl.where(missed >= -big, missed, 0.0), big)
                first = tl.load(read + rows + d, mask=bordered, other=big)
                first = tl.where(left == 0, missed, first)
                corner = _from_before(above, first, lane)
                above = _soft_min(own, away + above, none + big, limits, PROBABILITY)
                above = tl.minimum(above, big)
                if KEEP:
                    tl.store(shown + _row(d + left, lane, rows, width) + k, own, mask=inside)
                    tl.store(edge + d, missed, mask=(left == 0) & (d < frames))
            else:
                corner = beside
                above = own
            if KEEP:
                tl.store(whole + _row(d + left, lane, rows, width) + k, above, mask=inside)
            ends = inside & (lane == count - 1)
            tl.store(write + t, own, mask=ends)
            tl.store(write + rows + t, above, mask=ends)
        value = tl.sum(tl.where(lane == count - 1, above, 0.0), 0)
        # The next strip reads what other threads have written.
        tl.debug_barrier()
    value = tl.where(value < big / 2, value, float("inf"))
    tl.store(value_B + b, tl.where(tl.max(bad, 0) > 0, float("nan"), value))


@triton.jit
def backward(
    drop,
    frames_B,
    steps_B,
    limits,
    shown,
    whole,
    edge,
    value_B,
    grad_B,
    crossing,
    grad_cost,
    grad_drop,
    rows,
    width,
    PROBABILITY: tl.constexpr,
    DROP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradients of a sample's ``grad · value``, from its last strip to its first.

    `crossing` (B,2,2,T) is what a strip's first step hands on to the step before, to that of the
    same frame and to that of the frame before, twice.
    """
    b = tl.program_id(0).to(tl.int64)
    frames, steps = tl.load(frames_B + b), tl.load(steps_B + b)
    big = tl.load(limits + 2)
    counts = tl.load(value_B + b) < big / 2
    factor = tl.where(counts, tl.load(grad_B + b), 0.0)
    begun = tl.where(counts, big * 0.0 + 1.0, big * 0.0)
    lane = tl.arange(0, BLOCK)
    none = tl.zeros((BLOCK,), dtype=whole.dtype.element_ty)
    shown += b * rows * width
    whole += b * rows * width
    grad_cost += b * rows * width
    crossing += b * rows * 4
    drop += b * rows
    edge += b * rows
    grad_drop += b * rows
    strips = tl.cdiv(steps, BLOCK)
    for strip in range(0, strips):
        left = (strips - 1 - strip) * BLOCK
        count = tl.minimum(steps - left, BLOCK)
        read = crossing + strip % 2 * 2 * rows
        write = crossing + (1 - strip % 2) * 2 * rows
        k = left + lane
        to_up, to_left, corner, corner_next, missed = none, none, none, none, none
        before = big * 0.0
        for done in range(0, frames + count - 1):
            d = frames + count - 2 - done
            t = d - lane
            inside = (t >= 0) & (t < frames) & (lane < count)
            last = inside & (lane == count - 1)
            row = _row(d + left + rows - 1, lane, rows, width)
            far_row = _row(d + left + 2 * rows - 2, lane, rows, width)
            up = tl.load(whole + row + k, mask=inside & (t > 0), other=big)
            far = tl.load(whole + far_row + k - 1, mask=inside & (t > 0) & (k > 0), other=big)
            far = tl.where((t == 0) & (k == 0), 0.0, far)
            either = to_up + corner
            handed = last & (strip > 0)
            either += tl.load(read + rows + t + 1, mask=handed & (t + 1 < frames), other=0.0)
            either += tl.where(last & (strip == 0) & (t == frames - 1), begun, none)
            beside_share = _from_after(to_left, lane, BLOCK)
            beside_share += tl.load(read + t, mask=handed, other=0.0)
            if DROP:
                beside = tl.load(shown + row + k - 1, mask=inside & (k > 0), other=big)
                far = tl.load(edge + t - 1, mask=inside & (t > 0) & (k == 0), other=far)
                away = tl.minimum(tl.load(drop + t, mask=inside, other=big), big)
                now_row = _row(d + left, lane, rows, width)
                now = tl.load(shown + now_row + k, mask=inside, other=big)
                p, q, r = _shares(now, away + up, none + big, limits, PROBABILITY)
                share = tl.where(inside, either * p + beside_share, 0.0)
                miss = tl.where(inside, either * q, 0.0)
            else:
                beside = tl.load(whole + row + k - 1, mask=inside & (k > 0), other=big)
                share = tl.where(inside, either + beside_share, 0.0)
                miss = none
            p, q, r = _shares(up, beside, far, limits, PROBABILITY)
            to_up = share * p + miss
            to_left = share * q
            pushed = share * r
            corner = corner_next
            corner_next = _from_after(pushed, lane, BLOCK)
            tl.store(grad_cost + t.to(tl.int64) * width + k, share * factor, mask=inside)
            first = inside & (lane == 0)
            tl.store(write + t, to_left, mask=first & (k > 0))
            tl.store(write + rows + t, pushed, mask=first & (k > 0))
            if DROP:
                # A frame's sum moves on with it from lane to lane until the first.
                missed = _from_after(missed, lane, BLOCK) + miss
                total = missed + tl.where(left == 0, before, 0.0)
                total = total * factor
                total += tl.load(grad_drop + t, mask=first & (strip > 0), other=0.0)
                tl.store(grad_drop + t, total, mask=first)
                before += tl.sum(tl.where(first, pushed, 0.0), 0)
        tl.debug_barrier()
