"""From the table of predictions to rows of metrics with intervals; nothing else is read.

Every metric here is a pure function of `predictions.parquet` (and of the thresholds that
travelled inside the bundles), so that a result can be computed again from the folder for ever.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from medvlp.evaluate.statistics import (
    F1,
    Auroc,
    AveragePrecision,
    CalibrationError,
    Floats,
    Median,
    Ratio,
    Spread,
    Statistic,
    bootstrap,
    mean_spread,
)

PREDICTIONS = pl.Schema(
    {
        "model": pl.String,
        "protocol": pl.String,
        "seed": pl.Int64,
        "sample": pl.String,
        "patient": pl.String,
        "name": pl.String,
        "label": pl.Int8,
        "score": pl.Float64,
        "sex": pl.String,
        "age_band": pl.String,
        "view": pl.String,
        "site": pl.String,
        "scanner": pl.String,
        "control": pl.Boolean,
        "time_s": pl.Float64,
    }
)
"""Columns of `predictions.parquet`. `label`: 1 present, 0 absent; uncertain and unknown labels
have no row. `score`: the probability of presence for findings and phases, the reciprocal rank of
the right answer for retrieval. `time_s`: the middle of a window, null where a sample has none."""

ALL = "all"
"""The `name` of a row that is about every label at once."""

MACRO_MINIMUM = 10
"""A label with fewer positives or fewer negatives is shown but left out of macro means."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric to be estimated: a statistic of its own, or the mean of others' spreads."""

    metric: str
    name: str
    n: int
    statistic: Statistic | None = None
    members: tuple[tuple[str, str], ...] = ()
    """(metric, name) of the measures that a macro mean is taken over."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of `metrics.json` and of `report.json`."""

    domain: str
    protocol: str
    model: str
    control: bool
    metric: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    undefined_draws: int = 0
    """Bootstrap draws without the classes that the metric needs; the interval leaves them out."""


Measures = Callable[[pl.DataFrame, int], Sequence[Measure]]
"""A task's metrics of one model: (its rows with a `cluster` column, clusters) to measures."""


def metric_rows(
    predictions: pl.DataFrame,
    measures: Callable[[str], Measures],
    *,
    domain: str,
    draws: int,
    confidence: float,
    seed: int,
) -> list[Row]:
    """All metrics of all models on the same patient-clustered draws.

    Args:
        predictions: Rows of `PREDICTIONS`, of one protocol.
        measures: Model name -> the task's metrics for that model.
        domain: For the rows.
        draws: Bootstrap draws.
        confidence: Of the percentile intervals.
        seed: Of the draws.
    """
    patients = predictions["patient"].unique().sort()
    table = predictions.with_columns(
        cluster=pl.col("patient").replace_strict(patients, np.arange(len(patients)))
    )
    found: dict[tuple[str, str, str], tuple[Measure, bool, str]] = {}
    for (model,), rows in table.group_by("model", maintain_order=True):
        name = str(model)
        for measure in measures(name)(rows, len(patients)):
            key = (name, measure.metric, measure.name)
            found[key] = (measure, bool(rows["control"][0]), str(rows["protocol"][0]))
    own = {key: m.statistic for key, (m, _, _) in found.items() if m.statistic is not None}
    spreads = bootstrap(own, len(patients), draws, seed)
    return [
        _row(key[0], *entry, domain, _spread(key[0], entry[0], spreads), confidence)
        for key, entry in found.items()
    ]


def _spread(model: str, measure: Measure, spreads: Mapping[tuple[str, str, str], Spread]) -> Spread:
    if measure.statistic is not None:
        return spreads[(model, measure.metric, measure.name)]
    if not measure.members:
        return Spread(math.nan, np.empty(0))
    return mean_spread([spreads[(model, *member)] for member in measure.members])


def _row(
    model: str,
    measure: Measure,
    control: bool,
    protocol: str,
    domain: str,
    spread: Spread,
    confidence: float,
) -> Row:
    low, high = spread.interval(confidence)
    return Row(
        domain=domain,
        protocol=protocol,
        model=model,
        control=control,
        metric=measure.metric,
        name=measure.name,
        value=_number(spread.value),
        low=_number(low),
        high=_number(high),
        n=measure.n,
        undefined_draws=spread.undefined,
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain values for JSON, without the count of undefined draws."""
    return [
        {key: value for key, value in dataclasses.asdict(row).items() if key != "undefined_draws"}
        for row in rows
    ]


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


def phase_measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
    """Accuracy and F1 over windows, and their means over videos.

    A window's prediction is its best-scored phase. `f1_macro` is the mean of the phases' F1 over
    all windows; `f1_macro_video` is computed within each video over the phases that are true or
    predicted there, then averaged over videos, as is `accuracy_video`: the two conventions of the
    surgical literature, which differ by several points.
    """
    names, truth_W, predicted_W, window = _windows(rows)
    patient = window["cluster"].to_numpy()
    right = (truth_W == predicted_W) * 1.0
    n = len(window)
    found = [_ratio("accuracy", ALL, right, patient, clusters)]
    for k, name in enumerate(names):
        f1 = F1(truth_W == k, predicted_W == k, patient, clusters)
        found.append(Measure(metric="f1", name=name, n=int((truth_W == k).sum()), statistic=f1))
    members = tuple(("f1", name) for name in names)
    found.append(Measure(metric="f1_macro", name=ALL, n=n, members=members))
    videos = window.with_columns(
        truth=pl.Series(truth_W), predicted=pl.Series(predicted_W)
    ).partition_by("sample", maintain_order=True)
    owner = np.array([video["cluster"][0] for video in videos])
    accuracy = np.array([(video["truth"] == video["predicted"]).mean() for video in videos])
    f1_video = np.array([_video_f1(video, len(names)) for video in videos])
    found.append(_ratio("accuracy_video", ALL, accuracy, owner, clusters))
    found.append(_ratio("f1_macro_video", ALL, f1_video, owner, clusters))
    return found


def _windows(rows: pl.DataFrame) -> tuple[list[str], Any, Any, pl.DataFrame]:
    """Phase names, true and predicted phase index of each window, and the windows' own columns.

    Windows of which no phase is true (outside every annotated interval) are left out.
    """
    names = sorted(rows["name"].unique())
    wide = (
        rows.group_by("sample", "time_s", "cluster", maintain_order=True)
        .agg(pl.col("score").sort_by("name"), pl.col("label").sort_by("name"))
        .filter(pl.col("label").list.max() == 1)
    )
    truth = wide["label"].list.arg_max().to_numpy()
    predicted = wide["score"].list.arg_max().to_numpy()
    return names, truth, predicted, wide.select("sample", "time_s", "cluster")


def phase_table(rows: pl.DataFrame) -> tuple[list[str], Any]:
    """Phase names and one model's (true, predicted) counts, for a confusion matrix."""
    names, truth_W, predicted_W, _ = _windows(rows.with_columns(cluster=pl.lit(0)))
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (truth_W, predicted_W), 1)
    return names, table


def _video_f1(video: pl.DataFrame, classes: int) -> float:
    truth, predicted = video["truth"].to_numpy(), video["predicted"].to_numpy()
    both = np.bincount(truth[truth == predicted], minlength=classes)
    either = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float(np.mean(2 * both[either > 0] / either[either > 0]))


def retrieval_measures(k: Sequence[int]) -> Measures:
    """Recall at k, median rank and mean reciprocal rank of each direction.

    The candidates stay as they are; the draws weigh the queries.
    """

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        found: list[Measure] = []
        for (label,), part in rows.group_by("name", maintain_order=True):
            name = str(label)
            patient = part["cluster"].to_numpy()
            reciprocal = part["score"].to_numpy()
            rank = np.rint(1 / reciprocal)
            for depth in k:
                hits = (rank <= depth) * 1.0
                found.append(_ratio(f"recall_at_{depth}", name, hits, patient, clusters))
            found.append(_ratio("reciprocal_rank", name, reciprocal, patient, clusters))
            median = Median(rank, patient, clusters)
            found.append(Measure(metric="median_rank", name=name, n=len(part), statistic=median))
        return found

    return measures


def _ratio(metric: str, name: str, values: Floats, patient: Any, clusters: int) -> Measure:
    statistic = Ratio(values, np.ones(len(values)), patient, clusters)
    return Measure(metric=metric, name=name, n=len(values), statistic=statistic)
