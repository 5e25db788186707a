"""Metrics that hold for scores of any scale: those that look at the order alone."""

from __future__ import annotations

import polars as pl

from medvlp.evaluate.metrics.estimate import Measure, Measures

RANKED = ("auroc", "average_precision", "prevalence", "roc_")
"""How the names of metrics begin that any increasing change of the scores leaves as they are."""


def ranked_only(measures: Measures) -> Measures:
    """`measures` without those that read a score as a probability or compare it to a threshold."""

    def kept(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        return [m for m in measures(rows, clusters) if m.metric.startswith(RANKED)]

    return kept
