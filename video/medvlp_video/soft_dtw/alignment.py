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

import importlib.util
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from medvlp.losses.contrastive import widened

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
    cost_BTK = cost_TK.detach()[None].double().cpu().contiguous()
    drop_BT = None if drop_T is None else drop_T.detach()[None].double().cpu().contiguous()
    lengths = _check(cost_BTK, drop_BT, _HARD, None, None, "probability")
    value_B, (shown, whole) = _sweeps(torch.device("cpu"))[0].forward(
        cost_BTK, drop_BT, *lengths, _HARD, True, True
    )
    _refuse_nan(value_B)
    if value_B.isinf():
        raise ValueError("soft-DTW: the costs forbid every path")
    frames, steps = cost_TK.shape
    if drop_BT is None:
        shown, drop = whole, np.full(frames, np.inf)
    else:
        drop = drop_BT[0].numpy()
    return torch.tensor(_traced(shown.numpy(), whole.numpy(), drop, frames, steps))


_HARD = 1e-290
"""A temperature so low that the soft minimum ``probability`` is the minimum itself."""


def _traced(
    shown: np.ndarray, whole: np.ndarray, drop: np.ndarray, frames: int, steps: int
) -> list[tuple[int, int]]:
    """The cells of the cheapest path, from the tables as `kernels` keeps them."""

    def at(table: np.ndarray, t: int, k: int) -> float:
        return float(table[(t + k) % frames * steps + k]) if t >= 0 and k >= 0 else math.inf

    cells: list[tuple[int, int]] = []
    t, k, dropping = frames - 1, steps - 1, True
    while True:
        if dropping and at(shown, t, k) > drop[t] + at(whole, t - 1, k):
            t -= 1
            continue
        cells.append((t, k))
        if k == 0 and at(whole, t - 1, 0) >= (drop[:t].sum() if t else 0.0):
            return cells[::-1]
        before = (
            (at(whole, t - 1, k - 1), 0, (t - 1, k - 1)),
            (at(whole, t - 1, k), 1, (t - 1, k)),
            (at(shown, t, k - 1), 2, (t, k - 1)),
        )
        _, way, (t, k) = min(before)
        dropping = way < 2


class _SoftDtw(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cost_BTK: Tensor,
        drop_BT: Tensor | None,
        frames_B: Tensor,
        steps_B: Tensor,
        gamma: float,
        probability: bool,
    ) -> Tensor:
        sweeps, device = _sweeps(cost_BTK.device)
        cost, *given = (
            None if x is None else x.detach().to(device).contiguous()
            for x in (cost_BTK, drop_BT, frames_B, steps_B)
        )
        value_B: Tensor
        value_B, tables = sweeps.forward(
            cost, *given, gamma, probability, any(ctx.needs_input_grad)
        )
        ctx.sweeps, ctx.shape = sweeps, tuple(cost_BTK.shape[1:])
        ctx.gamma, ctx.probability = gamma, probability
        ctx.save_for_backward(*given, value_B, *tables)
        return value_B.to(cost_BTK.device, copy=True)

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "soft-DTW has no second derivative; remedy: take its gradient without create_graph"
            )
        drop_BT, frames_B, steps_B, value_B, *tables = ctx.saved_tensors
        grads = ctx.sweeps.backward(
            ctx.shape, drop_BT, frames_B, steps_B, ctx.gamma, ctx.probability, tuple(tables),
            value_B, grad_B.to(value_B.device).contiguous(),
        )  # fmt: skip
        cost, drop = (None if grad is None else grad.to(grad_B.device) for grad in grads)
        return cost, drop, None, None, None, None


def _sweeps(device: torch.device) -> tuple[ModuleType, torch.device]:
    """The kernels for a device, and the device that they run on: where there are none, the CPU.

    Imported when needed: numba takes a second, triton comes with CUDA builds of torch alone.
    """
    cuda = device.type == "cuda" and torch.version.cuda is not None
    if cuda and importlib.util.find_spec("triton") is not None:
        from medvlp_video.soft_dtw import cuda as sweeps

        return sweeps, device
    from medvlp_video.soft_dtw import cpu

    return cpu, torch.device("cpu")


def _aligned(
    cost_BTK: Tensor,
    drop_BT: Tensor | None,
    gamma: float,
    lengths_T: Lengths,
    lengths_K: Lengths,
    soft_min: SoftMin,
) -> Tensor:
    lengths = _check(cost_BTK, drop_BT, gamma, lengths_T, lengths_K, soft_min)
    cost_BTK = widened(cost_BTK)
    drop_BT = None if drop_BT is None else drop_BT.to(cost_BTK)
    if not len(cost_BTK):
        return cost_BTK.sum((1, 2))
    probability = soft_min == "probability"
    value_B: Tensor = _SoftDtw.apply(  # type: ignore[no-untyped-call]
        cost_BTK, drop_BT, *lengths, float(gamma), probability
    )
    _refuse_nan(value_B)
    return value_B


def _refuse_nan(value_B: Tensor) -> None:
    # No value is -inf, so that their sum is NaN where one of them is, and quicker to look at.
    if math.isnan(value_B.detach().sum()):
        wrong_B = value_B.isnan()
        raise ValueError(
            "soft-DTW: within a sample's lengths costs are numbers or infinity, but some of "
            f"sample {int(wrong_B.nonzero()[0, 0])} are NaN or -inf"
        )


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
