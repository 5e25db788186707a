"""Sentences before a model that tells observations and places apart by a trained head.

Such a head reads no sentence. A rule-based extractor says what the sentence claims, and the head
how likely each claim is: the score of a sentence is the sum over its claims of ``log 2p``, p the
probability of the claim in the image. A claim that the head knows nothing of adds 0, as does one of
which it is as sure as of a coin; so does what is told with doubt.

- "X is present": p is that of X's existence; denied, its complement.
- On a side, or at a place: p is X's relation to that place; "no X on the left" denies that relation
  alone. Of several columns that are meant (a place without a side, a side without the place) the
  strongest counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medvlp.data.presence import ABSENT, PRESENT
from medvlp.evaluate.predict import Scorer
from medvlp.evaluate.robustness.pairs.pair import Case, Pair
from medvlp.evaluate.robustness.sentences import TowerScorer, seen_views
from medvlp.losses.objective import RelatingObjective
from medvlp.models.answers import relations

SIDES: Mapping[str, tuple[str, ...]] = {
    "left": ("left",),
    "right": ("right",),
    "bilateral": ("left", "right"),
}


class Claim(Protocol):
    """What a sentence says of one observation (`medvlp.data.structure.extract.Triple`)."""

    @property
    def anatomy(self) -> str:
        """The place, without its side."""

    @property
    def observation(self) -> str:
        """What is there, or not."""

    @property
    def presence(self) -> int:
        """A value of `medvlp.data.relations`."""

    @property
    def side(self) -> str:
        """left, right, bilateral, or nothing."""


class Reader(Protocol):
    """Anything that says what a sentence claims."""

    def sentence(self, text: str) -> Sequence[Claim]:
        """The claims of one sentence."""


class StructuredScorer:
    """A bundle's trained head, asked what a reader finds in sentences.

    Statements in other words, with no image, are compared by the text tower.

    Args:
        scorer: The bundle.
        head: Its head that tells places apart.
        pairs: What it will be asked.
        reader: Says what sentences claim.
        names: The reader's name -> the head's, where the two differ.
    """

    def __init__(
        self,
        scorer: Scorer,
        head: RelatingObjective,
        pairs: Sequence[Pair],
        reader: Reader,
        names: Mapping[str, str],
    ) -> None:
        self._reader = reader
        self._names = names
        self._answers = {name: i for i, name in enumerate(head.answers)}
        self._places = {name: i for i, name in enumerate(head.anatomies)}
        self._tower = TowerScorer(scorer, [pair for pair in pairs if pair.case.item is None])
        views, stored = seen_views(scorer, pairs)
        told = relations(scorer.bundle, head, stored)
        rows = zip(told.exist_NL, told.relation_NAL, strict=True)
        self._told = dict(zip(views, rows, strict=True))

    def knows(self, sentence: str) -> bool:
        """Whether the head has a word to say about the sentence."""
        return any(self._column(claim) is not None for claim in self._reader.sentence(sentence))

    def score(self, case: Case, sentence: str) -> float:
        """The sum of ``log 2p``; a cosine for a statement in other words."""
        if case.item is None:
            return self._tower.score(case, sentence)
        exist_L, relation_AL = self._told[case.view]
        total = 0.0
        for claim in self._reader.sentence(sentence):
            column = self._column(claim)
            if column is not None:
                sign = 1.0 if claim.presence == PRESENT else -1.0
                logits = self._logits(claim, exist_L[column], relation_AL[:, column])
                total += sum(_evidence(sign * logit) for logit in logits)
        return total

    def _column(self, claim: Claim) -> int | None:
        """The head's column of what is claimed for certain."""
        if claim.presence not in (PRESENT, ABSENT):
            return None
        return self._answers.get(self._names.get(claim.observation, claim.observation))

    def _logits(self, claim: Claim, exist: float, relation_A: NDArray[np.float32]) -> list[float]:
        """Of everything that the claim affirms, or denies."""
        groups = self._groups(claim)
        placed = [float(relation_A[group].max()) for group in groups]
        local = claim.presence == ABSENT and claim.side and placed
        return placed if local else [float(exist), *placed]

    def _groups(self, claim: Claim) -> list[list[int]]:
        """The columns of each place that is meant."""
        place = self._names.get(claim.anatomy, claim.anatomy)
        if claim.side:
            found = [self._on(side, place) for side in SIDES[claim.side]]
        else:
            wanted = (place, f"left {place}", f"right {place}")
            found = [[self._places[name] for name in wanted if name in self._places]]
        return [group for group in found if group]

    def _on(self, side: str, place: str) -> list[int]:
        exact = self._places.get(f"{side} {place}")
        if exact is not None:
            return [exact]
        return [i for name, i in self._places.items() if name.startswith(f"{side} ")]


def _evidence(logit: float) -> float:
    """``log 2σ(logit)``."""
    return float(np.log(2.0) - np.logaddexp(0.0, -logit))
