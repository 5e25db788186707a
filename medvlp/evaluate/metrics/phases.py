"""Metrics of windows of which one phase, or one step, is true.

Surgical papers average in three ways, and the numbers differ by several points, so each has a
name of its own here:

- no ending: over the windows of all recordings; `_macro` is the mean over labels.
- `_video`: within each recording, over the labels that are true or called there, then the mean
  over recordings.
- `_present`: for each label, the mean over the recordings in which it truly occurs;
  `_present_macro` is the mean of that over labels.

`_relaxed` forgives calls near a boundary, within a tolerance in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.calibration import CalibrationError
from medvlp.evaluate.metrics.estimate import Measure, mean_measure
from medvlp.evaluate.metrics.segments import edit_score, relax, segment_matches
from medvlp.evaluate.metrics.statistics import Floats, Ints, Ratio
from medvlp.evaluate.metrics.windows import Windows, windows_of
from medvlp.evaluate.predictions import ALL

SHARES = ("precision", "recall", "f1", "jaccard")

OVERLAPS = (0.1, 0.25, 0.5)
"""Intersections over union of segmental F1."""


@dataclass(frozen=True, kw_only=True)
class _Called:
    """W windows with one true and one called label each."""

    windows: Windows
    truth_W: Ints
    called_W: Ints

    def counts(self) -> tuple[Floats, Floats, Floats]:
        """(V,L) windows that are right, truly so, and called so, in each recording."""
        videos, labels = len(self.windows.patient_V), len(self.windows.names)
        right = self.truth_W == self.called_W
        return tuple(  # type: ignore[return-value]
            np.bincount(
                self.windows.video_W[keep] * labels + label_W[keep], minlength=videos * labels
            ).reshape(videos, labels).astype(np.float64)
            for label_W, keep in (
                (self.truth_W, right),
                (self.truth_W, np.ones_like(right)),
                (self.called_W, np.ones_like(right)),
            )
        )  # fmt: skip


class Share:
    """A label's precision, recall, F1 or Jaccard index, over weights.

    Zero where the label is true or called but the ratio has no denominator (a label that is never
    called has precision zero); undefined where it is neither, so that a macro mean skips it, as
    scikit-learn's does.
    """

    def __init__(
        self,
        numerator_V: Floats,
        denominator_V: Floats,
        either_V: Floats,
        patient_V: Ints,
        clusters: int,
    ) -> None:
        self.numerator_P, self.denominator_P, self.either_P = (
            np.bincount(patient_V, values, minlength=clusters)
            for values in (numerator_V, denominator_V, either_V)
        )

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) ratios."""
        return _shares(
            *(part @ weight_PR for part in (self.numerator_P, self.denominator_P, self.either_P))
        )


def phase_measures(
    rows: pl.DataFrame, clusters: int, tolerance_s: float | None = None
) -> list[Measure]:
    """Frame-wise and recording-wise metrics, segments, and calibration.

    A window's call is its best-scored label. Windows of which no label, or more than one, is true
    are left out.

    Args:
        rows: One model's rows of `PREDICTIONS` with a `cluster` column.
        clusters: How many clusters there are.
        tolerance_s: Seconds; gives the relaxed metrics.
    """
    called = _called(rows)
    found = _choices(called, clusters)
    found += _by_video(called, clusters, "")
    found += _present(called, clusters)
    found += _segmental(called, clusters)
    found += _calibration(called, (called.truth_W == called.called_W) * 1.0, clusters)
    if tolerance_s is not None:
        found += _by_video(_relaxed(called, tolerance_s), clusters, "_relaxed")
    return found


def choice_measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
    """Accuracy, and each label's precision, recall, F1 and Jaccard, of the best-scored label.

    For samples of which exactly one label is true; others are left out.
    """
    return _choices(_called(rows), clusters)


def _choices(called: _Called, clusters: int) -> list[Measure]:
    right = (called.truth_W == called.called_W) * 1.0
    patients = called.windows.clusters()
    return [
        mean_measure("accuracy", ALL, right, patients, clusters),
        *_pooled(called, clusters),
    ]


def phase_table(rows: pl.DataFrame) -> tuple[list[str], Any]:
    """Phase names and one model's (true, predicted) counts, for a confusion matrix."""
    called = _called(rows.with_columns(cluster=pl.lit(0)))
    names = list(called.windows.names)
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (called.truth_W, called.called_W), 1)
    return names, table


def _called(rows: pl.DataFrame) -> _Called:
    windows = windows_of(rows)
    windows = windows.where((windows.label_WL == 1).sum(axis=1) == 1)
    return _Called(
        windows=windows,
        truth_W=(windows.label_WL == 1).argmax(axis=1),
        called_W=np.nan_to_num(windows.score_WL, nan=-np.inf).argmax(axis=1),
    )


def _relaxed(called: _Called, tolerance_s: float) -> _Called:
    forgiven_W = called.called_W.copy()
    for own in _videos(called.windows):
        forgiven_W[own] = relax(
            called.truth_W[own], called.called_W[own], called.windows.time_W[own], tolerance_s
        )
    return _Called(windows=called.windows, truth_W=called.truth_W, called_W=forgiven_W)


def _parts(counts: tuple[Floats, Floats, Floats]) -> dict[str, tuple[Floats, Floats]]:
    """Numerator and denominator of each of `SHARES`."""
    right, truth, calls = counts
    return {
        "precision": (right, calls),
        "recall": (right, truth),
        "f1": (2 * right, truth + calls),
        "jaccard": (right, truth + calls - right),
    }


def _shares(numerator: Floats, denominator: Floats, either: Floats) -> Floats:
    ratio = np.zeros(np.shape(numerator))
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    shares: Floats = np.where(either > 0, ratio, np.nan)
    return shares


def _pooled(called: _Called, clusters: int) -> list[Measure]:
    counts = called.counts()
    either_VL = counts[1] + counts[2]
    names, patient_V = called.windows.names, called.windows.patient_V
    found: list[Measure] = []
    for metric, (top_VL, bottom_VL) in _parts(counts).items():
        for k, name in enumerate(names):
            share = Share(top_VL[:, k], bottom_VL[:, k], either_VL[:, k], patient_V, clusters)
            n = int(counts[1][:, k].sum())
            found.append(Measure(metric=metric, name=name, n=n, statistic=share))
        members = tuple((metric, name) for name in names)
        n = len(called.truth_W)
        found.append(Measure(metric=f"{metric}_macro", name=ALL, n=n, members=members))
    return found


def _by_video(called: _Called, clusters: int, ending: str) -> Iterator[Measure]:
    counts = called.counts()
    seen_V = counts[1].sum(axis=1) > 0
    right, truth, calls = (part[seen_V] for part in counts)
    patient_V = called.windows.patient_V[seen_V]
    accuracy = right.sum(axis=1) / truth.sum(axis=1)
    yield mean_measure(f"accuracy_video{ending}", ALL, accuracy, patient_V, clusters)
    for metric, (top_VL, bottom_VL) in _parts((right, truth, calls)).items():
        share_V = np.nanmean(_shares(top_VL, bottom_VL, truth + calls), axis=1)
        yield mean_measure(f"{metric}_macro_video{ending}", ALL, share_V, patient_V, clusters)


def _present(called: _Called, clusters: int) -> list[Measure]:
    counts = called.counts()
    occurs_VL = counts[1] > 0
    names, patient_V = called.windows.names, called.windows.patient_V
    found: list[Measure] = []
    for metric, (top_VL, bottom_VL) in _parts(counts).items():
        share_VL = np.nan_to_num(_shares(top_VL, bottom_VL, occurs_VL * 1.0))
        for k, name in enumerate(names):
            mean = Ratio(share_VL[:, k], occurs_VL[:, k] * 1.0, patient_V, clusters)
            n = int(occurs_VL[:, k].sum())
            found.append(Measure(metric=f"{metric}_present", name=name, n=n, statistic=mean))
        members = tuple((f"{metric}_present", name) for name in names)
        n = int(occurs_VL.any(axis=1).sum())
        found.append(Measure(metric=f"{metric}_present_macro", name=ALL, n=n, members=members))
    return found


def _segmental(called: _Called, clusters: int) -> Iterator[Measure]:
    """Edit score and segmental F1: over the segments of all recordings, and by recording."""
    each = [(called.truth_W[own], called.called_W[own]) for own in _videos(called.windows)]
    patient_V = called.windows.patient_V[np.unique(called.windows.video_W)]
    edits = np.array([edit_score(*pair) for pair in each])
    yield mean_measure("edit_score", ALL, edits, patient_V, clusters)
    for overlap in OVERLAPS:
        matches = np.array([segment_matches(*pair, overlap) for pair in each], np.float64)
        hits, false, missed = matches.reshape(-1, 3).T
        metric = f"segment_f1_{round(100 * overlap)}"
        pooled = Ratio(2 * hits, 2 * hits + false + missed, patient_V, clusters)
        n = int((hits + missed).sum())
        yield Measure(metric=metric, name=ALL, n=n, statistic=pooled)
        by_video = 2 * hits / (2 * hits + false + missed)
        yield mean_measure(f"{metric}_video", ALL, by_video, patient_V, clusters)


def _calibration(called: _Called, right_W: Floats, clusters: int) -> Iterator[Measure]:
    """Whether the called label's probability comes true as often as it says."""
    windows = called.windows
    sure_W = windows.score_WL[np.arange(len(right_W)), called.called_W]
    error = CalibrationError(sure_W, right_W == 1, windows.clusters(), clusters)
    yield Measure(metric="calibration_error", name=ALL, n=len(right_W), statistic=error)
    brier_W = ((windows.score_WL - (windows.label_WL == 1)) ** 2).sum(axis=1)
    yield mean_measure("brier_score", ALL, brier_W, windows.clusters(), clusters)


def _videos(windows: Windows) -> Iterator[Any]:
    """The places of each recording's windows, in the order of time."""
    for video in np.unique(windows.video_W):
        yield np.flatnonzero(windows.video_W == video)
