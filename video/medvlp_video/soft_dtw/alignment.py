"""Soft dynamic time warping over a matrix of costs, with its variants and their alignments.

With ``R(0,0) = 0`` and infinity on the rest of the border,

    R(t,k) = C(t,k) + softmin(R(t-1,k), R(t-1,k-1), R(t,k-1))

and the value is ``R(T,K)`` (Cuturi and Blondel, arXiv:1703.01541). There are two soft minima of
temperature γ:

- ``logsumexp``: ``-γ log Σ exp(-R/γ)``. The value is ``-γ log Σ exp(-cost of path/γ)`` over all
  monotone paths, and its gradient the expected alignment, a probability of every cell.
- ``probability``: ``Σ p R`` with ``p = softmax(-R/γ)``, as PeskaVLP publishes it
  (arXiv:2410.00263). Its gradient may be negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

SoftMin = Literal["logsumexp", "probability"]
Lengths = Tensor | Sequence[int] | None


def soft_dtw(
    cost_BTK: Tensor,
    gamma: float,
    lengths_T: Lengths = None,
    lengths_K: Lengths = None,
    soft_min: SoftMin = "logsumexp",
) -> Tensor:
    """The softened cost of the best monotone alignment of T frames with K steps.

    What lies beyond a sample's lengths is never read, whatever it holds. A cost of infinity
    forbids a cell; where that leaves no path the value is infinity and the gradient zero.
    The first derivative is exact, a second one is refused.

    Args:
        cost_BTK: The cost of showing step k in frame t; float16 and bfloat16 are widened.
        gamma: Temperature of the soft minimum, in the unit of the costs.
        lengths_T: (B,) each sample's frames; all where absent.
        lengths_K: (B,) each sample's steps; all where absent.
        soft_min: Which soft minimum.

    Returns:
        (B,).

    Raises:
        ValueError: Shapes, lengths, temperature or soft minimum are out of range, or a cost that
            counts is NaN or -inf.
    """
    return _aligned(cost_BTK, None, gamma, lengths_T, lengths_K, soft_min)


def soft_drop_dtw(
    cost_BTK: Tensor,
    drop_BT: Tensor,
    gamma: float,
    lengths_T: Lengths = None,
    lengths_K: Lengths = None,
    soft_min: SoftMin = "logsumexp",
) -> Tensor:
    """`soft_dtw` in which a frame may belong to no step, at a cost (arXiv:2108.11996).

    ``P`` ends with frame t shown as step k, ``D`` with frame t shown or dropped:

        P(t,k) = C(t,k) + softmin(D(t-1,k), D(t-1,k-1), P(t,k-1))
        D(t,k) = softmin(P(t,k), d(t) + D(t-1,k)),   D(t,0) = d(1) + ... + d(t)

    Every step is shown in at least one frame.

    Args:
        cost_BTK: As in `soft_dtw`.
        drop_BT: The cost of dropping each frame; infinity where it must not be.
        gamma: As in `soft_dtw`.
        lengths_T: As in `soft_dtw`.
        lengths_K: As in `soft_dtw`.
        soft_min: As in `soft_dtw`.

    Returns:
        (B,), ``D(T,K)``, differentiable in both costs.

    Raises:
        ValueError: As `soft_dtw`, or `drop_BT` is not (B,T).
    """
    return _aligned(cost_BTK, drop_BT, gamma, lengths_T, lengths_K, soft_min)


def soft_dtw_divergence(
    cost_xy_BTK: Tensor,
    cost_xx_BTT: Tensor,
    cost_yy_BKK: Tensor,
    gamma: float,
    lengths_T: Lengths = None,
    lengths_K: Lengths = None,
    soft_min: SoftMin = "logsumexp",
) -> Tensor:
    """``sdtw(x,y) - (sdtw(x,x) + sdtw(y,y)) / 2`` (Blondel et al., arXiv:2010.08354).

    Unlike `soft_dtw` itself it is zero for equal sequences; with ``logsumexp`` and suitable costs
    it is never negative.

    Args:
        cost_xy_BTK: Costs between the two sequences.
        cost_xx_BTT: Costs of the first one with itself, by the same measure.
        cost_yy_BKK: Costs of the second one with itself.
        gamma: As in `soft_dtw`.
        lengths_T: As in `soft_dtw`.
        lengths_K: As in `soft_dtw`.
        soft_min: As in `soft_dtw`.

    Returns:
        (B,).

    Raises:
        ValueError: As `soft_dtw`, or the three costs do not belong together.
    """
    (batch, frames, steps), own = cost_xy_BTK.shape, (cost_xx_BTT.shape, cost_yy_BKK.shape)
    if own != ((batch, frames, frames), (batch, steps, steps)):
        raise ValueError(
            f"soft-DTW: costs {tuple(cost_xy_BTK.shape)} go with {(batch, frames, frames)} and "
            f"{(batch, steps, steps)}, got {tuple(own[0])} and {tuple(own[1])}"
        )
    between = soft_dtw(cost_xy_BTK, gamma, lengths_T, lengths_K, soft_min)
    first = soft_dtw(cost_xx_BTT, gamma, lengths_T, lengths_T, soft_min)
    second = soft_dtw(cost_yy_BKK, gamma, lengths_K, lengths_K, soft_min)
    return between - (first + second) / 2


def expected_alignment(
    cost_BTK: Tensor,
    gamma: float,
    lengths_T: Lengths = None,
    lengths_K: Lengths = None,
    drop_BT: Tensor | None = None,
) -> Tensor:
    """The probability that frame t shows step k, over alignments weighted by ``exp(-cost/γ)``.

    It is the gradient of the ``logsumexp`` value. Of `soft_dtw` every frame's and every step's
    probabilities sum to 1 or more, since a path may stay; zero beyond the lengths.

    Args:
        cost_BTK: As in `soft_dtw`.
        gamma: As in `soft_dtw`.
        lengths_T: As in `soft_dtw`.
        lengths_K: As in `soft_dtw`.
        drop_BT: Where given, alignments are those of `soft_drop_dtw`.

    Returns:
        (B,T,K) without a gradient.

    Raises:
        ValueError: As `soft_dtw`.
    """
    with torch.enable_grad():
        cost = cost_BTK.detach().requires_grad_()
        drop = None if drop_BT is None else drop_BT.detach()
        value_B = _aligned(cost, drop, gamma, lengths_T, lengths_K, "logsumexp")
        (alignment_BTK,) = torch.autograd.grad(value_B.sum(), cost)
    return alignment_BTK


def alignment_path(cost_TK: Tensor, drop_T: Tensor | None = None) -> Tensor:
    """The best alignment itself: the cells of the cheapest path, first to last.

    Among equally cheap ones it takes the next frame with the next step before anything else.

    Args:
        cost_TK: One sample's costs, cut to its lengths.
        drop_T: Where given, frames may be dropped at these costs; they are on no cell of the path.

    Returns:
        (N,2) pairs of frame and step, int64.

    Raises:
        ValueError: As `soft_dtw`, or every path is forbidden.
    """
    raise NotImplementedError


def _aligned(
    cost_BTK: Tensor,
    drop_BT: Tensor | None,
    gamma: float,
    lengths_T: Lengths,
    lengths_K: Lengths,
    soft_min: SoftMin,
) -> Tensor:
    frames_B, steps_B = _check(cost_BTK, drop_BT, gamma, lengths_T, lengths_K, soft_min)
    values = []
    for cost, frames, steps, sample in zip(
        cost_BTK, frames_B.tolist(), steps_B.tolist(), range(len(cost_BTK)), strict=True
    ):
        drop = None if drop_BT is None else drop_BT[sample]
        values.append(_literal(cost[:frames, :steps], drop, gamma, soft_min))
    return torch.stack(values)


def _literal(cost_TK: Tensor, drop_T: Tensor | None, gamma: float, soft_min: SoftMin) -> Tensor:
    def soft(*parts: Tensor) -> Tensor:
        x = torch.stack([part for part in parts if bool(part < torch.inf)] or [parts[0]])
        if soft_min == "logsumexp":
            return -gamma * torch.logsumexp(-x / gamma, 0)
        return (torch.softmax(-x / gamma, 0) * x).sum()

    (frames, steps), inf = cost_TK.shape, cost_TK.new_tensor(torch.inf)
    zero = torch.zeros_like(inf)
    above = [zero, *[inf] * steps]
    for t in range(frames):
        first = inf if drop_T is None else above[0] + drop_T[t]
        shown, row = [inf], [first]
        for k in range(1, steps + 1):
            shown.append(cost_TK[t, k - 1] + soft(above[k], above[k - 1], shown[k - 1]))
            dropped = inf if drop_T is None else above[k] + drop_T[t]
            row.append(soft(shown[k], dropped))
        above = row
    return above[-1]


def _check(
    cost_BTK: Tensor,
    drop_BT: Tensor | None,
    gamma: float,
    lengths_T: Lengths,
    lengths_K: Lengths,
    soft_min: SoftMin,
) -> tuple[Tensor, Tensor]:
    if cost_BTK.ndim != 3 or 0 in cost_BTK.shape[1:] or not cost_BTK.is_floating_point():
        raise ValueError(
            "soft-DTW: expected floating-point costs (B,T,K) with T > 0 and K > 0, got "
            f"{cost_BTK.dtype} of {tuple(cost_BTK.shape)}"
        )
    if drop_BT is not None and drop_BT.shape != cost_BTK.shape[:2]:
        raise ValueError(
            f"soft-DTW: expected drop costs of {tuple(cost_BTK.shape[:2])}, a cost a frame, got "
            f"{tuple(drop_BT.shape)}"
        )
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"soft-DTW: gamma is a temperature above 0, got {gamma}")
    if soft_min not in get_args(SoftMin):
        raise ValueError(
            f"soft-DTW: soft_min is one of {', '.join(get_args(SoftMin))}, got {soft_min}"
        )
    batch, frames, steps = cost_BTK.shape
    return (
        _lengths("lengths_T", lengths_T, batch, frames),
        _lengths("lengths_K", lengths_K, batch, steps),
    )


def _lengths(name: str, lengths: Lengths, batch: int, most: int) -> Tensor:
    if lengths is None:
        return torch.full((batch,), most)
    lengths_B = torch.as_tensor(lengths)
    if lengths_B.shape != (batch,) or lengths_B.is_floating_point() or lengths_B.is_complex():
        raise ValueError(
            f"soft-DTW: {name} is one whole number a sample, ({batch},), got "
            f"{lengths_B.dtype} of {tuple(lengths_B.shape)}"
        )
    lengths_B = lengths_B.long().cpu()
    wrong = (lengths_B < 1) | (lengths_B > most)
    if wrong.any():
        sample = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"soft-DTW: {name} are 1 to {most}, the size of the costs; sample {sample} has "
            f"{int(lengths_B[sample])}"
        )
    return lengths_B
