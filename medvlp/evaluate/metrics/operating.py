"""Statistics of yes-or-no calls, and of what follows from them at the place of use.

Shape letters: N rows, P patients, R draws, K distinct scores of positives.
"""

from __future__ import annotations

import numpy as np

from medvlp.evaluate.metrics.statistics import (
    AveragePrecision,
    Bools,
    Floats,
    Ints,
    Ratio,
    divide,
)


class Calls:
    """The four counts of a decision, a patient: what metrics at a threshold are made of.

    Args:
        positive_N: The truth.
        called_N: What was called present.
        patient_N: Whose row it is.
        patients: P.
    """

    def __init__(self, positive_N: Bools, called_N: Bools, patient_N: Ints, patients: int) -> None:
        cells = np.stack(
            [positive_N & called_N, ~positive_N & called_N,
             positive_N & ~called_N, ~positive_N & ~called_N]
        )  # fmt: skip
        self.count_4P = np.stack([np.bincount(patient_N, c, minlength=patients) for c in cells])
        sides = (positive_N, ~positive_N)
        self.support = min(len(np.unique(patient_N[side])) for side in sides)

    def table(self, weight_PR: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """(R,) true positives, false positives, false negatives, true negatives."""
        found = self.count_4P @ weight_PR
        return found[0], found[1], found[2], found[3]


class BalancedAccuracy(Calls):
    """The mean of sensitivity and specificity; undefined without both classes."""

    proportion = True

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) values."""
        hit, false, missed, calm = self.table(weight_PR)
        return (divide(hit, hit + missed) + divide(calm, calm + false)) / 2


class Matthews(Calls):
    """Matthews' correlation coefficient (1975, doi:10.1016/0005-2795(75)90109-9).

    Between −1 and 1; 0 where truth or calls are all of one kind, as in scikit-learn.
    """

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) coefficients."""
        hit, false, missed, calm = self.table(weight_PR)
        scale = (hit + false) * (hit + missed) * (calm + false) * (calm + missed)
        found: Floats = np.where(
            scale > 0, (hit * calm - false * missed) / np.sqrt(np.maximum(scale, 1)), 0.0
        )
        return found


class PredictiveValue(Calls):
    """Positive or negative predictive value where the finding has a stated prevalence.

    Bayes' rule on the sensitivity and the specificity of the sample, which do not depend on how
    common the finding is there.

    Args:
        positive_N: The truth.
        called_N: What was called present.
        patient_N: Whose row it is.
        patients: P.
        prevalence: The share of those with the finding, at the place of use.
        negative: The negative value: the share of those called healthy who are.
    """

    proportion = True

    def __init__(
        self,
        positive_N: Bools,
        called_N: Bools,
        patient_N: Ints,
        patients: int,
        *,
        prevalence: float,
        negative: bool,
    ) -> None:
        super().__init__(positive_N, called_N, patient_N, patients)
        self.prevalence, self.negative = prevalence, negative

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) values; undefined without both classes, or where nothing would be called so."""
        hit, false, missed, calm = self.table(weight_PR)
        recall, specificity = divide(hit, hit + missed), divide(calm, calm + false)
        right, wrong = recall * self.prevalence, (1 - specificity) * (1 - self.prevalence)
        if self.negative:
            right, wrong = specificity * (1 - self.prevalence), (1 - recall) * self.prevalence
        return divide(right, right + wrong)


class Lift:
    """Average precision over prevalence: how many times better than a blind guess."""

    def __init__(self, score_N: Floats, positive_N: Bools, patient_N: Ints, patients: int) -> None:
        self.precision = AveragePrecision(score_N, positive_N, patient_N, patients)
        self.prevalence = Ratio(positive_N * 1.0, np.ones(len(positive_N)), patient_N, patients)
        self.support = self.precision.support

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) quotients."""
        return divide(self.precision(weight_PR), self.prevalence(weight_PR))


class RocSensitivity:
    """The greatest sensitivity of any threshold whose specificity is at least a given one.

    A point of the evaluated sample's own ROC curve, without interpolation: its threshold is
    chosen on the sample, and again in every draw. It tells what the ranking would allow, not what
    a threshold fixed beforehand achieves.

    Args:
        score_N: Higher is more present.
        positive_N: The truth.
        patient_N: Whose row it is.
        patients: P.
        specificity: Demanded, above 0 and at most 1.
    """

    proportion = True

    def __init__(
        self,
        score_N: Floats,
        positive_N: Bools,
        patient_N: Ints,
        patients: int,
        *,
        specificity: float,
    ) -> None:
        self.ranked = AveragePrecision(score_N, positive_N, patient_N, patients)
        self.support = self.ranked.support
        self.specificity = specificity

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) sensitivities; undefined without both classes."""
        positive_KR, below_KR, negative_R = self.ranked.counts(weight_PR)
        if not len(positive_KR):
            return np.full(weight_PR.shape[1], np.nan)
        total_R = positive_KR.sum(axis=0, dtype=np.float64)
        # Counts are whole numbers; the allowance is for the rounding of their products alone.
        enough_KR = below_KR >= self.specificity * negative_R.astype(np.float64) - 1e-6
        passed_KR = np.cumsum(positive_KR, axis=0, dtype=np.float64) - positive_KR
        first_R = enough_KR.argmax(axis=0)
        hits_R = np.where(
            enough_KR.any(axis=0),
            total_R - np.take_along_axis(passed_KR, first_R[None], axis=0)[0],
            0.0,
        )
        return divide(hits_R, total_R * (negative_R > 0))


def net_benefit(
    positive_N: Bools, called_N: Bools, patient_N: Ints, patients: int, odds: float
) -> Ratio:
    """True positives less false positives at their exchange rate, per row.

    Decision-curve analysis (Vickers & Elkin 2006, doi:10.1177/0272989X06295361).

    Args:
        positive_N: The truth.
        called_N: What is acted on.
        patient_N: Whose row it is.
        patients: P.
        odds: ``p/(1−p)`` of the probability p from which one would act: the harm of acting on a
            healthy patient, in units of the good of acting on an ill one.
    """
    gain_N = (positive_N & called_N) - odds * (~positive_N & called_N)
    return Ratio(gain_N, np.ones(len(gain_N)), patient_N, patients)
