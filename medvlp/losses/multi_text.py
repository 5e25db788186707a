"""Several texts of an image, each with a weight of its own, and the places that each speaks of.

The two terms of MAKE (arXiv:2505.09372): a contrast in which every text is a positive of its own,
and the same contrast of what the sub-texts see. Texts stay (B,N,E) until absent ones are left out
with the image that each belongs to, so that no order of rows is ever taken for granted.
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.data.tables import LEVELS
from medvlp.data.text_policy import Level
from medvlp.encoding import Encodings, Sizes
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import (
    gather_rows,
    global_logsumexp,
    global_sum,
    rows_before,
    world,
)
from medvlp.losses.objective import Objective
from medvlp.losses.tiled import Exclusion, Keys, cross_logsumexp

NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultiTextConfig:
    """Multi-positive contrast and alignment of sub-texts with places (MAKE, arXiv:2505.09372)."""

    kind: Literal["multi-text"] = "multi-text"
    weight: float = 1.0
    own: Literal["negative", "leave-out"] = "negative"
    """An image's other texts, where one of them is the positive: in the denominator, as published,
    or left out of it, since they are no negatives."""

    sub: tuple[Level, ...] = ("sentence",)
    """Levels of the sub-texts, which have weights and look at places."""

    anchor: Level | None = None
    """The level of the text that says what matters: sub-texts weigh by their cosine with it
    (diagnosis weights), all other texts 1. None: every text weighs 1."""

    global_weight: NonNegative = 1.0
    """λ_m, of the contrast of whole images."""

    local_weight: NonNegative = 0.7
    """λ_s, of the contrast of what sub-texts see."""

    threshold: NonNegative = 0.0
    """A place counts for a text where its share, the cosine with the text over the norm of the
    cosines with all places, is above this. At 0, all places that agree at all."""

    def __post_init__(self) -> None:
        if self.anchor in self.sub:
            raise ValueError(f"anchor {self.anchor} is a level of sub-texts itself")

    def build(self, sizes: Sizes) -> Objective:
        """The objective; `sizes` plays no part."""
        return MultiTextObjective(self)


class MultiTextObjective(Objective):
    """``λ_m·½(to texts + to images) + λ_s·(what sub-texts see to texts)``, see `contrast_pairs`."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image_BE", "patch_BPE", "text_BNE", "scale", "text_mask_BNT", "level_BN"}
    )

    def __init__(self, config: MultiTextConfig) -> None:
        super().__init__()
        self.config = config
        self.sub = [LEVELS.index(level) for level in config.sub]

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        text_BNE, config = encodings.text_BNE, self.config
        present_BN = batch.text_mask_BNT.any(2)
        sub_BN = present_BN & torch.isin(
            batch.level_BN, torch.tensor(self.sub, device=present_BN.device)
        )
        weight_BN = text_BNE.new_ones(text_BNE.shape[:2])
        if config.anchor is not None:
            anchor_BN = present_BN & (batch.level_BN == LEVELS.index(config.anchor))
            weight_BN = diagnosis_weights(text_BNE, anchor_BN, sub_BN)
        texts = Texts(
            text_BNE=text_BNE,
            present_BN=present_BN,
            weight_BN=weight_BN,
            leave_out=config.own == "leave-out",
        )
        to_texts, to_images = contrast_texts(encodings.image_BE, texts, encodings.scale)
        seen_BNE = seen(encodings.patch_BPE, text_BNE, config.threshold)
        local = contrast_seen(seen_BNE, sub_BN, texts, encodings.scale)
        return config.global_weight * (to_texts + to_images) / 2 + config.local_weight * local


@plain_dataclass(frozen=True, kw_only=True)
class Texts:
    """This rank's texts and how they count."""

    text_BNE: Tensor
    """Normalised."""

    present_BN: Tensor
    weight_BN: Tensor
    leave_out: bool
    """Whether an image's other texts are left out where one is the positive."""


def diagnosis_weights(text_BNE: Tensor, anchor_BN: Tensor, sub_BN: Tensor) -> Tensor:
    """Weights of texts by what they have to do with their sample's anchor, in (0,1]; no gradient.

    ``softmax_k cos(anchor, sub_k) / max_k``, which is ``exp(cos_k - max cos)``, for sub-texts of a
    sample with an anchor; 1 for all others (MAKE, arXiv:2505.09372). Several anchors of a sample
    count as their mean.

    Args:
        text_BNE: Normalised.
        anchor_BN: Which texts are anchors.
        sub_BN: Which texts are weighed.
    """
    with torch.no_grad():
        anchor_BE = F.normalize((text_BNE * anchor_BN[..., None]).sum(1), dim=1)
        cosine_BN = (text_BNE @ anchor_BE[..., None])[..., 0]
        most_B1 = torch.where(sub_BN, cosine_BN, -torch.inf).amax(1, keepdim=True)
        weighed_BN = sub_BN & anchor_BN.any(1, keepdim=True)
        return torch.where(weighed_BN, (cosine_BN - most_B1).exp(), 1.0)


def contrast_texts(image_BE: Tensor, texts: Texts, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Contrast of images and texts over all ranks, every text a positive of its own.

    MAKE's MKCL is half the sum of both.

    Args:
        image_BE: Normalised; those without a text are negatives.
        texts: The texts.
        scale: The inverse temperature.

    Returns:
        The weighted mean over texts of ``-log softmax`` of the text among all texts for its image,
        and the plain mean over texts of that of its image among all images.
    """
    owner_M = texts.present_BN.nonzero()[:, 0]
    rows = Rows(
        row_RE=image_BE,
        owner_R=torch.arange(len(image_BE), device=image_BE.device),
        row_K=owner_M,
        text_K=torch.arange(len(owner_M), device=image_BE.device),
    )
    return contrast_rows(rows, texts, scale)


def contrast_seen(seen_BNE: Tensor, sub_BN: Tensor, texts: Texts, scale: Tensor | float) -> Tensor:
    """Weighted mean of ``-log softmax`` of a sub-text among all texts for what it sees (SLRA).

    Args:
        seen_BNE: What each text sees, normalised; a text that sees nothing (zeros) has no term.
        sub_BN: Which texts look.
        texts: All texts.
        scale: The inverse temperature.
    """
    looks_BN = sub_BN & (seen_BNE != 0).any(2)
    owner_R = looks_BN.nonzero()[:, 0]
    rows = Rows(
        row_RE=seen_BNE[looks_BN],
        owner_R=owner_R,
        row_K=torch.arange(len(owner_R), device=seen_BNE.device),
        text_K=looks_BN[texts.present_BN].nonzero()[:, 0],
    )
    return contrast_rows(rows, texts, scale)[0]


def seen(patch_BPE: Tensor, text_BNE: Tensor, threshold: float) -> Tensor:
    """What each text sees of its own image, normalised (B,N,E); zero where nothing is in sight.

    ``Σ_p α_p·patch_p`` with α the cosines of text and patches over their norm, where that is above
    the threshold, and else 0 (MAKE's SLRA).

    Args:
        patch_BPE: Projected patches, not normalised.
        text_BNE: Normalised; zero where absent.
        threshold: Of α.
    """
    with torch.autocast(patch_BPE.device.type, enabled=False):
        patch_BPE = widened(patch_BPE)
        cosine_BNP = widened(text_BNE) @ F.normalize(patch_BPE, dim=2).transpose(1, 2)
        share_BNP = F.normalize(cosine_BNP, dim=2)
        share_BNP = torch.where(share_BNP > threshold, share_BNP, 0.0)
        return F.normalize(share_BNP @ patch_BPE, dim=2)


@plain_dataclass(frozen=True, kw_only=True)
class Rows:
    """What is contrasted with texts (images, or what texts see of them), and the positive pairs."""

    row_RE: Tensor
    """Normalised."""

    owner_R: Tensor
    """The image to which each belongs."""

    row_K: Tensor
    """Of each positive pair, the row."""

    text_K: Tensor
    """And the text, counted among the present ones."""


def contrast_rows(rows: Rows, texts: Texts, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Contrast of rows and texts over all ranks, every pair a positive of its own.

    Returns:
        The weighted mean over pairs of ``-log softmax`` of the text among all texts for its row,
        and the plain mean of that of the row among all rows for its text.
    """
    row_RE, text_BNE = rows.row_RE, texts.text_BNE
    with torch.autocast(row_RE.device.type, enabled=False):
        row_RE, text_ME = widened(row_RE), widened(text_BNE[texts.present_BN])
        weight_K = texts.weight_BN[texts.present_BN][rows.text_K].to(row_RE.dtype)
        text_NE = gather_rows(text_ME)
        start = rows_before(text_ME)
        counts = global_sum(torch.stack([weight_K.sum(), weight_K.new_tensor(len(weight_K))]))
        share, each = world()[1] / counts.clamp(min=torch.finfo(counts.dtype).tiny)
        excluded = _own_pairs(rows, texts) if texts.leave_out else None
        row_R, part_N = cross_logsumexp(row_RE, text_NE, scale, excluded)
        positive_K = (scale * (row_RE[rows.row_K] * text_ME[rows.text_K]).sum(1)).double()
        row_K = row_R[rows.row_K]
        column_K = global_logsumexp(part_N)[start : start + len(text_ME)][rows.text_K]
        if texts.leave_out:
            row_K, column_K = (sum_K.logaddexp(positive_K) for sum_K in (row_K, column_K))
        to_texts = share * (weight_K * (row_K - positive_K)).sum()
        to_rows = each * (column_K - positive_K).sum()
        return to_texts.to(row_RE.dtype), to_rows.to(row_RE.dtype)


def _own_pairs(rows: Rows, texts: Texts) -> Exclusion:
    """All pairs of a row and a text of one image, whatever rank they are on."""
    rank, ranks = world()
    owner_M = texts.present_BN.nonzero()[:, 0]
    own_R, own_N = rows.owner_R * ranks + rank, gather_rows(owner_M * ranks + rank)
    # Nothing is kept: no image has a negative number.
    never = Keys(torch.full_like(own_R, -1)[:, None], torch.full_like(own_N, -2)[:, None])
    return Exclusion(Keys(own_R[:, None], own_N[:, None]), never)
