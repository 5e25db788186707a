"""The audit: from which marks, facts and words a label can be told without anatomy.

Each detector is a logistic regression on numbers that know nothing of anatomy, fitted on training
patients and judged on others. A detector that does well has found a shortcut in the *data*; whether
a model takes it is asked by `reliance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.evaluate.controls.border import fitted
from medvlp.evaluate.metrics.intervals import interval
from medvlp.evaluate.metrics.resampling import bootstrap
from medvlp.evaluate.metrics.statistics import Auroc
from medvlp.evaluate.shortcuts import features
from medvlp.evaluate.shortcuts.features import Floats

NOTABLE = 0.65
"""A detector is flagged from this AUROC up, if its interval lies above 0.5 too: what predicts less
is no shortcut worth the name, and chance hardly reaches it."""

DRAWS = 1000
CONFIDENCE = 0.95

_OF_VIEWS: dict[str, Callable[[Floats], Floats]] = {
    "border-only": features.framed,
    "corners": features.corners,
    "statistics": features.statistics,
    "lines": features.lines,
    "temporal order": features.order,
}

DETECTORS = ("metadata-only", "caption words", *_OF_VIEWS)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Samples of one split, for one label."""

    views: Sequence[NDArray[Any]]
    """What is seen of each: (H,W), or (F,H,W) in order."""

    facts: pl.DataFrame
    """What is known of each besides: strings and numbers, one row a sample."""

    words: Sequence[str]
    """Texts that a model may be given with the image; blank where there are none."""

    label_N: NDArray[np.bool_]
    patient: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """What one detector makes of a label."""

    detector: str
    auroc: float
    low: float
    high: float
    """The patient-clustered interval, widened for the number of detectors (Bonferroni)."""

    score_N: NDArray[np.float64]
    """Its scores of the test samples."""

    @property
    def flagged(self) -> bool:
        """Whether the label can be had this way."""
        return self.auroc >= NOTABLE and self.low > 0.5


def audit(train: Cohort, test: Cohort, *, label: str, seed: int = 0) -> list[Shortcut]:
    """What each detector predicts of a label, the best first.

    Args:
        train: Samples of the training split.
        test: Samples of other patients.
        label: The label's name, whose own words in texts are no shortcut.
        seed: Of the interval's draws.

    Raises:
        ValueError: A patient stands on both sides, or a split has one class only.
    """
    if shared := set(train.patient) & set(test.patient):
        raise ValueError(f"{len(shared)} patients stand in both cohorts, must be in one")
    if not all(0 < side.label_N.sum() < len(side.label_N) for side in (train, test)):
        raise ValueError("a cohort has one class only, must have both")
    found = []
    for name in DETECTORS:
        train_NK, test_MK = _features(name, train, test, label)
        if train_NK.std(axis=0).max() == 0:
            continue  # nothing of the kind is known: no texts, no order in time
        score = _scores(train_NK, train.label_N, test_MK)
        found.append(_judged(name, score, test, seed))
    return sorted(found, key=lambda one: -one.auroc)


def _features(name: str, train: Cohort, test: Cohort, label: str) -> tuple[Floats, Floats]:
    if name == "metadata-only":
        return features.facts(train.facts, test.facts)
    if name == "caption words":
        return features.words(train.words, test.words, [label])
    look = _OF_VIEWS[name]
    return np.stack([look(v) for v in train.views]), np.stack([look(v) for v in test.views])


def _scores(train_NK: Floats, label_N: NDArray[np.bool_], test_MK: Floats) -> NDArray[np.float64]:
    prior = np.full((len(test_MK), 1), label_N.mean())
    return fitted(train_NK, label_N[:, None].astype(np.float64), test_MK, prior)[:, 0]


def _judged(name: str, score_N: NDArray[np.float64], test: Cohort, seed: int) -> Shortcut:
    auroc, low, high = clustered_auroc(
        score_N, test.label_N, test.patient, seed, 1 - (1 - CONFIDENCE) / len(DETECTORS)
    )
    return Shortcut(detector=name, auroc=auroc, low=low, high=high, score_N=score_N)


def clustered_auroc(
    score_N: Floats,
    positive_N: NDArray[np.bool_],
    patient: Sequence[str],
    seed: int,
    confidence: float = CONFIDENCE,
) -> tuple[float, float, float]:
    """AUROC with its patient-clustered BCa interval."""
    names, cluster = np.unique(np.asarray(patient), return_inverse=True)
    statistic: Any = Auroc(np.asarray(score_N), positive_N, cluster, len(names))
    spread = bootstrap({"auroc": statistic}, len(names), DRAWS, seed)["auroc"]
    found = interval(spread, confidence)
    return spread.value, found.low, found.high
