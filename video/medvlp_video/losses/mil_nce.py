"""Clips against several texts each, any of which may be the one that fits (MIL-NCE)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import NO_TIES, Pool, global_logsumexp
from medvlp.losses.objective import Objective, Which, chosen_texts, share
from medvlp.losses.objectives import NegativesConfig, negative_ties
from medvlp.losses.ties import Ties
from medvlp.losses.tiled import Exclusion, Keys, cross_logsumexp
from medvlp_video.losses.sums import group_logsumexp, log_add


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MilNceConfig(NegativesConfig):
    """Contrast of clips with sets of texts (MIL-NCE, arXiv:1912.06430, equation 1)."""

    kind: Literal["mil-nce"] = "mil-nce"
    weight: float = 1.0
    texts: Which = "rest"
    """A clip's set: the texts that go along with its own, or those and its own (``all``)."""

    form: Literal["normalised", "published"] = "normalised"
    """``normalised``: cosines over the model's temperature. ``published``: as SurgVLP's training
    code computes it, products of embeddings that are not normalised, without a temperature, and a
    clip's own texts twice in the denominator."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective; `sizes` plays no part."""
        published = self.form == "published"
        return PublishedMilNceObjective(self) if published else MilNceObjective(self)


class MilNceObjective(Objective):
    """`mil_nce` of a batch, of cosines over the model's temperature."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image_BE", "text_BNE", "scale", "text_mask_BNT", "patient_B", "recording_B"}
    )

    def __init__(self, config: MilNceConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        present_BN = chosen_texts(batch, self.config.texts)
        return mil_nce(
            encodings.image_BE,
            encodings.text_BNE[present_BN],
            present_BN.nonzero()[:, 0],
            encodings.scale,
            negative_ties(self.config, batch),
        )


class PublishedMilNceObjective(MilNceObjective):
    """`mil_nce` of a batch, of products of embeddings as they are."""

    reads: ClassVar[frozenset[str]] = frozenset(
        {"image_raw_BE", "text_raw_BNE", "text_mask_BNT", "patient_B", "recording_B"}
    )

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks.

        Raises:
            ConfigError: Under `mixing`, which knows cosines alone.
        """
        if encodings.image_raw_BE is None or encodings.text_raw_BNE is None:
            raise ConfigError(
                "objective mil-nce: form=published needs embeddings before they are normalised",
                remedy="set the objective's form to normalised, or leave mixing out",
            )
        present_BN = chosen_texts(batch, self.config.texts)
        return mil_nce(
            encodings.image_raw_BE,
            encodings.text_raw_BNE[present_BN],
            present_BN.nonzero()[:, 0],
            1.0,
            negative_ties(self.config, batch),
            own=2,
        )


def mil_nce(
    image_BE: Tensor,
    text_ME: Tensor,
    owner_M: Tensor,
    scale: Tensor | float,
    ties: Ties = NO_TIES,
    *,
    own: int = 1,
) -> Tensor:
    """Mean over clips that have a text of ``log(own·P + Q + R) - log P``, over all ranks.

    With s·x·y for a pair's logit, P is the sum of exponentials over a clip's own texts, Q over it
    and all other clips' texts, R over all other clips and its own texts.

    Args:
        image_BE: This rank's clips.
        text_ME: This rank's texts, absent ones left out.
        owner_M: The clip to which each belongs.
        scale: s.
        ties: Patients and recordings of which pairs are no negatives.
        own: How often own texts count in the denominator.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        image_BE, text_ME = widened(image_BE), widened(text_ME)
        pool = Pool.of(image_BE, text_ME, owner_M, ties)
        if not len(pool.text_NE):
            return image_BE.sum() * 0.0 + text_ME.sum() * 0.0
        others = _without_own(pool)
        row_B, part_N = cross_logsumexp(image_BE, pool.text_NE, scale, others)
        column_M = global_logsumexp(part_N)[pool.mine]
        positive_M = (scale * (image_BE[owner_M] * text_ME).sum(1)).double()
        own_B = group_logsumexp(positive_M, owner_M, len(image_BE))
        negative_B = log_add(row_B, group_logsumexp(column_M, owner_M, len(image_BE)))
        loss_B = log_add(own_B + math.log(own), negative_B) - own_B
        told_B = owner_M.bincount(minlength=len(image_BE)) > 0
        return (share(told_B.sum()) * loss_B[told_B].sum()).to(image_BE.dtype)


def _without_own(pool: Pool) -> Exclusion:
    """All pairs but the negatives: also a clip and its own texts are left out."""
    rows, columns = [pool.own_B[:, None]], [pool.own_N[:, None]]
    if pool.excluded is not None:
        rows.append(pool.excluded.drop.row_RK)
        columns.append(pool.excluded.drop.column_CK)
    # Nothing is kept: these never agree.
    never = Keys(torch.full_like(rows[0], -1), torch.full_like(columns[0], -2))
    return Exclusion(Keys(torch.cat(rows, 1), torch.cat(columns, 1)), never)
