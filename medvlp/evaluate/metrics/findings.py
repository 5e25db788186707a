"""Metrics of a classifier whose labels are independent of each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.estimate import Measure, Measures
from medvlp.evaluate.metrics.statistics import (
    Auroc,
    AveragePrecision,
    CalibrationError,
    Ratio,
    Statistic,
)
from medvlp.evaluate.predictions import ALL

MACRO_MINIMUM = 10
"""A label with fewer positives or fewer negatives is shown but left out of macro means."""


def finding_measures(thresholds: Mapping[str, float]) -> Measures:
    """Metrics of a classifier whose labels are independent of each other.

    AUROC, average precision (beside the prevalence, which is its value for a blind guess), Brier
    score and expected calibration error; sensitivity (``recall``) and specificity where the
    bundle brought a decision threshold. Macro means leave out labels with fewer than
    `MACRO_MINIMUM` positives or negatives.

    Args:
        thresholds: Probability at and above which a label is called present.
    """

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        found: list[Measure] = []
        counted: list[str] = []
        for (label,), part in rows.group_by("name", maintain_order=True):
            name = str(label)
            found.extend(_finding(name, part, clusters, thresholds.get(name)))
            positives = int(part["label"].sum())
            if min(positives, len(part) - positives) >= MACRO_MINIMUM:
                counted.append(name)
        samples = rows.filter(pl.col("name").is_in(counted))["sample"].n_unique()
        for metric in ("auroc", "average_precision", "brier_score", "calibration_error"):
            members = tuple((metric, name) for name in counted)
            found.append(Measure(metric=f"{metric}_macro", name=ALL, n=samples, members=members))
        return found

    return measures


def _finding(
    name: str, part: pl.DataFrame, clusters: int, threshold: float | None
) -> list[Measure]:
    score = part["score"].to_numpy()
    positive = part["label"].to_numpy() == 1
    patient = part["cluster"].to_numpy()
    ones = np.ones(len(part))
    statistics: dict[str, tuple[Statistic, int]] = {
        "auroc": (Auroc(score, positive, patient, clusters), len(part)),
        "average_precision": (AveragePrecision(score, positive, patient, clusters), len(part)),
        "prevalence": (Ratio(positive * 1.0, ones, patient, clusters), len(part)),
        "brier_score": (Ratio((score - positive) ** 2, ones, patient, clusters), len(part)),
        "calibration_error": (CalibrationError(score, positive, patient, clusters), len(part)),
    }
    if threshold is not None:
        called = score >= threshold
        hits, calm = (positive & called) * 1.0, (~positive & ~called) * 1.0
        count = int(positive.sum())
        statistics["recall"] = (Ratio(hits, positive * 1.0, patient, clusters), count)
        statistics["specificity"] = (
            Ratio(calm, ~positive * 1.0, patient, clusters),
            len(part) - count,
        )
    return [
        Measure(metric=metric, name=name, n=n, statistic=statistic)
        for metric, (statistic, n) in statistics.items()
    ]
