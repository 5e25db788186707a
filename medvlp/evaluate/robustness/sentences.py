"""Pairs before a scorer: who prefers the right sentence, and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.data.randomness import generator
from medvlp.evaluate.cases import middle_s
from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure
from medvlp.evaluate.predict import Scorer
from medvlp.evaluate.predictions import SUBGROUPS
from medvlp.evaluate.robustness.forms import corners_covered, mirrored
from medvlp.evaluate.robustness.pairs.pair import Case, Pair

SCORE = "robustness"
"""The metric of an axis' one score; its row carries the axis as name."""


LEAST = 20
"""Pairs that a family needs to have a part in the axis' score: fewer say more of luck."""


class SentenceScorer(Protocol):
    """Anything that says how well a sentence fits a case; more is better."""

    def score(self, case: Case, sentence: str) -> float:
        """How well `sentence` fits `case`."""


class TowerScorer:
    """A bundle's cosine of a sentence with an image, or with a statement in other words.

    Everything is embedded once, when the scorer is made.

    Args:
        scorer: The bundle. An image-blind control sees what it is given: the pairs are coupled, so
            whoever does not look gets half of them anyhow.
        pairs: What it will be asked.
    """

    def __init__(self, scorer: Scorer, pairs: Sequence[Pair]) -> None:
        texts = dict.fromkeys(text for pair in pairs for text in (pair.right, pair.wrong))
        texts |= dict.fromkeys(pair.case.anchor for pair in pairs if pair.case.anchor is not None)
        listed = list(texts)
        self.text = dict(zip(listed, scorer.bundle.embed_text(listed), strict=True))
        views, stored = seen_views(scorer, pairs)
        self.image = dict(zip(views, scorer.bundle.embed_stored(stored), strict=True))

    def score(self, case: Case, sentence: str) -> float:
        """The cosine."""
        own = self.text[case.anchor] if case.anchor is not None else self.image[case.view]
        return float(own @ self.text[sentence])


class ChanceScorer:
    """Scores drawn uniformly, each from the case and the sentence."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def score(self, case: Case, sentence: str) -> float:
        """In [0,1)."""
        return float(generator(self.seed, 0, f"{case.key}|{sentence}", "chance").random())


def seen_views(
    scorer: Scorer, pairs: Sequence[Pair]
) -> tuple[list[tuple[Any, ...]], Iterator[NDArray[Any]]]:
    """The different views of images in pairs, and the stored array of each as the model sees it."""
    views = {pair.case.view: pair.case for pair in pairs if pair.case.item is not None}
    return list(views), _seen(scorer, list(views.values()))


def _seen(scorer: Scorer, cases: Sequence[Case]) -> Iterator[NDArray[Any]]:
    stored = scorer.stored([case.item for case in cases if case.item is not None])
    for case, array in zip(cases, stored, strict=True):
        # Covered first: a marker must not come back on the other side.
        shown = corners_covered(array) if case.masked else array
        yield mirrored(shown) if case.mirrored else shown


def judged(pairs: Sequence[Pair], scorer: SentenceScorer) -> list[tuple[float, float]]:
    """Each pair's scores of its right and of its wrong sentence."""
    return [
        (scorer.score(pair.case, pair.right), scorer.score(pair.case, pair.wrong)) for pair in pairs
    ]


def credit(right: float, wrong: float) -> float:
    """1 where the right one scores higher, 1/2 for a tie, 0 otherwise."""
    return 0.5 + 0.5 * float(np.sign(right - wrong))


def pair_rows(
    pairs: Sequence[Pair],
    scores: Sequence[tuple[float, float]],
    meta: Mapping[str, Mapping[str, str | None]],
    about: Mapping[str, Any],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of `PREDICTIONS` (credits), and the table of what was asked and answered.

    Args:
        pairs: What was asked.
        scores: Of `judged`.
        meta: Sample -> subgroup columns.
        about: The columns `model`, `seed` and `control`.
    """
    rows, asked = [], []
    unknown = dict.fromkeys(SUBGROUPS)
    for pair, (right, wrong) in zip(pairs, scores, strict=True):
        key = {"sample": pair.sample, "name": f"{pair.family}/{pair.finding}"}
        item = pair.case.item
        rows.append(
            {**key, **about, **meta.get(pair.sample, unknown), "patient": pair.patient, "label": 1,
             "score": credit(right, wrong), "time_s": None if item is None else middle_s(item)}
        )  # fmt: skip
        asked.append(
            {**key, "model": about["model"], "seed": about["seed"], "anchor": pair.case.anchor,
             "mirrored": pair.case.mirrored, "right": pair.right, "wrong": pair.wrong,
             "right_score": right, "wrong_score": wrong}
        )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None), pl.DataFrame(
        asked, infer_schema_length=None
    )


def share_measures(axis: str) -> Measures:
    """The mean credit of every family and finding, and the axis' score: the mean of families.

    Families of fewer than `LEAST` pairs stand beside it, unless there are no others.
    """

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        parts = rows.with_columns(
            family=pl.col("name").str.split("/").list.first(),
            finding=pl.col("name").str.split("/").list.last(),
        )
        found = [*_shares(parts, "family", clusters), *_shares(parts, "finding", clusters)]
        families = [m for m in found if m.metric == "share_right_family"]
        counted = [m for m in families if m.n >= LEAST] or families
        members = tuple((m.metric, m.name) for m in counted)
        return [Measure(metric=SCORE, name=axis, n=len(rows), members=members), *found]

    return measures


def _shares(parts: pl.DataFrame, column: str, clusters: int) -> Iterable[Measure]:
    for (name,), part in parts.group_by(column, maintain_order=True):
        patient = part["cluster"].to_numpy()
        yield mean_measure(
            f"share_right_{column}", str(name), part["score"].to_numpy(), patient, clusters
        )
