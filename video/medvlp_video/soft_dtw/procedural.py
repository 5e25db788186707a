"""PeskaVLP's procedural loss over a video's frames and its steps' texts, as published.

Formulas: arXiv:2410.00263; what its training code computes is written out in `procedural_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medvlp_video.soft_dtw.alignment import Lengths, soft_dtw

SCALE = 0.01
"""What the published code multiplies an alignment's cost by."""

CONTRAST = 0.5
"""The published weight of the hinge beside the cost of the true order."""


def frame_cost(similarity_BTK: Tensor, gamma: float, lengths_T: Lengths = None) -> Tensor:
    """``-log softmax`` over a video's frames of ``similarity / gamma``: which frames show a step.

    Args:
        similarity_BTK: Cosines of frames and steps.
        gamma: Temperature of the softmax.
        lengths_T: (B,) each sample's frames; those beyond count for no softmax and cost infinity.

    Returns:
        (B,T,K), nowhere negative.
    """
    scores = similarity_BTK / gamma
    if lengths_T is not None:
        lengths_B = torch.as_tensor(lengths_T, device=scores.device)
        place_T = torch.arange(scores.shape[1], device=scores.device)
        absent_BT = place_T >= lengths_B[:, None]
        scores = scores.masked_fill(absent_BT[..., None], -torch.inf)
    return -scores.log_softmax(1)


def reversed_steps(cost_BTK: Tensor, lengths_K: Lengths = None) -> Tensor:
    """The costs of the steps in reverse order; padded ones stay where they are.

    Args:
        cost_BTK: Costs, or similarities, of frames and steps.
        lengths_K: (B,) each sample's steps; all where absent.
    """
    if lengths_K is None:
        return cost_BTK.flip(2)
    lengths_B = torch.as_tensor(lengths_K, device=cost_BTK.device)[:, None]
    place_K = torch.arange(cost_BTK.shape[2], device=cost_BTK.device)
    order_BK = torch.where(place_K < lengths_B, lengths_B - 1 - place_K, place_K)
    return cost_BTK.gather(2, order_BK[:, None].expand_as(cost_BTK))


def order_loss(right_B: Tensor, wrong_B: Tensor, margin: float = 0.0) -> Tensor:
    """``mean(a) + 0.5 mean(max(a - b + margin, 0))``: the true order is cheap, and cheaper.

    Args:
        right_B: a, the cost of aligning a video with its steps.
        wrong_B: b, with a hard negative, such as the steps in another order.
        margin: By how much the true order has to be cheaper.

    Returns:
        A scalar.
    """
    return right_B.mean() + CONTRAST * (right_B - wrong_B + margin).clamp(min=0).mean()


def procedural_loss(
    similarity_BTK: Tensor,
    lengths_T: Lengths = None,
    lengths_K: Lengths = None,
    *,
    gamma_frames: float = 0.1,
    gamma_steps: float = 0.1,
    margin: float = 0.0,
) -> Tensor:
    """The published loss: `order_loss` of a video's steps and of the same ones in reverse.

    The alignment's cost is 0.01 times `soft_dtw` of `frame_cost`, with the soft minimum
    ``probability``.

    Args:
        similarity_BTK: Cosines of a video's frames and its steps' texts.
        lengths_T: (B,) each sample's frames; all where absent.
        lengths_K: (B,) each sample's steps; all where absent.
        gamma_frames: Temperature over the frames.
        gamma_steps: Temperature of the soft minimum.
        margin: As in `order_loss`.

    Returns:
        A scalar.
    """
    cost_BTK = frame_cost(similarity_BTK, gamma_frames, lengths_T)
    right_B, wrong_B = (
        SCALE * soft_dtw(cost, gamma_steps, lengths_T, lengths_K, "probability")
        for cost in (cost_BTK, reversed_steps(cost_BTK, lengths_K))
    )
    return order_loss(right_B, wrong_B, margin)
