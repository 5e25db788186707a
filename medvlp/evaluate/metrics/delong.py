"""DeLong's comparison of correlated AUROCs, for independent cases only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Array = NDArray[np.float64]


def delong(score_MN: NDArray[Any], positive_N: NDArray[np.bool_]) -> tuple[Array, Array]:
    """AUROCs (M,) of M models on the same N independent cases, and their covariance (M,M).

    The structural components of DeLong et al. 1988 (doi:10.2307/2531595): V10 of a positive case
    is the share of negatives that it outscores (ties half), V01 of a negative case the share of
    positives that outscore it; the covariance is ``S10/m + S01/n``. Both follow from midranks, as
    a case's rank among all less its rank in its own class counts the others below it (Sun & Xu
    2014, doi:10.1109/LSP.2014.2337313).

    Args:
        score_MN: Higher is more present.
        positive_N: The truth.

    Raises:
        ValueError: Fewer than two positives or negatives.
    """
    ill, well = int(positive_N.sum()), int((~positive_N).sum())
    if min(ill, well) < 2:
        raise ValueError(f"{ill} positives and {well} negatives: DeLong needs two of each")
    overall_MN = rankdata(score_MN, axis=1)
    v10_MI = (overall_MN - _within(score_MN, positive_N))[:, positive_N] / well
    v01_MW = 1 - (overall_MN - _within(score_MN, ~positive_N))[:, ~positive_N] / ill
    covariance_MM = np.atleast_2d(np.cov(v10_MI)) / ill + np.atleast_2d(np.cov(v01_MW)) / well
    area_M: Array = v10_MI.mean(axis=1)
    return area_M, covariance_MM


def _within(score_MN: NDArray[Any], side_N: NDArray[np.bool_]) -> Array:
    """Midranks among the cases of one class; 0 elsewhere."""
    rank_MN = np.zeros(score_MN.shape)
    rank_MN[:, side_N] = rankdata(score_MN[:, side_N], axis=1)
    return rank_MN


def delong_p(score_2N: NDArray[Any], positive_N: NDArray[np.bool_]) -> float:
    """Two-sided p that two models have the same AUROC; 1 where they rank every pair alike.

    Raises:
        ValueError: Fewer than two positives or negatives.
    """
    area_M, covariance_MM = delong(score_2N, positive_N)
    variance = covariance_MM[0, 0] + covariance_MM[1, 1] - 2 * covariance_MM[0, 1]
    difference = abs(area_M[0] - area_M[1])
    if variance < 1e-15:
        return 1.0 if difference < 1e-12 else 0.0
    return float(2 * norm.sf(difference / math.sqrt(variance)))
