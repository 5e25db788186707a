"""Words and places: the local contrast of GLoRIA (Huang et al., ICCV 2021, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, ImageFeatures, ReadText, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import (
    gather_rows,
    global_logsumexp,
    global_sum,
    rank_rows,
    rows_before,
    world,
)
from medvlp.losses.objective import AligningObjective, Objective
from medvlp.losses.ties import group_slots, text_groups

Aggregate = Literal["mean", "sum"]
Duplicates = Literal["negative", "leave-out"]

WORD_SHARPNESS = 4.0
"""GLoRIA's γ1: how sharply a word looks at places."""

LOCAL_SHARPNESS = 5.0
"""GLoRIA's γ2: what a word's agreement with its place is multiplied by."""

CONTRAST_SHARPNESS = 10.0
"""GLoRIA's γ3: what a text's agreement with an image is multiplied by in the contrast."""

PAIR_VALUES = 2**25
"""Values of the largest tensor (images x words x the larger of places and width) up to which what
backward needs is kept: 128 MiB in float32, of some six such tensors. Beyond, backward computes it
anew, for as many texts at a time as stay below, but at least one."""

CACHE_VALUES = 2**20
"""The same for texts that a CPU takes at a time, so that they stay in its cache."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LocalConfig:
    """Word-to-place contrast (GLoRIA, Huang et al., ICCV 2021, section 3.3).

    Words are the tokenizer's tokens; the paper sums the pieces of a word.
    """

    reads_tokens: ClassVar[str] = "looks at each word"

    kind: Literal["local"] = "local"
    weight: float = 1.0
    aggregate: Aggregate = "sum"
    """Of the words' agreements with an image; the paper sums."""

    duplicates: Duplicates = "negative"
    """Texts of other samples in the same words: negatives as any other, or left out of the sums."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective.

        Raises:
            ConfigError: The tokenizer's special tokens are not known.
        """
        if sizes.tokens is None:
            raise ConfigError(
                "objective local: the tokenizer's special tokens are not known",
                remedy="build the objective with the run's tokenizer",
            )
        return LocalObjective(sizes.tokens.special, self.aggregate, self.duplicates)


class LocalObjective(AligningObjective):
    """`contrast_local` of a batch's words; special tokens and padding are none."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"patch_BPE", "token_BNTE", "text_BNT", "text_mask_BNT"}
    )

    def __init__(
        self,
        special: tuple[int, ...],
        aggregate: Aggregate = "sum",
        duplicates: Duplicates = "negative",
    ) -> None:
        super().__init__()
        self.special = special
        self.aggregate = aggregate
        self.duplicates = duplicates

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks."""
        words = Words.of(
            encodings.token_BNTE,
            own_words(batch, self.special),
            twin_groups(batch, self.duplicates),
        )
        return contrast_local(encodings.patch_BPE, words, aggregate=self.aggregate)

    def text_places(self, features: ImageFeatures, patch_PE: Tensor, text: ReadText) -> Tensor:
        """See `AligningObjective.text_places`; on the token grid."""
        return word_places(patch_PE, text.word_TE).reshape(features.grid)


def own_words(batch: Batch, special: tuple[int, ...]) -> Tensor:
    """Where a batch's texts have a word of their own (B,N,T): no padding, no special token."""
    special_V = torch.tensor(special, device=batch.text_BNT.device)
    return batch.text_mask_BNT & ~torch.isin(batch.text_BNT, special_V)


def twin_groups(batch: Batch, duplicates: Duplicates) -> Tensor | None:
    """An id of each text (B,N) by its tokens; None where equal texts are negatives."""
    if duplicates == "negative":
        return None
    ids_BNT, mask_BNT = batch.text_BNT, batch.text_mask_BNT
    return text_groups(ids_BNT.flatten(0, 1), mask_BNT.flatten(0, 1)).view(ids_BNT.shape[:2])


@plain_dataclass(frozen=True, kw_only=True)
class Words:
    """Texts as their own words, one text after another."""

    word_KE: Tensor
    """All texts' words, not normalised."""

    length_M: Tensor
    """How many of them belong to each text; at least one."""

    owner_M: Tensor
    """The image to which each text belongs."""

    group_M: Tensor | None = None
    """Texts of one id are the same text, and no negatives; None if all are."""

    @classmethod
    def of(cls, token_BNTE: Tensor, real_BNT: Tensor, group_BN: Tensor | None = None) -> Words:
        """Those of a batch's texts that are real.

        A text without any, such as an absent one, says nothing of any place and is left out.
        """
        length_BN = real_BNT.sum(2)
        spoken_BN = length_BN > 0
        return cls(
            word_KE=token_BNTE[real_BNT],
            length_M=length_BN[spoken_BN],
            owner_M=spoken_BN.nonzero()[:, 0],
            group_M=None if group_BN is None else group_BN[spoken_BN],
        )

    def padded(self) -> tuple[Tensor, Tensor]:
        """The words (M,T,E), zero where a text has fewer than T, and where there is one (M,T)."""
        longest = int(self.length_M.max())
        place_T = torch.arange(longest, device=self.length_M.device)
        real_MT = place_T < self.length_M[:, None]
        padded = self.word_KE.new_zeros(*real_MT.shape, self.word_KE.shape[1])
        return padded.index_put((real_MT,), self.word_KE), real_MT


def contrast_local(
    patch_BPE: Tensor,
    words: Words,
    *,
    aggregate: Aggregate = "sum",
    values: int = PAIR_VALUES,
) -> Tensor:
    """Symmetric InfoNCE over all ranks with `text_agreement` in the place of a cosine.

    An image may have several texts: its loss is the mean over them of ``-log softmax`` over all
    texts, a text's the same over all images; the result is half the mean over images that have a
    text, plus half that over texts (Huang et al., equations 5 and 6, whose sum is twice this).

    Args:
        patch_BPE: This rank's projected patches, not normalised.
        words: This rank's texts. All ranks' are gathered. With groups, another image's text that
            is the same as one of an image's own is left out of both of that pair's sums.
        aggregate: See `text_agreement`.
        values: See `PAIR_VALUES`; the result does not depend on it.
    """
    with torch.autocast(patch_BPE.device.type, enabled=False):
        patch_BPE, word_KE = widened(patch_BPE), widened(words.word_KE)
        pool = Words(
            word_KE=gather_rows(word_KE),
            length_M=gather_rows(words.length_M),
            owner_M=gather_rows(rank_rows(patch_BPE)[words.owner_M]),
            group_M=None if words.group_M is None else gather_rows(words.group_M),
        )
        if not len(pool.length_M):
            return patch_BPE.sum() * 0.0 + word_KE.sum() * 0.0
        start = rows_before(words.length_M)
        mine = slice(start, start + len(words.length_M))
        agreement_BN = text_agreement(patch_BPE, pool, aggregate=aggregate, values=values)
        own_BN = rank_rows(patch_BPE)[:, None] == pool.owner_M
        logit_BN = CONTRAST_SHARPNESS * agreement_BN
        if words.group_M is not None and pool.group_M is not None:
            slots_BK = group_slots(words.group_M, words.owner_M, len(patch_BPE))
            twin_BN = (slots_BK[:, :, None] == pool.group_M).any(1) & ~own_BN
            # Finite: all of a rank's images may be masked in a text's column.
            logit_BN = logit_BN.masked_fill(twin_BN, torch.finfo(logit_BN.dtype).min)
        column_M = global_logsumexp(logit_BN.logsumexp(0))[mine]
        row_B = logit_BN.logsumexp(1)
        texts_B = own_BN.sum(1)
        counts = global_sum(torch.stack([(texts_B > 0).sum(), own_BN.sum()]))
        share_B = (texts_B > 0) / counts[0]
        own_B = torch.where(own_BN, logit_BN, 0.0).sum(1)
        images = (share_B * (row_B - own_B / texts_B.clamp(min=1))).sum()
        texts = (column_M.sum() - own_B.sum()) / counts[1]
        loss: Tensor = world()[1] * (images + texts) / 2
        return loss


def text_agreement(
    patch_BPE: Tensor,
    words: Words,
    *,
    aggregate: Aggregate = "sum",
    values: int = PAIR_VALUES,
) -> Tensor:
    """How well each text's words agree with the places they look at, (B,M).

    ``log Σ_w exp(γ2·cos(w, c_w))``, see `word_agreement`, less ``log T`` under ``mean``. Texts
    of about the same length are taken a few at a time; where all pairs are too many to be kept,
    backward computes each few anew, so that memory does not grow with the number of pairs.

    Args:
        patch_BPE: Projected patches, not normalised.
        words: At least one text; whose image it is plays no part.
        aggregate: ``sum`` over the words, by which an image agrees more with longer texts, or
            their ``mean``.
        values: See `PAIR_VALUES`.
    """
    word_MTE, real_MT = words.padded()
    length_M, order_M = words.length_M.sort()
    lengths = length_M.tolist()
    a_word = len(patch_BPE) * max(patch_BPE.shape[1:])
    at_once = min(values, CACHE_VALUES) if patch_BPE.device.type == "cpu" else values
    texts = max(1, at_once // max(1, a_word * lengths[-1]))
    kept = a_word * sum(lengths) <= values
    parts: list[Tensor] = []
    for start in range(0, len(lengths), texts):
        index_m = order_M[start : start + texts]
        longest = lengths[start + len(index_m) - 1]
        few = patch_BPE, word_MTE[index_m, :longest], real_MT[index_m, :longest]
        parts.append(
            _log_sum(*few)
            if kept
            else checkpoint(_log_sum, *few, use_reentrant=False, preserve_rng_state=False)
        )
    agreement_BM = torch.cat(parts, 1)[:, order_M.argsort()]
    return agreement_BM - words.length_M.log() if aggregate == "mean" else agreement_BM


def _log_sum(patch_BPE: Tensor, word_MTE: Tensor, real_MT: Tensor) -> Tensor:
    agreement_BMT = word_agreement(patch_BPE, word_MTE, real_MT)
    return agreement_BMT.masked_fill(~real_MT, -torch.inf).logsumexp(2)


def word_places(patch_PE: Tensor, word_TE: Tensor) -> Tensor:
    """Where a text's words look in one image, (P,), not negative; the sum is 1.

    Each word's look, weighed by a softmax over words of how well it agrees with what it sees. The
    paper shows single words; the sum over a text is ours.

    Args:
        patch_PE: Projected patches, not normalised.
        word_TE: Projected words, not normalised; at least one.
    """
    look_PT = (WORD_SHARPNESS * (patch_PE @ word_TE.T).softmax(1)).softmax(0)
    real_1T = torch.ones(1, len(word_TE), dtype=torch.bool, device=word_TE.device)
    agreement_T = word_agreement(patch_PE[None], word_TE[None], real_1T)[0, 0]
    return look_PT @ agreement_T.softmax(0)


def word_agreement(patch_BPE: Tensor, word_MTE: Tensor, real_MT: Tensor) -> Tensor:
    """How well each word agrees with the places that it looks at, (B,M,T).

    ``γ2·cos(w, c_w)`` with ``c_w = Σ_l softmax_l(γ1·softmax_w(⟨w,v_l⟩)) v_l``: a text's words
    first compete for every place, then each word chooses among places.

    Args:
        patch_BPE: Projected patches v, not normalised.
        word_MTE: Projected words w of each text, not normalised.
        real_MT: Where there is a word; at least one in each text. Elsewhere the result is finite
            and means nothing.
    """
    (images, places), (texts, longest) = patch_BPE.shape[:2], real_MT.shape
    product = patch_BPE.flatten(0, 1) @ word_MTE.flatten(0, 1).T
    product_BPMT = product.view(images, places, texts, longest)
    found_BPMT = product_BPMT.masked_fill(~real_MT, -torch.inf).softmax(3)
    look_BPK = (WORD_SHARPNESS * found_BPMT).softmax(1).flatten(2)
    context_BKE = look_BPK.transpose(1, 2) @ patch_BPE
    # ⟨w, c_w⟩ is a mean of products that are there already.
    inner_BK = (look_BPK * product_BPMT.flatten(2)).sum(1)
    norms_BK = context_BKE.norm(dim=2) * word_MTE.flatten(0, 1).norm(dim=1)
    agreement_BK: Tensor = LOCAL_SHARPNESS * inner_BK / norms_BK.clamp(min=1e-8)
    return agreement_BK.view(images, texts, longest)
