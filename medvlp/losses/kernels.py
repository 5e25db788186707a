"""Triton kernels of the contrastive losses' sums over all pairs; `fused` launches them.

Each computes blocks of logits and uses them where they are: product, left-out pairs, exponentials
and sums never leave a multiprocessor. Partial sums are written one by one, not added atomically,
so that a run repeats bit for bit.

The kernels begin with the same arguments: rows, columns, scale, bias, the ids of pairs to drop and
to keep (`tiled.Exclusion`), the numbers of rows, columns and channels, and those of ids.
"""

import triton
import triton.language as tl


@triton.jit
def _any_match(
    row_ids,
    column_ids,
    rows,
    columns,
    row_count,
    column_count,
    places,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Which pairs agree in any place."""
    found = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.int1)
    for place in range(places):
        row = tl.load(row_ids + rows * places + place, mask=rows < row_count, other=-1)
        column = tl.load(column_ids + columns * places + place, mask=columns < column_count)
        found = found | (row[:, None] == column[None, :])
    return found


@triton.jit
def _logits(
    image,
    text,
    scale,
    bias,
    drop_rows,
    drop_columns,
    keep_rows,
    keep_columns,
    rows,
    columns,
    row_count,
    column_count,
    width,
    drop_places,
    keep_places,
    EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One block of logits; -inf where a pair is left out or lies outside."""
    inside_R = rows < row_count
    inside_C = columns < column_count
    dot = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    for start in range(0, width, BLOCK_E):
        channels = start + tl.arange(0, BLOCK_E)
        inside_E = channels < width
        x = tl.load(
            image + rows[:, None] * width + channels[None, :],
            mask=inside_R[:, None] & inside_E[None, :],
            other=0.0,
        )
        y = tl.load(
            text + columns[None, :] * width + channels[:, None],
            mask=inside_C[None, :] & inside_E[:, None],
            other=0.0,
        )
        dot = tl.dot(x, y, dot, input_precision=PRECISION)
    inside = inside_R[:, None] & inside_C[None, :]
    if EXCLUDE:
        dropped = _any_match(
            drop_rows, drop_columns, rows, columns, row_count, column_count, drop_places,
            BLOCK_R, BLOCK_C,
        )  # fmt: skip
        kept = _any_match(
            keep_rows, keep_columns, rows, columns, row_count, column_count, keep_places,
            BLOCK_R, BLOCK_C,
        )  # fmt: skip
        inside = inside & (kept | (dropped == 0))
    return tl.where(inside, dot * tl.load(scale) + tl.load(bias), float("-inf"))


@triton.jit
def _finite(most):
    """A maximum to subtract: 0 where there is none, since -inf less -inf is no number."""
    return tl.where(most == float("-inf"), 0.0, most)


@triton.jit
def log_sums(
    image,
    text,
    scale,
    bias,
    drop_rows,
    drop_columns,
    keep_rows,
    keep_columns,
    row_count,
    column_count,
    width,
    drop_places,
    keep_places,
    row_parts,
    column_parts,
    split,
    EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Log-sums of a block of rows over one part of the columns, and of each column over the block.

    Rows keep a running maximum (arXiv:1805.02867); a column's sum over the block is complete.
    """
    block = tl.program_id(0)
    part = tl.program_id(1)
    rows = (block * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    most_R = tl.full((BLOCK_R,), float("-inf"), dtype=tl.float32)
    sum_R = tl.zeros((BLOCK_R,), dtype=tl.float32)
    for start in range(part * split, tl.minimum((part + 1) * split, column_count), BLOCK_C):
        columns = (start + tl.arange(0, BLOCK_C)).to(tl.int64)
        logits = _logits(
            image, text, scale, bias, drop_rows, drop_columns, keep_rows, keep_columns,
            rows, columns, row_count, column_count, width, drop_places, keep_places,
            EXCLUDE, PRECISION, BLOCK_R, BLOCK_C, BLOCK_E,
        )  # fmt: skip
        shift_C = _finite(tl.max(logits, 0))
        sum_C = tl.sum(tl.exp(logits - shift_C[None, :]), 0)
        tl.store(
            column_parts + block.to(tl.int64) * column_count + columns,
            shift_C + tl.log(sum_C),
            mask=columns < column_count,
        )
        new_R = tl.maximum(most_R, tl.max(logits, 1))
        shift_R = _finite(new_R)
        sum_R = sum_R * tl.exp(most_R - shift_R) + tl.sum(tl.exp(logits - shift_R[:, None]), 1)
        most_R = new_R
    tl.store(
        row_parts + part.to(tl.int64) * row_count + rows,
        _finite(most_R) + tl.log(sum_R),
        mask=rows < row_count,
    )


@triton.jit
def softmax_gradient(
    image,
    text,
    scale,
    bias,
    drop_rows,
    drop_columns,
    keep_rows,
    keep_columns,
    row_count,
    column_count,
    width,
    drop_places,
    keep_places,
    row_sum,
    column_sum,
    row_grad,
    column_grad,
    out,
    EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """The logits' gradient ``g_i exp(L - lse_i) + h_j exp(L - lse_j)``."""
    rows = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    columns = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    logits = _logits(
        image, text, scale, bias, drop_rows, drop_columns, keep_rows, keep_columns,
        rows, columns, row_count, column_count, width, drop_places, keep_places,
        EXCLUDE, PRECISION, BLOCK_R, BLOCK_C, BLOCK_E,
    )  # fmt: skip
    inside_R = rows < row_count
    inside_C = columns < column_count
    lse_R = tl.load(row_sum + rows, mask=inside_R, other=0.0)
    lse_C = tl.load(column_sum + columns, mask=inside_C, other=0.0)
    g_R = tl.load(row_grad + rows, mask=inside_R, other=0.0)
    h_C = tl.load(column_grad + columns, mask=inside_C, other=0.0)
    grad = g_R[:, None] * tl.exp(logits - lse_R[:, None])
    grad += h_C[None, :] * tl.exp(logits - lse_C[None, :])
    tl.store(
        out + rows[:, None] * column_count + columns[None, :],
        grad,
        mask=inside_R[:, None] & inside_C[None, :],
    )


@triton.jit
def _log_one_plus(e):
    """``log(1 + e)`` for e of 0 to 1 as ``2 artanh(e / (2 + e))``.

    The device's logarithm has an absolute error near 1, which would swallow small e: nearly all
    of a sigmoid loss's pairs.
    """
    z = e / (2.0 + e)
    s = z * z
    tail = 1.0 / 11 + s * (1.0 / 13 + s * (1.0 / 15))
    series = 1.0 + s * (1.0 / 3 + s * (1.0 / 5 + s * (1.0 / 7 + s * (1.0 / 9 + s * tail))))
    return 2.0 * z * series


@triton.jit
def softplus_sums(
    image,
    text,
    scale,
    bias,
    drop_rows,
    drop_columns,
    keep_rows,
    keep_columns,
    row_count,
    column_count,
    width,
    drop_places,
    keep_places,
    row_weight,
    column_weight,
    totals,
    grad_totals,
    out,
    GRADIENT: tl.constexpr,
    EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """A block's ``Σ w_i u_j log(1 + exp L)``, and on demand its gradient and that one's sum."""
    rows = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    columns = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    logits = _logits(
        image, text, scale, bias, drop_rows, drop_columns, keep_rows, keep_columns,
        rows, columns, row_count, column_count, width, drop_places, keep_places,
        EXCLUDE, PRECISION, BLOCK_R, BLOCK_C, BLOCK_E,
    )  # fmt: skip
    inside_R = rows < row_count
    inside_C = columns < column_count
    weight = (
        tl.load(row_weight + rows, mask=inside_R, other=0.0)[:, None]
        * tl.load(column_weight + columns, mask=inside_C, other=0.0)[None, :]
    )
    e = tl.exp(-tl.abs(logits))
    place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    terms = weight * (tl.maximum(logits, 0.0) + _log_one_plus(e))
    tl.store(totals + place, tl.sum(tl.sum(terms, 1), 0))
    if GRADIENT:
        grad = weight * tl.where(logits >= 0, 1.0, e) / (1.0 + e)
        tl.store(grad_totals + place, tl.sum(tl.sum(grad, 1), 0))
        tl.store(
            out + rows[:, None] * column_count + columns[None, :],
            grad,
            mask=inside_R[:, None] & inside_C[None, :],
        )
