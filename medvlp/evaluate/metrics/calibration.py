"""The calibration error and what it tells of the truth.

Shape letters: N rows of predictions, P patients, R and S draws, B bins.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import sparse

from medvlp.evaluate.metrics.statistics import Bools, Floats, Ints, divide

_SUPPOSED = 48
"""True errors that are tried; between them, levels are interpolated."""

_FAR = 6.0
"""How many standard deviations of the draws the tried errors reach beyond the estimate."""


class CalibrationError:
    """Expected calibration error (Naeini et al. 2015, AAAI).

    The mean over rows of the gap between a bin's mean probability and its share of positives;
    the binary form, where the probability is that of the positive class. The plug-in estimate is
    above the true error, and the more so the fewer rows a bin holds; so are its draws. They are
    therefore *inverted* (`inverted`).

    Args:
        probability_N: Of the positive class.
        positive_N: The truth.
        patient_N: Whose row it is.
        patients: P.
        bins: How many.
        equal_mass: Bins that hold equally many rows (Nixon et al. 2019, arXiv:1904.01685), as far
            as ties allow, in place of bins equally wide. They are those of the sample itself and
            stay in every draw.
    """

    proportion = True

    def __init__(
        self,
        probability_N: Floats,
        positive_N: Bools,
        patient_N: Ints,
        patients: int,
        bins: int = 15,
        *,
        equal_mass: bool = False,
    ) -> None:
        edges = np.linspace(0, 1, bins + 1)[1:-1]
        if equal_mass:
            edges = np.quantile(probability_N, edges, method="inverted_cdf")
        row_N = np.searchsorted(edges, probability_N, side="left")
        gap_N = probability_N - positive_N
        self.gap_BP = sparse.csr_matrix((gap_N, (row_N, patient_N)), shape=(bins, patients))
        self.count_P = np.bincount(patient_N, minlength=patients)
        self.rows_B = np.bincount(row_N, minlength=bins)
        self.positives_B = np.bincount(row_N, positive_N, minlength=bins)

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) errors."""
        return divide(np.abs(self.gap_BP @ weight_PR).sum(axis=0), self.count_P @ weight_PR)

    def inverted(self, drawn_R: Floats, weights: Iterable[Floats]) -> Floats:
        """(R,) true errors for which the estimate would stand where each draw stands.

        The bootstrap draws of the bins' gaps tell how they vary about any truth. A truth is
        supposed to have the gaps' own shape over the bins, smoothed, and any size; how often its
        draws stay below the estimate falls from one to zero as the size grows (hybrid resampling,
        Chuang & Lai 2000, Statistica Sinica 10:1-50). The size at which it is u takes the place
        of the draw that has the share u of the draws below it: their quantiles are the ends of a
        confidence interval, and draws of several models stay paired.

        Args:
            drawn_R: The error of each draw.
            weights: Those of some draws (P,S), block by block.
        """
        blocks = [self._gaps(weight_PS) for weight_PS in weights]
        gap_B = self._gaps(np.ones((len(self.count_P), 1)))[:, 0]
        noise_BS = np.concatenate(blocks, axis=1) - gap_B[:, None]
        estimate = np.abs(gap_B).sum()
        size_K = self._supposed(estimate, drawn_R)
        below_K = np.array([self._below(size, gap_B, noise_BS, estimate) for size in size_K])
        below_K = np.minimum.accumulate(below_K)
        order_R = np.argsort(np.argsort(drawn_R, kind="stable"), kind="stable")
        found_R: Floats = np.interp((order_R + 0.5) / len(drawn_R), below_K[::-1], size_K[::-1])
        return np.where(np.isnan(drawn_R), np.nan, found_R)

    def _gaps(self, weight_PS: Floats) -> Floats:
        """(B,S) each bin's part of the error, with its sign."""
        total_S = self.count_P @ weight_PS
        gap_BS: Floats = (self.gap_BP @ weight_PS) / np.where(total_S > 0, total_S, np.nan)
        return np.nan_to_num(gap_BS)

    def _supposed(self, estimate: float, drawn_R: Floats) -> Floats:
        """(K,) sizes, from where the estimate would be too high to where it would be too low."""
        reach = _FAR * float(np.nanstd(drawn_R))
        bias = max(0.0, float(np.nanmean(drawn_R)) - estimate)
        low = max(0.0, estimate - 3 * bias - reach)
        return np.linspace(low, min(1.0, estimate + reach), _SUPPOSED)

    def _below(self, size: float, gap_B: Floats, noise_BS: Floats, estimate: float) -> float:
        """How often an error of this size would be estimated at no more than `estimate`."""
        true_B = size * self._shape(gap_B)
        # Outcomes vary less the surer they are: a bin's noise is that of the supposed share of
        # positives, not of the observed one. Half a row of each kind keeps either from 0 and 1.
        rows_B = np.maximum(self.rows_B, 1)
        observed_B = self.positives_B / rows_B
        moved_B = (gap_B - true_B) * self.rows_B.sum() / rows_B
        share_B = np.stack([observed_B, np.clip(observed_B + moved_B, 0, 1)])
        share_B = (share_B * rows_B + 0.5) / (rows_B + 1)
        had_B, has_B = share_B * (1 - share_B)
        supposed_BS = true_B[:, None] + noise_BS * np.sqrt(has_B / had_B)[:, None]
        return float((np.abs(supposed_BS).sum(axis=0) <= estimate).mean())

    def _shape(self, gap_B: Floats) -> Floats:
        """(B,) the gaps, smoothed over neighbouring bins that have rows, of total size one."""
        some_B = self.rows_B > 0
        smooth = gap_B[some_B]
        for _ in range(2):
            wide = np.pad(smooth, 1, mode="edge")
            smooth = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
        total = np.abs(smooth).sum()
        shape_B = np.zeros_like(gap_B)
        shape_B[some_B] = smooth / total if total > 0 else 1 / len(smooth)
        return shape_B
