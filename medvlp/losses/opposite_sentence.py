"""Opposite sentences: an image tells each sentence about it from the one that says the contrary.

Shape letters: B samples, X names that the prompts ask about, K pairs of a sample, S sentences, R
pairs that count, E joint embedding.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.batch import Batch, TokenIds
from medvlp.data.presence import ABSENT, PRESENT, UNTOLD
from medvlp.data.prompts import Prompts
from medvlp.encoding import Encodings, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import gather_rows
from medvlp.losses.objective import Objective, SampleObjective
from medvlp.losses.told import known, strongest

Count = Annotated[int, Field(gt=0)]

_AFFIRMED, _DENIED, _UNCOUNTED = 0, 1, -1
"""Which sentence of a pair holds, by its place in the pair."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OppositeSentenceConfig:
    """Cross-entropy of two sentences of opposite meaning (COLIPRI, arXiv:2510.15042).

    A step asks the way zero-shot scores do, in the joint space and at its temperature. The paper's
    own formula could not be read. Here the sentences are those of the experiment's prompts; which
    of a pair holds is known from labels or entities. What is uncertain is asked nothing.
    """

    kind: Literal["opposite-sentence"] = "opposite-sentence"
    weight: float = 1.0
    pairs: Count = 8
    """K: names that a step asks about a sample, drawn from those of which something is known."""

    source: Literal["labels", "entities"] = "labels"
    """Where it is known from: ``data.labels``, or all that a sample's reports tell of
    ``data.entities``; the prompts' names are looked up there."""

    unknown: Literal["ignore", "others"] = "ignore"
    """Of what nothing is known of a sample. ``others``: if some other patient of the batch is known
    to have it, the sentence that denies it holds; silence then counts as absence."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its sentences.

        Raises:
            ConfigError: There are no prompts for both sides, none of the names is known to the
                data, or a sentence is too long.
        """
        prompts = sizes.prompts
        if prompts is None or prompts.mode != "independent":
            raise ConfigError(
                "objective opposite-sentence: the experiment has no prompts that affirm and deny",
                remedy="name a prompt set of mode independent in prompts",
            )
        names = sizes.labels if self.source == "labels" else sizes.observations
        asked = {name: prompts.labels[name] for name in names if name in prompts.labels}
        if not asked:
            raise ConfigError(
                f"objective opposite-sentence: no name of the prompts is in data.{self.source}",
                remedy="write the names alike, or choose another source",
            )
        if sizes.tokens is None or sizes.tokens.encode is None:
            raise ConfigError(
                "objective opposite-sentence: there is no tokenizer to read the prompts",
                remedy="build the objective with the run's tokenizer",
            )
        return OppositeSentenceObjective(self, names, asked, sizes.tokens, sizes.max_tokens)


class OppositeSentenceObjective(SampleObjective):
    """Mean over all ranks' pairs of the cross-entropy of the sentence that holds."""

    reads: ClassVar[frozenset[str]] = frozenset(
        {"image_BE", "scale", "embed", "labels_BL", "relations_BAQ", "told_BNQ", "patient_B"}
    )

    column_X: Tensor
    ids_ST: Tensor
    mask_ST: Tensor
    start_X2: Tensor
    count_X2: Tensor

    def __init__(
        self,
        config: OppositeSentenceConfig,
        names: tuple[str, ...],
        prompts: dict[str, Prompts],
        tokens: TokenIds,
        longest: int | None,
    ) -> None:
        super().__init__()
        self.config = config
        sides = [side for both in prompts.values() for side in (both.positive, both.negative)]
        sentences = [sentence for side in sides for sentence in side]
        ids_ST, mask_ST = _read(sentences, tokens, longest)
        count_X2 = torch.tensor([len(side) for side in sides]).view(-1, 2)
        start_X2 = (count_X2.flatten().cumsum(0) - count_X2.flatten()).view(-1, 2)
        column_X = torch.tensor([names.index(name) for name in prompts])
        # They follow from names, prompts and tokenizer: no weights, and no part of a bundle's.
        for name, value in (
            ("ids_ST", ids_ST),
            ("mask_ST", mask_ST),
            ("count_X2", count_X2),
            ("start_X2", start_X2),
            ("column_X", column_X),
        ):
            self.register_buffer(name, value, persistent=False)

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """Each sample's pairs of sentences (B,K,2), drawn anew, and which of the two holds (B,K).

        Raises:
            ValueError: The batch lacks relations or patients that the configuration asks for.
        """
        truth_BX = self._truth(batch)[:, self.column_X]
        if self.config.unknown == "others":
            truth_BX = _absent_beside_others(truth_BX, batch)
        known_BX = known(truth_BX)
        draw_BX = torch.rand(known_BX.shape, device=truth_BX.device).masked_fill(~known_BX, -1.0)
        name_BK = draw_BX.topk(min(self.config.pairs, draw_BX.shape[1]), 1).indices
        which_BK = torch.where(truth_BX.gather(1, name_BK) == PRESENT, _AFFIRMED, _DENIED)
        which_BK = which_BK.where(known_BX.gather(1, name_BK), _UNCOUNTED)
        choice_BK2 = torch.rand(*name_BK.shape, 2, device=truth_BX.device) * self.count_X2[name_BK]
        pair_BK2 = self.start_X2[name_BK] + choice_BK2.long()
        return (pair_BK2, which_BK), (which_BK != _UNCOUNTED).sum()

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The pairs' cross-entropies."""
        pair_BK2, which_BK = targets
        counted_BK = which_BK != _UNCOUNTED
        row_R = counted_BK.nonzero()[:, 0]
        asked_S, pair_R2 = torch.unique(pair_BK2[counted_BK], return_inverse=True)
        if not len(row_R):
            # Where weights are sharded, all ranks run the text tower, or the others wait for ever.
            sentence_SE = encodings.embed(self.ids_ST[:1], self.mask_ST[:1])
            return 0.0 * (encodings.image_BE.sum() + sentence_SE.sum())
        sentence_SE = encodings.embed(self.ids_ST[asked_S], self.mask_ST[asked_S])
        return opposite_losses(
            encodings.image_BE[row_R], sentence_SE[pair_R2], which_BK[counted_BK], encodings.scale
        ).sum()

    def _truth(self, batch: Batch) -> Tensor:
        """What is known of each column's name (B,...), as values of `medvlp.data.presence`."""
        if self.config.source == "labels":
            return batch.labels_BL.nan_to_num(UNTOLD).long()
        if batch.relations_BAQ is None or batch.told_BNQ is None:
            raise ValueError("opposite-sentence: the batch has no relations")
        return strongest(torch.cat([batch.relations_BAQ, batch.told_BNQ], 1).long(), 1)


def opposite_losses(
    image_RE: Tensor, pair_R2E: Tensor, which_R: Tensor, scale: Tensor | float
) -> Tensor:
    """``-log softmax(s · [cos(v, s₀), cos(v, s₁)])`` at the sentence that holds (R), in float32.

    Args:
        image_RE: An image of each pair, normalised.
        pair_R2E: Its two sentences, normalised.
        which_R: 0 or 1, the one that holds.
        scale: The inverse temperature s.

    >>> image, pair = torch.tensor([[1.0, 0.0]]), torch.eye(2)[None]
    >>> round(opposite_losses(image, pair, torch.tensor([0]), 1.0).item(), 4)
    0.3133
    """
    with torch.autocast(image_RE.device.type, enabled=False):
        logit_R2 = scale * (widened(image_RE)[:, None] * widened(pair_R2E)).sum(-1)
        return F.cross_entropy(logit_R2, which_R, reduction="none")


def _absent_beside_others(truth_BX: Tensor, batch: Batch) -> Tensor:
    """The truth, where what is untold of a sample is absent if another patient is known to have it.

    Raises:
        ValueError: The batch has no patients.
    """
    if batch.patient_B is None:
        raise ValueError("opposite-sentence: unknown=others needs patients, the batch has none")
    patient_N = gather_rows(batch.patient_B)
    present_NX = gather_rows((truth_BX == PRESENT).float())
    other_BN = batch.patient_B[:, None] != patient_N
    theirs_BX = other_BN.float() @ present_NX > 0
    return truth_BX.masked_fill((truth_BX == UNTOLD) & theirs_BX, ABSENT)


def _read(sentences: list[str], tokens: TokenIds, longest: int | None) -> tuple[Tensor, Tensor]:
    assert tokens.encode is not None
    ids_ST, mask_ST = tokens.encode(sentences)
    length_S = mask_ST.sum(1)
    if longest is not None and int(length_S.max()) > longest:
        worst = int(length_S.argmax())
        raise ConfigError(
            f"objective opposite-sentence: the prompt {sentences[worst]!r} has "
            f"{int(length_S[worst])} tokens, the text tower takes {longest}",
            remedy="shorten the prompt, or raise text.max_tokens",
        )
    return ids_ST, mask_ST
