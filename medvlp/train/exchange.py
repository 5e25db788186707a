"""Which sentence of which sample takes the place of which: drawing, checking, exchanging.

Pure functions of a batch whose texts carry what they tell (`told_BNQ`, `side_BN`, `place_BNA`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from medvlp.data.batch import Batch
from medvlp.data.presence import ABSENT, PRESENT, UNCERTAIN, UNTOLD
from medvlp.data.tables import LEVELS
from medvlp.encoding import Encodings

_SENTENCE = LEVELS.index("sentence")

Held = TypeVar("Held", Batch, Encodings)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """For each sample i: text `slot` of it is replaced by text `source` of sample `donor`.

    Where `mixed` is False nothing is replaced, and the other columns mean nothing.
    """

    mixed_B: Tensor
    slot_B: Tensor
    donor_B: Tensor
    source_B: Tensor
    contradicted_B: Tensor
    """Drawn, and refused: the other texts of i deny what the sentence says, or place it on another
    side."""

    wrong_side_B: Tensor
    """Drawn, and refused: the sentence names a side on which its attention does not lie."""


def draw_exchange(
    batch: Batch,
    on_side_BN: Tensor,
    *,
    share: float,
    draw_KB: Tensor,
    deny_all: Collection[int] = (),
) -> Exchange:
    """Draw a sentence to give up and one of another patient for each sample, and check the pair.

    A sentence that affirms an observation may be given up. One that affirms and neither denies nor
    doubts anything may be pasted: what it denied would be said of an image it does not belong to.

    Args:
        batch: With `told_BNQ`, `side_BN` and `patient_B`.
        on_side_BN: Whether a text's attention lies on the side that it names, if it names one.
        share: Probability with which a sample is drawn.
        draw_KB: (3,B) uniform draws from [0,1): whether, which sentence, which one for it.
        deny_all: Columns of observations whose denial denies every other one.

    Raises:
        ValueError: The batch does not say what its texts tell, or whose they are.
    """
    told_BNQ, side_BN, patient_B = batch.told_BNQ, batch.side_BN, batch.patient_B
    if told_BNQ is None or side_BN is None or patient_B is None:
        raise ValueError("an exchange needs told_BNQ, side_BN and patient_B")
    gives_BN, pastes_BN = _diagnostic(batch, told_BNQ)
    texts = gives_BN.shape[1]
    owner_M = torch.arange(len(patient_B), device=patient_B.device).repeat_interleave(texts)
    allowed_BM = pastes_BN.flatten() & (patient_B[:, None] != patient_B[owner_M])
    slot_B, has_slot_B = _pick(gives_BN, draw_KB[1])
    text_B, has_donor_B = _pick(allowed_BM, draw_KB[2])
    drawn_B = (draw_KB[0] < share) & has_slot_B & has_donor_B
    donor_B, source_B = text_B // texts, text_B % texts
    contradicted_B = drawn_B & _contradicted(
        told_BNQ, side_BN, slot_B, donor_B, source_B, list(deny_all)
    )
    wrong_side_B = drawn_B & ~contradicted_B & ~on_side_BN[donor_B, source_B]
    return Exchange(
        mixed_B=drawn_B & ~contradicted_B & ~wrong_side_B,
        slot_B=slot_B,
        donor_B=donor_B,
        source_B=source_B,
        contradicted_B=contradicted_B,
        wrong_side_B=wrong_side_B,
    )


def exchange_texts(held: Held, exchange: Exchange) -> Held:
    """A batch or encodings with the sentences exchanged in every tensor of one row a text."""
    row_K = exchange.mixed_B.nonzero()[:, 0]
    there = exchange.donor_B[row_K], exchange.source_B[row_K]
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(held):
        value = getattr(held, field.name)
        # By the shape that the name tells, so that none is forgotten.
        if isinstance(value, Tensor) and field.name.rpartition("_")[2].startswith("BN"):
            value = value.clone()
            value[row_K, exchange.slot_B[row_K]] = value[there]
            changed[field.name] = value
    return dataclasses.replace(held, **changed)


def exchange_truth(batch: Batch, exchange: Exchange, tells_LQ: Tensor) -> Batch:
    """The batch with the labels and relations that hold after the exchange; texts as they were.

    What the pasted sentence affirms is present: a label that tells of it, and the observation at
    the anatomies at which the sentence affirms something and its own report affirms this one. What
    the removed sentence alone told is unknown: the mixed report no longer says it, and whether the
    finding is still to be seen is left open. A label that tells of no observation is unknown.

    Args:
        batch: With the texts as they were.
        exchange: What is exchanged.
        tells_LQ: Which observations each label tells of.
    """
    told_BNQ = batch.told_BNQ
    assert told_BNQ is not None
    row_B = torch.arange(len(told_BNQ), device=told_BNQ.device)
    mixed_B1 = exchange.mixed_B[:, None]
    pasted_BQ = (told_BNQ[exchange.donor_B, exchange.source_B] == PRESENT) & mixed_B1
    others_BN1 = _others(told_BNQ, exchange.slot_B)
    still_BQ = ((told_BNQ != UNTOLD) & others_BN1).any(1)
    lost_BQ = (told_BNQ[row_B, exchange.slot_B] != UNTOLD) & ~still_BQ & mixed_B1
    says_BL = (pasted_BQ[:, None] & tells_LQ).any(2)
    unknown_BL = (lost_BQ[:, None] & tells_LQ).any(2) | (~tells_LQ.any(1) & mixed_B1)
    labels_BL = batch.labels_BL.masked_fill(unknown_BL, torch.nan).masked_fill(says_BL, 1.0)
    relations_BAQ = batch.relations_BAQ
    if relations_BAQ is not None and batch.place_BNA is not None:
        place_BA = batch.place_BNA[exchange.donor_B, exchange.source_B] == 1
        affirmed_BAQ = relations_BAQ[exchange.donor_B] == PRESENT
        says_BAQ = place_BA[..., None] & pasted_BQ[:, None] & affirmed_BAQ
        relations_BAQ = relations_BAQ.masked_fill(lost_BQ[:, None], UNTOLD)
        relations_BAQ = relations_BAQ.masked_fill(says_BAQ, PRESENT)
    return dataclasses.replace(batch, labels_BL=labels_BL, relations_BAQ=relations_BAQ)


def _diagnostic(batch: Batch, told_BNQ: Tensor) -> tuple[Tensor, Tensor]:
    """Sentences that affirm something, and those of them that say nothing else."""
    sentence_BN = batch.text_mask_BNT.any(2) & (batch.level_BN == _SENTENCE)
    affirms_BN = sentence_BN & (told_BNQ == PRESENT).any(2)
    other_BN = ((told_BNQ == ABSENT) | (told_BNQ == UNCERTAIN)).any(2)
    return affirms_BN, affirms_BN & ~other_BN


def _pick(allowed_BM: Tensor, draw_B: Tensor) -> tuple[Tensor, Tensor]:
    """A column of each row, even among those allowed, by a draw from [0,1); and whether any is."""
    rank_BM = allowed_BM.long().cumsum(1)
    count_B = rank_BM[:, -1]
    wanted_B = (draw_B * count_B).long()
    column_B = (rank_BM <= wanted_B[:, None]).sum(1)
    return column_B.clamp(max=allowed_BM.shape[1] - 1), count_B > 0


def _contradicted(
    told_BNQ: Tensor,
    side_BN: Tensor,
    slot_B: Tensor,
    donor_B: Tensor,
    source_B: Tensor,
    deny_all: list[int],
) -> Tensor:
    others_BN1 = _others(told_BNQ, slot_B)
    denied_BQ = ((told_BNQ == ABSENT) & others_BN1).any(1)
    denied_BQ |= denied_BQ[:, deny_all].any(1, keepdim=True)
    pasted_BQ = told_BNQ[donor_B, source_B] == PRESENT
    same_BNQ = (told_BNQ == PRESENT) & pasted_BQ[:, None] & others_BN1
    side_B1 = side_BN[donor_B, source_B][:, None]
    elsewhere_BN = (side_BN != side_B1) & (side_BN > 0) & (side_B1 > 0)
    return (denied_BQ & pasted_BQ).any(1) | (same_BNQ.any(2) & elsewhere_BN).any(1)


def _others(told_BNQ: Tensor, slot_B: Tensor) -> Tensor:
    """(B,N,1): the texts that stay."""
    slots_N = torch.arange(told_BNQ.shape[1], device=told_BNQ.device)
    return (slots_N != slot_B[:, None])[..., None]
