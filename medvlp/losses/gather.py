"""Contrast across devices: every rank's images against every rank's texts.

Each loss here is scaled so that its mean over ranks is the loss of one rank that holds all
samples; data-parallel training, which averages gradients, then gets that rank's gradient too.
On one rank nothing is gathered.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from medvlp.losses.contrastive import widened
from medvlp.losses.ties import Ties, exclusion, group_slots
from medvlp.losses.tiled import TILE, Exclusion, cross_logsumexp, cross_softplus

NO_TIES = Ties()


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
    image_BE: Tensor,
    text_ME: Tensor,
    owner_M: Tensor,
    scale: Tensor | float,
    ties: Ties = NO_TIES,
    *,
    smoothing: float = 0.0,
    to_texts: float = 0.5,
) -> Tensor:
    """Symmetric InfoNCE over all ranks, where an image may have several texts, or none.

    An image's loss is the mean over its positives of ``-log softmax`` over all texts (the sum
    outside the logarithm, arXiv:2004.11362, equation 2), a text's the same over all images; the
    result is half the weighted mean over images that have a text, plus half that over texts, or
    as `to_texts` says.
    Shared groups spread a text's target mass evenly over the group's texts (or their images).
    With one text an image it is `clip_loss`.

    Args:
        image_BE: This rank's images.
        text_ME: This rank's texts, absent ones left out.
        owner_M: Row of `image_BE` to which each text belongs.
        scale: The inverse temperature.
        ties: Weights, and which pairs are no negatives.
        smoothing: Share of each image's and each text's target mass that is spread evenly over
            all its pairs, those left out excepted.
        to_texts: Share of the images' part, which tells texts apart, in the result.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        image_BE, text_ME = widened(image_BE), widened(text_ME)
        pool = Pool.of(image_BE, text_ME, owner_M, ties)
        if not len(pool.text_NE):
            return _nothing(image_BE, text_ME)
        mass_B = torch.zeros_like(pool.weight_B).index_add(0, owner_M, pool.weight_M)
        image_weight_B = torch.where(mass_B > 0, pool.weight_B, 0.0)
        counts = global_sum(torch.stack([image_weight_B.sum(), pool.weight_M.sum()]))
        counts = counts.clamp(min=torch.finfo(counts.dtype).tiny)
        # Each part is halved in the end.
        image_count, text_count = counts / counts.new_tensor([2 * to_texts, 2 - 2 * to_texts])
        row_B, part_N = cross_logsumexp(image_BE, pool.text_NE, scale, pool.excluded)
        column_M = global_logsumexp(part_N)[pool.mine]
        row_B = torch.where(image_weight_B > 0, row_B, 0.0)
        share_M = (
            image_weight_B[owner_M]
            * pool.weight_M
            / mass_B[owner_M].where(mass_B[owner_M] > 0, 1.0)
        )
        target_ME = pool.mean(None) * (share_M / image_count)[:, None]
        target_ME = target_ME + pool.mean(pool.weight_N) / text_count
        positive = (scale * (image_BE[owner_M] * target_ME).sum(1)).double().sum()
        if smoothing:
            even_BE = pool.even(image_weight_B / image_count, pool.weight_N / text_count)
            even = (scale * (image_BE * even_BE).sum(1)).double().sum()
            positive = (1 - smoothing) * positive + smoothing * even
        negative = (image_weight_B * row_B).sum() / image_count
        negative = negative + (pool.weight_M * column_M).sum() / text_count
        loss: Tensor = world()[1] * (negative - positive) / 2
        return loss.to(image_BE.dtype)


def contrast_siglip(
    image_BE: Tensor,
    text_ME: Tensor,
    owner_M: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    ties: Ties = NO_TIES,
) -> Tensor:
    """Pairwise sigmoid loss over all ranks, per text; arguments as `contrast_clip`.

    A pair's weight is the product of its image's and its text's. Shared groups make each text of
    the group a positive of every image that has one. With one text an image it is `siglip_loss`.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        image_BE, text_ME = widened(image_BE), widened(text_ME)
        pool = Pool.of(image_BE, text_ME, owner_M, ties)
        if not len(pool.text_NE):
            return _nothing(image_BE, text_ME)
        pairs = cross_softplus(
            image_BE, pool.text_NE, scale, bias, pool.weight_B, pool.weight_N, pool.excluded
        )
        total_ME, total_M, once_M = pool.positives(owner_M)
        weight_M = pool.weight_B[owner_M] * once_M
        logit_M = scale * (image_BE[owner_M] * total_ME).sum(1) + bias * total_M
        positive = (weight_M * logit_M).double().sum()
        count = pool.weight_N.sum().clamp(min=torch.finfo(image_BE.dtype).tiny)
        return (world()[1] * (pairs - positive) / count).to(image_BE.dtype)


def contrast_views(one_BE: Tensor, other_BE: Tensor, scale: Tensor | float) -> Tensor:
    """NT-Xent over all ranks (SimCLR, arXiv:2002.05709, equation 1).

    ``-1/V Σ_i log (exp(s·z_i·z_j) / Σ_{k≠i} exp(s·z_i·z_k))`` over all V views i, of which j is the
    same sample's other one.

    Args:
        one_BE: This rank's first views, not normalised.
        other_BE: Their second views.
        scale: s, the inverse temperature.
    """
    with torch.autocast(one_BE.device.type, enabled=False):
        one_BE, other_BE = (F.normalize(widened(x), dim=1) for x in (one_BE, other_BE))
        all_VE = torch.cat([gather_rows(one_BE), gather_rows(other_BE)])
        half = len(all_VE) // 2
        own_B = rows_before(one_BE) + torch.arange(len(one_BE), device=one_BE.device)
        own_V, positive_V = torch.cat([own_B, own_B + half]), torch.cat([own_B + half, own_B])
        logit_VV = scale * (torch.cat([one_BE, other_BE]) @ all_VE.T)
        logit_VV = logit_VV.scatter(1, own_V[:, None], -torch.inf)
        loss: Tensor = (
            world()[1] / len(all_VE) * F.cross_entropy(logit_VV, positive_V, reduction="sum")
        )
        return loss


@dataclass(frozen=True)
class Pool:
    """All ranks' texts (N) as this rank's images (B) and texts (M) meet them.

    Only texts travel: each rank computes its images' stripe of pairs, whose rows are complete,
    and the columns' parts are added over ranks. Half as much is sent and multiplied as if every
    rank also met all images. A ring would spare the memory of N embeddings, which is linear
    anyway, at the price of one message a rank and tile.
    """

    text_NE: Tensor
    mine: slice
    """Where this rank's texts lie among them."""

    own_B: Tensor
    """A number of each image, that of `rank_rows`."""

    own_N: Tensor
    """That of each text's image."""

    weight_B: Tensor
    weight_M: Tensor
    weight_N: Tensor
    group_M: Tensor | None
    """As numbers from 0 among all ranks' groups; None unless groups share."""
    group_N: Tensor | None
    excluded: Exclusion | None

    @classmethod
    def of(cls, image_BE: Tensor, text_ME: Tensor, owner_M: Tensor, ties: Ties) -> Pool:
        """What the ranks learn of each other, for the arguments of `contrast_clip`."""
        own_B = rank_rows(image_BE)
        own_N = gather_rows(own_B[owner_M])
        weight_M = _weights(ties.weight_M, text_ME)
        group_N = None if ties.group_M is None else gather_rows(ties.group_M)
        patient_N, recording_N = (
            None if ids_B is None else gather_rows(ids_B[owner_M])
            for ids_B in (ties.patient_B, ties.recording_B)
        )
        slots = None
        if ties.group_M is not None:
            slots = group_slots(ties.group_M, owner_M, len(image_BE))
        local = replace(ties, group_M=slots)
        pooled = Ties(group_M=group_N, patient_B=patient_N, recording_B=recording_N)
        start = rows_before(text_ME)
        mine = slice(start, start + len(text_ME))
        group = torch.unique(group_N, return_inverse=True)[1] if group_N is not None else None
        shared = group if ties.share else None
        return cls(
            text_NE=gather_rows(text_ME),
            mine=mine,
            own_B=own_B,
            own_N=own_N,
            weight_B=_weights(ties.weight_B, image_BE),
            weight_M=weight_M,
            weight_N=gather_rows(weight_M),
            group_M=None if shared is None else shared[mine],
            group_N=shared,
            excluded=exclusion(own_B, own_N, local, pooled),
        )

    def mean(self, weight_N: Tensor | None) -> Tensor:
        """The mean over each local text's group of the texts, weighted but not normalised."""
        text_NE = self.text_NE if weight_N is None else self.text_NE * weight_N[:, None]
        if self.group_N is None or self.group_M is None:
            return text_NE[self.mine]
        size_G = self.group_N.bincount()
        return (_group_sum(text_NE, self.group_N) / size_G[:, None])[self.group_M]

    def even(self, weight_B: Tensor, weight_N: Tensor) -> Tensor:
        """For each image, its mean over all its texts, and its part of each text's over images.

        ``Σ_n k_bn (w_b / Σ_m k_bm + u_n / Σ_a k_an) y_n`` (B,E), where k is 1 for pairs that are
        not left out and 0 for the others. Tiles that hold some are kept for backward.

        Args:
            weight_B: w.
            weight_N: u.
        """
        kept_B = self.weight_B.new_full((len(self.weight_B),), len(self.text_NE))
        kept_N = self.weight_N.new_full((len(self.text_NE),), len(self.weight_B))
        for rows, columns, out_RC in self._left_out():
            kept_B[rows] -= out_RC.sum(1)
            kept_N[columns] -= out_RC.sum(0)
        share_B = weight_B / kept_B.clamp(min=1)
        share_N = weight_N / global_sum(kept_N).clamp(min=1)
        even_BE = share_B[:, None] * self.text_NE.sum(0) + share_N @ self.text_NE
        for rows, columns, out_RC in self._left_out():
            part_RC = out_RC * (share_B[rows, None] + share_N[columns])
            even_BE[rows] -= part_RC @ self.text_NE[columns]
        return even_BE

    def _left_out(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles with pairs that are left out: 1 for those, 0 for the others."""
        if self.excluded is None:
            return
        for i, j in itertools.product(
            range(0, len(self.weight_B), TILE), range(0, len(self.text_NE), TILE)
        ):
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            mask = self.excluded.mask(rows, columns)
            if mask is not None:
                yield rows, columns, mask.to(self.text_NE.dtype)

    def positives(self, owner_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sums of each local text's positives and of their weights; 0 for repetitions."""
        text_NE = self.text_NE * self.weight_N[:, None]
        if self.group_N is None or self.group_M is None:
            return text_NE[self.mine], self.weight_M, torch.ones_like(self.weight_M)
        total_G = _group_sum(self.weight_N, self.group_N)
        pair_M = owner_M * len(total_G) + self.group_M
        # An image that holds a text twice is that text's positive once.
        inverse_M = torch.unique(pair_M, return_inverse=True)[1]
        once_M = 1 / inverse_M.bincount()[inverse_M].to(self.weight_M.dtype)
        return _group_sum(text_NE, self.group_N)[self.group_M], total_G[self.group_M], once_M


def global_logsumexp(part_N: Tensor) -> Tensor:
    """``log Σ exp`` over ranks, elementwise; gradients count what every rank did with it."""
    if world()[1] == 1:
        return part_N
    total: Tensor = _GlobalLogSumExp.apply(part_N)  # type: ignore[no-untyped-call]
    return total


class _GlobalLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part_N: Tensor) -> Tensor:
        most_N = part_N.clone()
        dist.all_reduce(most_N, dist.ReduceOp.MAX)
        most_N = torch.where(most_N.isinf(), 0.0, most_N)
        sum_N = (part_N - most_N).exp()
        dist.all_reduce(sum_N)
        total_N = sum_N.log() + most_N
        ctx.save_for_backward(part_N, total_N)
        return total_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        part_N, total_N = ctx.saved_tensors
        grad_N = grads[0].contiguous().clone()
        dist.all_reduce(grad_N)
        return torch.where(part_N.isinf(), 0.0, grad_N * (part_N - total_N).exp())


def _group_sum(value_N: Tensor, group_N: Tensor) -> Tensor:
    groups = int(group_N.max()) + 1
    return value_N.new_zeros(groups, *value_N.shape[1:]).index_add(0, group_N, value_N)


def _weights(weight: Tensor | None, rows: Tensor) -> Tensor:
    return rows.new_ones(len(rows)) if weight is None else weight.to(rows.dtype)


def rows_before(local: Tensor) -> int:
    """How many rows the ranks before this one bring to `gather_rows`."""
    return sum(_row_counts(local)[: world()[0]]) if world()[1] > 1 else 0


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


def rank_rows(image_BE: Tensor) -> Tensor:
    """A number for each of this rank's images that no other rank's image has."""
    rank, ranks = world()
    return torch.arange(len(image_BE), device=image_BE.device) * ranks + rank


def _nothing(image_BE: Tensor, text_ME: Tensor) -> Tensor:
    # Still a function of both towers: data-parallel training waits for every weight's gradient.
    return image_BE.sum() * 0.0 + text_ME.sum() * 0.0
