"""What a model leans on: agreement with shortcuts beyond the label, and what embeddings tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medvlp.evaluate.metrics.intervals import interval
from medvlp.evaluate.metrics.resampling import bootstrap
from medvlp.evaluate.metrics.statistics import Floats
from medvlp.evaluate.shortcuts.audit import CONFIDENCE, DRAWS, clustered_auroc

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Reliance:
    """How far a model's scores follow something, with the patient-clustered 95 % interval."""

    what: str
    value: float
    low: float
    high: float
    blind: float
    """The value of a model, or of embeddings, that know nothing of it."""

    @property
    def flagged(self) -> bool:
        """Whether the interval lies above what is blind."""
        return self.low > self.blind


class _Correlation:
    """Weighted correlation of two values, one a row, as a statistic of patients' weights."""

    def __init__(self, one_N: Floats, other_N: Floats, patient_N: NDArray[np.int64]) -> None:
        terms = (
            np.ones(len(one_N)), one_N, other_N, one_N**2, other_N**2, one_N * other_N
        )  # fmt: skip
        patients = int(patient_N.max()) + 1
        self.sum_TP = np.stack([np.bincount(patient_N, term, patients) for term in terms])

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) correlations; NaN where one of the values does not vary."""
        n, a, b, aa, bb, ab = self.sum_TP @ weight_PR
        spread = (n * aa - a * a) * (n * bb - b * b)
        result = np.full(len(n), np.nan)
        np.divide(n * ab - a * b, np.sqrt(np.maximum(spread, 0)), out=result, where=spread > 1e-9)
        return result


def follows(
    what: str,
    model_N: Floats,
    shortcut_N: Floats,
    positive_N: NDArray[np.bool_],
    patient: Sequence[str],
    seed: int = 0,
) -> Reliance:
    """How far a model ranks samples as a shortcut does, among those of one class.

    The rank correlation within positives and within negatives, taken together: both may know the
    label, and that is taken out. 0 for a model that looks elsewhere.

    Args:
        what: The shortcut's name.
        model_N: The model's scores.
        shortcut_N: The shortcut's, of the same samples.
        positive_N: Their labels.
        patient: Their patients.
        seed: Of the interval's draws.
    """
    ranks = [np.empty(len(positive_N)), np.empty(len(positive_N))]
    for rank, score in zip(ranks, (model_N, shortcut_N), strict=True):
        for side in (positive_N, ~positive_N):
            placed = rankdata(score[side])
            rank[side] = (placed - placed.mean()) / max(int(side.sum()), 1)
    cluster = np.unique(np.asarray(patient), return_inverse=True)[1]
    spread = bootstrap(
        {"rho": _Correlation(ranks[0], ranks[1], cluster)}, int(cluster.max()) + 1, DRAWS, seed
    )["rho"]
    found = interval(spread, CONFIDENCE)
    return Reliance(what=what, value=spread.value, low=found.low, high=found.high, blind=0.0)


def predictable(
    what: str,
    embedding_NE: Floats,
    target_N: NDArray[np.bool_],
    patient: Sequence[str],
    seed: int = 0,
) -> Reliance:
    """How well a logistic probe reads a fact (site, scanner, view, sex) from image embeddings.

    Patients never stand on both sides of a fold. An AUROC of 0.5 means that the embeddings do not
    give it away to a linear reader; more means that a head trained on them can use it.

    Args:
        what: The fact, such as ``site A``.
        embedding_NE: Image embeddings.
        target_N: Which samples it is true of.
        patient: Their patients.
        seed: Of the interval's draws.

    Raises:
        ValueError: Fewer than two patients with it, or without it.
    """
    names = np.asarray(patient)
    least = min(len(np.unique(names[target_N])), len(np.unique(names[~target_N])))
    if least < 2:
        raise ValueError(f"{least} patient(s) with or without {what}, needs two of each")
    score = np.empty(len(names))
    for train, test in GroupKFold(min(FOLDS, least)).split(embedding_NE, target_N, names):
        if len(np.unique(target_N[train])) < 2:
            score[test] = 0.5
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        score[test] = probe.fit(embedding_NE[train], target_N[train]).predict_proba(
            embedding_NE[test]
        )[:, 1]
    auroc, low, high = clustered_auroc(score, target_N, patient, seed)
    return Reliance(what=what, value=auroc, low=low, high=high, blind=0.5)
