"""Task `shortcuts`: how far a label can be had by detectors that know no anatomy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import check_labels, known_labels, sample_items, subgroups
from medvlp.evaluate.controls.computed import Scores
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, label_rows
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.shortcuts.audit import DETECTORS, Cohort, Shortcut, audit
from medvlp.evaluate.shortcuts.cohort import cohort_of
from medvlp.evaluate.shortcuts.embedded import read_off

READ = ("site", "scanner", "view", "sex")
"""What a reader of embeddings is asked for."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShortcutsConfig:
    """The ways around the anatomy: in the data, and in what embeddings tell.

    Each detector is fitted on the training split and asked on the evaluated one, where images are
    seen as the first bundle sees them. A row well above AUROC 0.5 is a way to the label that a
    model may take without looking at the anatomy. A model's own rows (``site: A``) are a linear
    reader's of its embeddings, across patients of the evaluated split.
    """

    kind: Literal["shortcuts"] = "shortcuts"
    labels: Annotated[tuple[str, ...], Field(min_length=1)]

    headlines: ClassVar[tuple[str, ...]] = ("auroc",)

    def resolve(self, base: Path) -> ShortcutsConfig:
        """The task itself: it names no files."""
        return self

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Every detector's scores, as controls.

        Raises:
            ConfigError: No bundle, a label that no manifest knows, or none with both classes in
                both splits.
        """
        if not scorers:
            raise ConfigError(
                f"{study.protocol}: no bundle says how images are seen",
                remedy="give --bundle RUN/bundle",
            )
        check_labels(self.labels, known_labels(study.manifests), "task.labels", "the manifests")
        train, test = (
            sample_items(study.manifests, split, self.labels, domain=study.domain)
            for split in ("train", study.split)
        )
        count = len(self.labels)
        truth_NL = np.array([item.labels_L for item in test], np.float32).reshape(-1, count)
        scores = {name: np.full(truth_NL.shape, np.nan) for name in DETECTORS}
        flagged = skipped = 0
        for column, label in enumerate(self.labels):
            cohorts = [cohort_of(scorers[0], s, study.manifests, column) for s in (train, test)]
            if not all(_both_classes(cohort) for cohort in cohorts):
                skipped += 1
                truth_NL[:, column] = np.nan
                continue
            found = audit(cohorts[0], cohorts[1], label=label, seed=study.seed)
            flagged += sum(one.flagged for one in found)
            _put(scores, found, np.isin(truth_NL[:, column], (0, 1)), column)
        if skipped == len(self.labels):
            raise ConfigError(
                f"{study.protocol}: no label is present and absent in both splits",
                remedy="name other labels, or manifests with more patients",
            )
        meta = subgroups(study.manifests)
        rows = label_rows(
            study, test, self.labels, truth_NL, {n: (s, True) for n, s in scores.items()}, meta
        )
        read = [found for s in scorers for found in _read_off(study, s, test, meta)]
        return Predicted(
            # A detector for which nothing is known (no texts, no order in time) has no row.
            rows=pl.concat([rows.filter(pl.col("score").is_not_nan()), *read]),
            counts={"shortcuts_flagged": flagged, "labels_of_one_class": skipped},
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Those of findings."""
        return finding_measures(evidence.thresholds, evidence.stated)


def _read_off(
    study: Study, scorer: Scorer, items: Sequence[Item], meta: Mapping[str, Mapping[str, Any]]
) -> Iterator[pl.DataFrame]:
    """Rows of what can be read from a model's embeddings of the evaluated items."""
    embedding_NE = scorer.embed(items).astype(np.float64)
    patient = [item.patient for item in items]
    for column in READ:
        told = [meta[item.sample][column] for item in items]
        for value in sorted({value for value in told if value is not None}):
            target_N = np.array([one == value for one in told])
            score_N = read_off(embedding_NE, target_N, patient)
            if score_N is not None:
                of = {scorer.name: (score_N[:, None], scorer.control is not None)}
                truth_N1 = target_N[:, None].astype(np.float32)
                yield label_rows(study, items, [f"{column}: {value}"], truth_N1, of, meta)


def _both_classes(cohort: Cohort) -> bool:
    return 0 < int(cohort.label_N.sum()) < len(cohort.label_N)


def _put(
    scores: dict[str, Scores], found: Sequence[Shortcut], known_N: NDArray[np.bool_], column: int
) -> None:
    for one in found:
        scores[one.detector][known_N, column] = one.score_N
