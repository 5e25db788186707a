"""Statistics as functions of patient weights.

A *statistic* takes a matrix of weights, one row a patient and one column a draw, and returns one
value a draw, NaN where it is undefined. The point estimate is the same function at weight one
for every patient, so that an estimate and its interval cannot differ in definition.

A statistic may say more of itself, which its interval is better for:

- `support`: how many patients it rests on, such as those with the finding for a sensitivity;
  for AUROC, the fewer of those with and those without. If it does not say, all patients.
- `proportion`: whether it lies between 0 and 1 by nature, so that 0 and 1 are never certain.
- `inverted`: what true values its draws speak for, where they do not lie about the truth as
  they are (`calibration`).

Shape letters here: N rows of predictions, P patients, R draws, K distinct scores of positives,
C classes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


class Statistic(Protocol):
    """A metric that knows its data and waits for weights."""

    def __call__(self, weight_PR: Floats) -> Floats:
        """One value a draw (R,); NaN where the draw leaves it undefined."""


def _tally(
    row_M: Ints, patient_M: Ints, shape: tuple[int, int], count_M: Floats | None = None
) -> Any:
    """A sparse (rows, P) matrix of how often each patient falls into each row."""
    counts = np.ones(len(row_M)) if count_M is None else count_M
    # By columns: the large matrix of weights is then read in order, and only the few rows of the
    # product at random, which takes half the time.
    return sparse.csc_matrix((counts.astype(np.float32), (row_M, patient_M)), shape=shape)


class _Ranked:
    """Positives by their distinct scores, and the negatives that fall between these.

    Only the scores of positives cut the order: negatives between two of them count together, so
    the cost of a draw is one pass over the rows and K further steps. Counts have the precision of
    the weights; float32 holds whole and half numbers up to 2**23 without rounding.
    """

    tied_shares: ClassVar[tuple[float, float]]
    """How a negative tied with a positive splits into below it and below the next one."""

    proportion = True

    def __init__(self, score_N: Floats, positive_N: Bools, patient_N: Ints, patients: int) -> None:
        level_K, positive_row = np.unique(score_N[positive_N], return_inverse=True)
        rows = len(level_K)
        self.support = min(len(np.unique(patient_N[side])) for side in (positive_N, ~positive_N))
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
        return divide(below_KR.sum(axis=0, dtype=np.float64), total_R * negative_R)


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
        return divide(gain_R, total_R * (negative_R > 0))


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
        self.support = len(np.unique(patient_N[denominator_N != 0]))
        self.proportion = bool(((numerator_N >= 0) & (numerator_N <= denominator_N)).all())

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) ratios; NaN where the denominator is zero."""
        return divide(self.numerator_P @ weight_PR, self.denominator_P @ weight_PR)


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
        self.support = self.ratio.support

    proportion = True

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) F1 scores."""
        return self.ratio(weight_PR)


class Median:
    """The lower weighted median: the least value at which half of the weight is reached."""

    proportion = False

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


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient; NaN where the denominator is not positive."""
    result = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
