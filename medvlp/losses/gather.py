"""Contrast across devices: every rank's images against every rank's texts.

Each loss here is scaled so that its mean over ranks is the loss of one rank that holds all
samples; data-parallel training, which averages gradients, then gets that rank's gradient too.
On one rank nothing is gathered.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from medvlp.losses.contrastive import positive_nce, sigmoid_terms, similarity


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside distributed training."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def global_sum(value: Tensor) -> Tensor:
    """The sum over ranks of a count; no gradient passes."""
    total = value.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


def gather_rows(local: Tensor) -> Tensor:
    """All ranks' rows, in rank order; ranks may bring different numbers of rows.

    The gradient of a rank's rows is the sum over ranks of what each did with them.
    """
    if world()[1] == 1:
        return local
    gathered: Tensor = _GatherRows.apply(  # type: ignore[no-untyped-call]
        local, _row_counts(local)
    )
    return gathered


def contrast_clip(
    image_BE: Tensor, text_ME: Tensor, owner_M: Tensor, scale: Tensor | float
) -> Tensor:
    """Symmetric InfoNCE over all ranks, where an image may have several texts, or none.

    The mean over images that have a text, and over texts, of `positive_nce`; the negatives are
    all ranks' samples. With one text an image it is `clip_loss`.

    Args:
        image_BE: This rank's images.
        text_ME: This rank's texts, absent ones left out.
        owner_M: Row of `image_BE` to which each text belongs.
        scale: The inverse temperature.
    """
    own_B = _rank_rows(image_BE)
    text_own_M = own_B[owner_M]
    all_images, all_texts = gather_rows(image_BE), gather_rows(text_ME)
    all_own = gather_rows(own_B)
    all_text_own = gather_rows(text_own_M)
    if not len(all_texts):
        return _nothing(image_BE, text_ME)
    with_text = torch.isin(own_B, text_own_M).sum()
    counts = global_sum(torch.stack([with_text, torch.tensor(len(text_ME)).to(with_text)]))
    rows_B = positive_nce(similarity(image_BE, all_texts, scale), own_B, all_text_own)
    columns_M = positive_nce(similarity(text_ME, all_images, scale), text_own_M, all_own)
    return world()[1] * (rows_B.sum() / counts[0] + columns_M.sum() / counts[1]) / 2


def contrast_siglip(
    image_BE: Tensor,
    text_ME: Tensor,
    owner_M: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
) -> Tensor:
    """Pairwise sigmoid loss over all ranks, per text; arguments as `contrast_clip`.

    With one text an image it is `siglip_loss`.
    """
    own_B = _rank_rows(image_BE)
    all_texts = gather_rows(text_ME)
    all_text_own = gather_rows(own_B[owner_M])
    if not len(all_texts):
        return _nothing(image_BE, text_ME)
    terms = sigmoid_terms(similarity(image_BE, all_texts, scale, bias), own_B, all_text_own)
    return world()[1] * terms.sum() / len(all_texts)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = F.pad(local, [0, 0] * (local.ndim - 1) + [0, max(counts) - len(local)])
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return torch.split(total, ctx.counts)[dist.get_rank()], None


def _row_counts(local: Tensor) -> list[int]:
    mine = torch.tensor([len(local)], device=local.device)
    counts = [torch.empty_like(mine) for _ in range(world()[1])]
    dist.all_gather(counts, mine)
    return [int(count) for count in counts]


def _rank_rows(image_BE: Tensor) -> Tensor:
    """A number for each of this rank's images that no other rank's image has."""
    rank, ranks = world()
    return torch.arange(len(image_BE), device=image_BE.device) * ranks + rank


def _nothing(image_BE: Tensor, text_ME: Tensor) -> Tensor:
    # Still a function of both towers: data-parallel training waits for every weight's gradient.
    return image_BE.sum() * 0.0 + text_ME.sum() * 0.0
