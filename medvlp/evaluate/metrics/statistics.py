"""Statistics as functions of patient weights, and their patient-clustered bootstrap.

A *statistic* takes a matrix of weights, one row a patient and one column a draw, and returns one
value a draw, NaN where it is undefined. The point estimate is the same function at weight one
for every patient, so that an estimate and its interval cannot differ in definition.

Shape letters here: N rows of predictions, P patients, R draws, K distinct scores of positives,
C classes.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medvlp.data.randomness import generator
from medvlp.progress import track

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

BLOCK = 64
"""Draws computed at once: enough to fill the vector units, few enough to stay in the cache."""


class Statistic(Protocol):
    """A metric that knows its data and waits for weights."""

    def __call__(self, weight_PR: Floats) -> Floats:
        """One value a draw (R,); NaN where the draw leaves it undefined."""


def _tally(
    row_M: Ints, patient_M: Ints, shape: tuple[int, int], count_M: Floats | None = None
) -> Any:
    """A sparse (rows, P) matrix of how often each patient falls into each row."""
    counts = np.ones(len(row_M)) if count_M is None else count_M
    return sparse.csr_matrix((counts.astype(np.float32), (row_M, patient_M)), shape=shape)


class _Ranked:
    """Positives by their distinct scores, and the negatives that fall between these.

    Only the scores of positives cut the order: negatives between two of them count together, so
    the cost of a draw is one pass over the rows and K further steps. Counts are float32, which
    holds whole and half numbers up to 2**23 without rounding.
    """

    tied_shares: ClassVar[tuple[float, float]]
    """How a negative tied with a positive splits into below it and below the next one."""

    def __init__(self, score_N: Floats, positive_N: Bools, patient_N: Ints, patients: int) -> None:
        level_K, positive_row = np.unique(score_N[positive_N], return_inverse=True)
        rows = len(level_K)
        self.positive_KP = _tally(positive_row, patient_N[positive_N], (rows, patients))
        score, patient = score_N[~positive_N], patient_N[~positive_N]
        row = np.searchsorted(level_K, score, side="left")
        tied = np.append(level_K, np.nan)[row] == score
        at, above = self.tied_shares
        self.negative_KP = _tally(
            np.concatenate([row, row[tied] + 1]),
            np.concatenate([patient, patient[tied]]),
            # One row more than levels: negatives above every positive.
            (rows + 1, patients),
            np.concatenate([np.where(tied, at, 1.0), np.full(tied.sum(), above)]),
        )

    def counts(self, weight_PR: Floats) -> tuple[Floats, Floats, Floats]:
        """Positives at each level (K,R), negatives below it (K,R), and all negatives (R,)."""
        positive_KR = self.positive_KP @ weight_PR
        negative = self.negative_KP @ weight_PR
        np.cumsum(negative, axis=0, out=negative)
        return positive_KR, negative[:-1], negative[-1]


class Auroc(_Ranked):
    """Area under the ROC curve: P(positive scores above negative) + P(tie)/2.

    The Mann-Whitney form of Hanley & McNeil 1982 (doi:10.1148/radiology.143.1.7063747), with
    weights. Undefined in a draw without positives or without negatives.
    """

    tied_shares = (0.5, 0.5)

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) areas."""
        positive_KR, below_KR, negative_R = self.counts(weight_PR)
        total_R = positive_KR.sum(axis=0, dtype=np.float64)
        np.multiply(positive_KR, below_KR, out=below_KR)
        return _divide(below_KR.sum(axis=0, dtype=np.float64), total_R * negative_R)


class AveragePrecision(_Ranked):
    """Mean precision at each positive's score, as scikit-learn's `average_precision_score`.

    Undefined in a draw without positives or without negatives.
    """

    tied_shares = (0.0, 1.0)

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) average precisions."""
        positive_KR, below_KR, negative_R = self.counts(weight_PR)
        total_R = positive_KR.sum(axis=0)
        hits_KR = total_R - np.cumsum(positive_KR, axis=0) + positive_KR
        called_KR = hits_KR + (negative_R - below_KR)
        gain_KR = positive_KR * (hits_KR / np.maximum(called_KR, 1))
        gain_R = gain_KR.sum(axis=0, dtype=np.float64)
        return _divide(gain_R, total_R * (negative_R > 0))


class Ratio:
    """A weighted mean: sum of `numerator_N` over sum of `denominator_N`.

    Accuracy, sensitivity, specificity, Brier score, recall at k and means over videos are all of
    this form.
    """

    def __init__(
        self, numerator_N: Floats, denominator_N: Floats, patient_N: Ints, patients: int
    ) -> None:
        self.numerator_P = np.bincount(patient_N, numerator_N, minlength=patients)
        self.denominator_P = np.bincount(patient_N, denominator_N, minlength=patients)

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) ratios; NaN where the denominator is zero."""
        return _divide(self.numerator_P @ weight_PR, self.denominator_P @ weight_PR)


class CalibrationError:
    """Expected calibration error over equal-width bins (Naeini et al. 2015, AAAI).

    The mean over rows of the gap between a bin's mean probability and its share of positives;
    the binary form, where the probability is that of the positive class.
    """

    def __init__(
        self,
        probability_N: Floats,
        positive_N: Bools,
        patient_N: Ints,
        patients: int,
        bins: int = 15,
    ) -> None:
        edges = np.linspace(0, 1, bins + 1)[1:-1]
        row_N = np.searchsorted(edges, probability_N, side="left")
        gap_N = probability_N - positive_N
        self.gap_BP = sparse.csr_matrix((gap_N, (row_N, patient_N)), shape=(bins, patients))
        self.count_P = np.bincount(patient_N, minlength=patients)

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) errors."""
        return _divide(np.abs(self.gap_BP @ weight_PR).sum(axis=0), self.count_P @ weight_PR)


class F1:
    """F1 of one class among several: 2 TP / (2 TP + FP + FN).

    Undefined where the class is neither true nor predicted, so that a macro mean skips it as
    scikit-learn's does.
    """

    def __init__(self, truth_N: Bools, predicted_N: Bools, patient_N: Ints, patients: int) -> None:
        self.ratio = Ratio(
            2.0 * (truth_N & predicted_N),
            truth_N.astype(np.float64) + predicted_N.astype(np.float64),
            patient_N,
            patients,
        )

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) F1 scores."""
        return self.ratio(weight_PR)


class Median:
    """The lower weighted median: the least value at which half of the weight is reached."""

    def __init__(self, value_N: Floats, patient_N: Ints, patients: int) -> None:
        self.value_K, row_N = np.unique(value_N, return_inverse=True)
        self.count_KP = _tally(row_N, patient_N, (len(self.value_K), patients))

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) medians; NaN for a draw without weight."""
        reached_KR = np.cumsum(self.count_KP @ weight_PR, axis=0, dtype=np.float64)
        total_R = reached_KR[-1]
        row_R = np.argmax(reached_KR >= total_R / 2, axis=0)
        median_R: Floats = np.where(total_R > 0, self.value_K[row_R], np.nan)
        return median_R


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    result = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def draw_weights(patients: int, block: int, draws: int, seed: int) -> NDArray[np.float32]:
    """(P, draws) how often each patient is drawn, with replacement, as many as there are.

    Args:
        patients: P.
        block: Which block of draws; blocks are independent and repeat exactly.
        draws: Columns wanted.
        seed: The protocol's bootstrap seed.
    """
    rng = generator(seed, block, "patients", "bootstrap")
    chosen = rng.integers(patients, size=(draws, patients))
    flat = chosen + patients * np.arange(draws)[:, None]
    counts = np.bincount(flat.ravel(), minlength=draws * patients).reshape(draws, patients)
    return np.ascontiguousarray(counts.T, dtype=np.float32)


@dataclass(frozen=True)
class Spread:
    """A statistic's estimate and its values over the draws, NaN where undefined."""

    value: float
    draws_R: Floats

    def interval(self, confidence: float) -> tuple[float, float]:
        """The percentile interval over the draws that define the statistic."""
        kept = self.draws_R[~np.isnan(self.draws_R)]
        if not len(kept):
            return float("nan"), float("nan")
        tail = (1 - confidence) / 2
        low, high = np.quantile(kept, [tail, 1 - tail])
        return float(low), float(high)

    @property
    def undefined(self) -> int:
        """Draws in which the statistic is undefined, such as those without a positive."""
        return int(np.isnan(self.draws_R).sum())


def mean_spread(members: Sequence[Spread]) -> Spread:
    """The macro mean: in each draw, the mean over the members that the draw defines."""
    stacked = np.stack([np.append(m.draws_R, m.value) for m in members])
    defined = ~np.isnan(stacked)
    means = _divide(np.where(defined, stacked, 0).sum(axis=0), defined.sum(axis=0))
    return Spread(float(means[-1]), means[:-1])


def bootstrap(
    statistics: Mapping[K, Statistic], patients: int, draws: int, seed: int
) -> dict[K, Spread]:
    """Estimate each statistic and recompute it over draws of patients with replacement.

    All statistics see the same draws, so differences between models are paired. Blocks of draws
    run on several threads: the matrix products release the lock.

    Args:
        statistics: By any key.
        patients: P, the number of clusters.
        draws: How many times patients are drawn; 0 gives estimates alone.
        seed: Of the draws.
    """
    ones = np.ones((patients, 1), dtype=np.float32)
    value = {key: float(statistic(ones)[0]) for key, statistic in statistics.items()}
    starts = range(0, draws, BLOCK)

    def block(start: int) -> dict[K, Floats]:
        weight_PR = draw_weights(patients, start // BLOCK, min(BLOCK, draws - start), seed)
        return {key: statistic(weight_PR) for key, statistic in statistics.items()}

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts = list(track(pool.map(block, starts), "bootstrap", total=len(starts)))
    empty = np.empty(0)
    return {
        key: Spread(value[key], np.concatenate([empty, *(part[key] for part in parts)]))
        for key in statistics
    }
