"""From a head's logits to probabilities and thresholds, by the validation split alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from medvlp.models.zero_shot import SPECIFICITIES, at_specificity, youden

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """One sigmoid a label, ``expit(slope * logit + offset)`` (Platt 1999), and its threshold."""

    slope_L: NDArray[np.float64]
    """Above 0: a calibration never turns a ranking round."""

    offset_L: NDArray[np.float64]
    thresholds: dict[str, float]
    """Label -> the probability of greatest Youden index; none for labels of one class."""

    operating: dict[str, dict[str, float]]
    """Specificity in percent -> label -> the least probability that reaches it."""

    def probability(self, logit_NL: Floats) -> NDArray[np.float64]:
        """(N,L) probabilities."""
        found: NDArray[np.float64] = expit(self.slope_L * logit_NL + self.offset_L)
        return found


def calibrate(logit_NL: Floats, label_NL: Floats, names: Sequence[str]) -> Calibrator:
    """Fit probabilities and thresholds; a label of one class alone keeps its plain sigmoid.

    Args:
        logit_NL: Of validation items.
        label_NL: 1 present, 0 absent; all else is left out.
        names: L labels.
    """
    slope_L, offset_L = np.ones(len(names)), np.zeros(len(names))
    thresholds = {}
    operating: dict[str, dict[str, float]] = {str(percent): {} for percent in SPECIFICITIES}
    for k, name in enumerate(names):
        logit, label = _known(logit_NL[:, k], label_NL[:, k])
        if len(np.unique(label)) == 2:
            slope_L[k], offset_L[k] = _platt(logit, label)
            probability = expit(slope_L[k] * logit + offset_L[k])
            thresholds[name] = youden(label, probability)
            for percent in SPECIFICITIES:
                limit = at_specificity(label, probability, percent / 100)
                operating[str(percent)][name] = limit
    return Calibrator(
        slope_L=slope_L, offset_L=offset_L, thresholds=thresholds, operating=operating
    )


def macro_auroc(score_NL: Floats, label_NL: Floats) -> float:
    """The mean AUROC over labels that have both classes, by which trials are compared.

    NaN where there is none.
    """
    areas = []
    for k in range(label_NL.shape[1]):
        score, label = _known(score_NL[:, k], label_NL[:, k])
        if len(np.unique(label)) == 2:
            areas.append(float(roc_auc_score(label, score)))
    return float(np.mean(areas)) if areas else float("nan")


def _known(score_N: Floats, label_N: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known_N = (label_N == 0) | (label_N == 1)
    return score_N[known_N].astype(np.float64), label_N[known_N].astype(np.float64)


def _platt(logit_N: Floats, label_N: Floats) -> tuple[float, float]:
    """Slope and offset of least cross-entropy against Platt's smoothed targets."""
    positives = label_N.sum()
    negatives = len(label_N) - positives
    target_N = np.where(label_N == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # In units of their spread, so that one pair of bounds fits the logits of any head.
    unit = max(float(np.std(logit_N)), 1e-12)
    scaled_N = logit_N / unit

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope = np.exp(values[0])
        z_N = slope * scaled_N + values[1]
        gap_N = expit(z_N) - target_N
        cost = float((np.logaddexp(0, z_N) - target_N * z_N).mean())
        return cost, np.array([(gap_N * scaled_N).mean() * slope, gap_N.mean()])

    bounds = [(-6.0, 6.0), (-1e3, 1e3)]
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds)
    return float(np.exp(found.x[0])) / unit, float(found.x[1])
