"""What is known of a batch's images and texts besides which belong together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medvlp.losses.tiled import Exclusion, Keys


@dataclass(frozen=True, kw_only=True)
class Ties:
    """Weights of samples, and ids by which pairs that are no negatives are known.

    Ids are non-negative integers that mean the same on every rank.
    """

    weight_B: Tensor | None = None
    """Weight of each image; 1 where None."""

    weight_M: Tensor | None = None
    """Weight of each text, in the mean over texts and among its image's positives."""

    group_M: Tensor | None = None
    """Texts of one id are the same text."""

    share: bool = False
    """Texts of one group are each other's positives; otherwise, another sample's text of the
    group of one of an image's texts is no negative of the image."""

    patient_B: Tensor | None = None
    """Images and texts of one patient are no negatives of each other."""

    recording_B: Tensor | None = None
    """Nor are those of one recording."""


def text_groups(ids_MT: Tensor, mask_MT: Tensor) -> Tensor:
    """An id of each text (M,), the same for the same tokens whatever the padding.

    A sum over positions of products of hashes, modulo 2^63: two different texts share an id with
    a probability of about 2^-63.
    """
    place_T = _mixed(torch.arange(1, ids_MT.shape[1] + 1, device=ids_MT.device))
    token_MT = _mixed((ids_MT + 1) ^ place_T)
    return torch.where(mask_MT, token_MT, 0).sum(1) & (2**63 - 1)


def exclusion(own_B: Tensor, own_N: Tensor, local: Ties, pooled: Ties) -> Exclusion | None:
    """Pairs of this rank's images and all ranks' texts that are no negatives; None for none.

    Args:
        own_B: Global number of each image.
        own_N: Global number of each text's image.
        local: This rank's ids; its `group_M` as rows of `group_slots` (B,K).
        pooled: All ranks' texts: their groups, and the patients and recordings of their images.
    """
    keep = [(own_B[:, None], own_N)]
    drop = []
    for own, theirs in (
        (local.patient_B, pooled.patient_B),
        (local.recording_B, pooled.recording_B),
    ):
        if own is not None and theirs is not None:
            drop.append((own[:, None], theirs))
    if local.group_M is not None and pooled.group_M is not None:
        (keep if local.share else drop).append((local.group_M, pooled.group_M))
    return Exclusion(_keys(drop), _keys(keep)) if drop else None


def group_slots(group_M: Tensor, owner_M: Tensor, images: int) -> Tensor:
    """The groups of each image's texts (B,K), -1 where it has fewer than K."""
    order = owner_M.argsort(stable=True)
    owner = owner_M[order]
    slot = torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
    width = int(slot.max()) + 1 if len(slot) else 1
    slots = torch.full((images, width), -1, dtype=torch.long, device=owner.device)
    slots[owner, slot] = group_M[order]
    return slots


def _keys(pairs: list[tuple[Tensor, Tensor]]) -> Keys:
    return Keys(
        torch.cat([row_RK for row_RK, _ in pairs], 1),
        torch.cat([column_C[:, None].expand(-1, row.shape[1]) for row, column_C in pairs], 1),
    )


def _mixed(value: Tensor) -> Tensor:
    """Scrambled 64-bit integers; products wrap around."""
    for factor in (-7046029254386353131, -4658895280553007687, -7723592293110705685):
        value = (value ^ (value >> 29)) * factor
    return value ^ (value >> 32)
