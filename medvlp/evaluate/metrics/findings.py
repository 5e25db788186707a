"""Metrics of a classifier whose labels are independent of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.calibration import CalibrationError
from medvlp.evaluate.metrics.estimate import Measure, Measures
from medvlp.evaluate.metrics.operating import (
    BalancedAccuracy,
    Lift,
    Matthews,
    PredictiveValue,
    RocSensitivity,
    net_benefit,
)
from medvlp.evaluate.metrics.statistics import (
    F1,
    Auroc,
    AveragePrecision,
    Bools,
    Floats,
    Ratio,
    Statistic,
)
from medvlp.evaluate.predictions import ALL, Stated

MACRO_MINIMUM = 10
"""A label with fewer positives or fewer negatives is shown but left out of macro means."""

SPECIFICITIES = (90, 95)
"""In percent: at which the ROC curve's sensitivity is read off."""

RANKING = (
    "auroc",
    "average_precision",
    "average_precision_lift",
    *(f"roc_sensitivity_at_specificity_{s}" for s in SPECIFICITIES),
    "brier_score",
    "calibration_error",
    "calibration_error_adaptive",
)
"""Metrics without a threshold that have a macro mean."""

CALLING = ("recall", "specificity", "balanced_accuracy", "mcc", "f1")
"""Metrics at the thresholds; a macro mean only where every label that counts has one."""

ERRORS = ("brier_score", "calibration_error", "calibration_error_adaptive")

Part = tuple[Statistic, int]
"""A statistic and how many rows it is about."""


def finding_measures(
    thresholds: Mapping[str, float],
    stated: Stated | None = None,
    operating: Mapping[str, Mapping[str, float]] | None = None,
) -> Measures:
    """Metrics of a classifier whose labels are independent of each other.

    Of each label: AUROC; average precision beside the prevalence, which is its value for a blind
    guess, and their quotient, the lift; the ROC curve's sensitivity at fixed specificities; Brier
    score and expected calibration error, over bins equally wide and (``adaptive``) equally full;
    net benefit at stated probabilities of action, beside that of acting on everybody. Where a
    decision threshold is known: sensitivity (``recall``), specificity, balanced accuracy, MCC,
    F1, positive and negative predictive value, the latter at a stated prevalence where one is
    stated (``ppv_stated``). Macro means leave out labels with fewer than `MACRO_MINIMUM`
    positives or negatives; `f1_micro` pools the labels that have a threshold. Where validation
    data set a threshold for a specificity: the sensitivity that it gives here
    (``sensitivity_validated_90``) and the specificity that it really has (``specificity_...``).

    Args:
        thresholds: Label -> probability at and above which it is called present, chosen on
            validation data.
        stated: What the protocol says of the place of use.
        operating: Specificity in percent -> label -> the threshold that reached it on validation.
    """
    told, fixed = stated or Stated(), operating or {}

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        found: list[Measure] = []
        counted: list[str] = []
        for (label,), part in rows.group_by("name", maintain_order=True):
            data = _Label.of(str(label), part, clusters)
            found.extend(_label_measures(data, thresholds.get(data.name), told))
            for percent, limits in fixed.items():
                if data.name in limits:
                    found.extend(_validated(data, percent, limits[data.name]))
            if min(data.positives, len(part) - data.positives) >= MACRO_MINIMUM:
                counted.append(data.name)
        found.extend(_macro(rows, counted, thresholds, fixed))
        if thresholds:
            found.extend(_micro(rows, clusters, thresholds))
        return found

    return measures


@dataclass(frozen=True, kw_only=True)
class _Label:
    """One label's rows as arrays."""

    name: str
    score_N: Floats
    positive_N: Bools
    patient_N: Any
    clusters: int

    @classmethod
    def of(cls, name: str, part: pl.DataFrame, clusters: int) -> _Label:
        return cls(
            name=name,
            score_N=part["score"].to_numpy(),
            positive_N=part["label"].to_numpy() == 1,
            patient_N=part["cluster"].to_numpy(),
            clusters=clusters,
        )

    @property
    def positives(self) -> int:
        return int(self.positive_N.sum())

    def mean(self, values_N: Floats | Bools, of_N: Bools | None = None) -> Ratio:
        """The mean of values, over the rows `of_N`."""
        over = np.ones(len(self.score_N)) if of_N is None else of_N * 1.0
        return Ratio(values_N * 1.0, over, self.patient_N, self.clusters)


def _label_measures(data: _Label, threshold: float | None, stated: Stated) -> list[Measure]:
    parts = dict(_ranking(data)) | dict(_benefits(data, stated))
    if threshold is not None:
        called_N = data.score_N >= threshold
        parts |= dict(_calling(data, called_N)) | dict(_predictive(data, called_N, stated))
    return [
        Measure(
            metric=metric, name=data.name, n=n, statistic=statistic, low_is_better=metric in ERRORS
        )
        for metric, (statistic, n) in parts.items()
    ]


def _ranking(data: _Label) -> Iterator[tuple[str, Part]]:
    rows = (data.score_N, data.positive_N, data.patient_N, data.clusters)
    n = len(data.score_N)
    yield "auroc", (Auroc(*rows), n)
    yield "average_precision", (AveragePrecision(*rows), n)
    yield "prevalence", (data.mean(data.positive_N), n)
    yield "average_precision_lift", (Lift(*rows), n)
    for percent in SPECIFICITIES:
        point = RocSensitivity(*rows, specificity=percent / 100)
        yield f"roc_sensitivity_at_specificity_{percent}", (point, data.positives)
    yield "brier_score", (data.mean((data.score_N - data.positive_N) ** 2), n)
    yield "calibration_error", (CalibrationError(*rows), n)
    yield "calibration_error_adaptive", (CalibrationError(*rows, equal_mass=True), n)


def _benefits(data: _Label, stated: Stated) -> Iterator[tuple[str, Part]]:
    for p in stated.act_from:
        odds, n = p / (1 - p), len(data.score_N)
        for metric, called_N in (
            ("net_benefit", data.score_N >= p),
            ("net_benefit_of_all", np.ones(n, dtype=bool)),
        ):
            ratio = net_benefit(data.positive_N, called_N, data.patient_N, data.clusters, odds)
            yield f"{metric}_at_{100 * p:g}", (ratio, n)


def _calling(data: _Label, called_N: Bools) -> Iterator[tuple[str, Part]]:
    positive_N, n = data.positive_N, len(data.score_N)
    rows = (positive_N, called_N, data.patient_N, data.clusters)
    yield "recall", (data.mean(positive_N & called_N, positive_N), data.positives)
    yield "specificity", (data.mean(~positive_N & ~called_N, ~positive_N), n - data.positives)
    yield "balanced_accuracy", (BalancedAccuracy(*rows), n)
    yield "mcc", (Matthews(*rows), n)
    yield "f1", (F1(*rows), n)
    yield "ppv", (data.mean(positive_N & called_N, called_N), int(called_N.sum()))
    yield "npv", (data.mean(~positive_N & ~called_N, ~called_N), int((~called_N).sum()))


def _validated(data: _Label, percent: str, threshold: float) -> Iterator[Measure]:
    called_N, positive_N = data.score_N >= threshold, data.positive_N
    for metric, right_N, of_N in (
        ("sensitivity", positive_N & called_N, positive_N),
        ("specificity", ~positive_N & ~called_N, ~positive_N),
    ):
        ratio = data.mean(right_N, of_N)
        name = f"{metric}_validated_{percent}"
        yield Measure(metric=name, name=data.name, n=int(of_N.sum()), statistic=ratio)


def _predictive(data: _Label, called_N: Bools, stated: Stated) -> Iterator[tuple[str, Part]]:
    if (prevalence := stated.prevalences.get(data.name)) is None:
        return
    rows = (data.positive_N, called_N, data.patient_N, data.clusters)
    for metric, negative in (("ppv_stated", False), ("npv_stated", True)):
        value = PredictiveValue(*rows, prevalence=prevalence, negative=negative)
        yield metric, (value, len(data.score_N))


def _macro(
    rows: pl.DataFrame,
    counted: Sequence[str],
    thresholds: Mapping[str, float],
    fixed: Mapping[str, Mapping[str, float]],
) -> Iterator[Measure]:
    samples = rows.filter(pl.col("name").is_in(counted))["sample"].n_unique()
    complete = bool(counted) and all(name in thresholds for name in counted)
    validated = [
        f"{side}_validated_{percent}"
        for percent, limits in fixed.items()
        for side in ("sensitivity", "specificity")
        if counted and all(name in limits for name in counted)
    ]
    for metric in (*RANKING, *(CALLING if complete else ()), *validated):
        yield Measure(
            metric=f"{metric}_macro",
            name=ALL,
            n=samples,
            members=tuple((metric, name) for name in counted),
            low_is_better=metric in ERRORS,
        )


def _micro(rows: pl.DataFrame, clusters: int, thresholds: Mapping[str, float]) -> Iterator[Measure]:
    known = rows.filter(pl.col("name").is_in(list(thresholds)))
    if known.is_empty():
        return
    limit_N = known["name"].replace_strict(thresholds, return_dtype=pl.Float64).to_numpy()
    data = _Label.of(ALL, known, clusters)
    f1 = F1(data.positive_N, data.score_N >= limit_N, data.patient_N, clusters)
    yield Measure(metric="f1_micro", name=ALL, n=len(known), statistic=f1)
