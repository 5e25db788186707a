"""Metrics of windows of which one phase is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.estimate import Measure, mean_measure
from medvlp.evaluate.metrics.statistics import F1
from medvlp.evaluate.predictions import ALL


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
    found = [mean_measure("accuracy", ALL, right, patient, clusters)]
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
    found.append(mean_measure("accuracy_video", ALL, accuracy, owner, clusters))
    found.append(mean_measure("f1_macro_video", ALL, f1_video, owner, clusters))
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
