"""Contrast in which clips that show the same deed are positives of each other's texts (EgoNCE).

Surgery repeats itself: another clip of the same verb and noun is no negative. Which clips show
what is known from labels, such as timed ones at the middle of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import (
    NO_TIES,
    Pool,
    gather_rows,
    global_logsumexp,
    global_sum,
    world,
)
from medvlp.losses.objective import Objective, present_texts
from medvlp.losses.objectives import PAIR_FIELDS, PairsConfig, image_ties
from medvlp.losses.ties import Ties
from medvlp.losses.tiled import cross_logsumexp
from medvlp_video.losses.sums import group_logsumexp, log_add

Words = Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EgoNceConfig(PairsConfig):
    """Contrast with the sum over positives inside the logarithm (EgoNCE, arXiv:2206.01670).

    A text is a positive of a clip if it is its own, or if both samples share a verb and a noun.
    The paper contrasts both ways at a temperature of 0.05; its further negatives, the next clips
    of the same recording, come here as the batch has them.
    """

    kind: Literal["ego-nce"] = "ego-nce"
    weight: float = 1.0
    verbs: Words
    """Names in data.labels that tell of each verb, such as ``{cut: [verb:cut]}`` or
    ``{cut: ["triplet:scissors,cut,cystic duct"]}``."""

    nouns: Words
    """The same of each noun; a label may tell of both."""

    to_texts: Annotated[float, Field(ge=0, le=1)] = 0.5
    """As of ``clip``."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective.

        Raises:
            ConfigError: A label that the data do not have.
        """
        named = {n for words in (self.verbs, self.nouns) for own in words.values() for n in own}
        if missing := sorted(named - set(sizes.labels)):
            raise ConfigError(
                f"objective ego-nce: {', '.join(missing)} is not in data.labels",
                remedy="name there all labels that verbs and nouns are told by",
            )
        return EgoNceObjective(self, sizes.labels)


class EgoNceObjective(Objective):
    """`contrast_shared` of a batch."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = PAIR_FIELDS | {"labels_BL"}

    verb_LG: Tensor
    noun_LG: Tensor

    def __init__(self, config: EgoNceConfig, labels: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        # They follow from the configuration: no weights.
        self.register_buffer("verb_LG", _tells(labels, config.verbs), persistent=False)
        self.register_buffer("noun_LG", _tells(labels, config.nouns), persistent=False)

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        text_ME, owner_M = present_texts(encodings, batch, self.config.texts)
        present_BL1 = (batch.labels_BL == 1)[..., None]
        shown = [(present_BL1 & tells).any(1).float() for tells in (self.verb_LG, self.noun_LG)]
        return contrast_shared(
            encodings.image_BE,
            text_ME,
            owner_M,
            shown,
            encodings.scale,
            image_ties(self.config, batch),
            to_texts=self.config.to_texts,
        )


def contrast_shared(
    image_BE: Tensor,
    text_ME: Tensor,
    owner_M: Tensor,
    shown: Sequence[Tensor],
    scale: Tensor | float,
    ties: Ties = NO_TIES,
    *,
    to_texts: float = 0.5,
) -> Tensor:
    """Symmetric ``-log Σ_positives softmax`` over all ranks.

    The weighted mean over clips that have a positive, of the share of their positives among all
    texts, and over texts of that among all clips. Pairs that ties leave out are in neither sum
    unless they are positives.

    Args:
        image_BE: This rank's clips, normalised.
        text_ME: This rank's texts, normalised, absent ones left out.
        owner_M: The clip to which each belongs.
        shown: What each clip shows, of each sort (B,G), as 1 and 0: samples that share something
            of every sort are positives.
        scale: The inverse temperature.
        ties: Weights, texts that are the same, and what is no negative.
        to_texts: Share of the clips' mean in the result.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        image_BE, text_ME = widened(image_BE), widened(text_ME)
        pool = Pool.of(image_BE, text_ME, owner_M, ties)
        if not len(pool.text_NE):
            return image_BE.sum() * 0.0 + text_ME.sum() * 0.0
        row_P, column_P = _positives(pool, owner_M, shown).nonzero().unbind(1)
        logit_P = (scale * (image_BE[row_P] * pool.text_NE[column_P]).sum(1)).double()
        row_B, part_N = cross_logsumexp(image_BE, pool.text_NE, scale, pool.excluded)
        if pool.excluded is not None:
            out_P = pool.excluded.of_pairs(row_P, column_P)
            back = logit_P[out_P]
            row_B = log_add(row_B, group_logsumexp(back, row_P[out_P], len(row_B)))
            part_N = log_add(part_N, group_logsumexp(back, column_P[out_P], len(part_N)))
        own_B = group_logsumexp(logit_P, row_P, len(row_B))
        own_N = global_logsumexp(group_logsumexp(logit_P, column_P, len(part_N)))
        some_B = row_P.bincount(minlength=len(row_B)) > 0
        weight_B = torch.where(some_B, pool.weight_B, 0.0)
        counts = global_sum(torch.stack([weight_B.sum(), pool.weight_M.sum()]))
        images, texts = counts.clamp(min=torch.finfo(counts.dtype).tiny)
        loss_B = torch.where(some_B, row_B - own_B, 0.0)
        loss_M = (global_logsumexp(part_N) - own_N)[pool.mine]
        loss = to_texts * (weight_B * loss_B).sum() / images
        loss = loss + (1 - to_texts) * (pool.weight_M * loss_M).sum() / texts
        total: Tensor = world()[1] * loss
        return total.to(image_BE.dtype)


def _positives(pool: Pool, owner_M: Tensor, shown: Sequence[Tensor]) -> Tensor:
    """Which clips and texts belong together (B,N)."""
    theirs = (gather_rows(shown_BG[owner_M]) for shown_BG in shown)
    pairs = zip(shown, theirs, strict=True)
    alike_BN = torch.stack([mine @ other.T > 0 for mine, other in pairs]).all(0)
    alike_BN = alike_BN | (pool.own_B[:, None] == pool.own_N)
    if pool.group_M is None or pool.group_N is None:
        return alike_BN
    same_MN = (pool.group_M[:, None] == pool.group_N).float()
    same_BN = same_MN.new_zeros(alike_BN.shape).index_add(0, owner_M, same_MN)
    return alike_BN | (same_BN > 0)


def _tells(labels: Sequence[str], words: Mapping[str, Sequence[str]]) -> Tensor:
    """(L,G): whether a label tells of a word."""
    return torch.tensor([[label in own for own in words.values()] for label in labels])
