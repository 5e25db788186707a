"""Metrics of queries that each have a rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure
from medvlp.evaluate.metrics.statistics import Median
from medvlp.evaluate.predictions import ALL


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
                found.append(mean_measure(f"recall_at_{depth}", name, hits, patient, clusters))
            found.append(mean_measure("reciprocal_rank", name, reciprocal, patient, clusters))
            median = Median(rank, patient, clusters)
            found.append(
                Measure(
                    metric="median_rank", name=name, n=len(part), statistic=median,
                    low_is_better=True,
                )
            )  # fmt: skip
        return found

    return measures


def class_retrieval_measures(k: Sequence[int], ranks: pl.DataFrame) -> Measures:
    """Precision and hits among the first k answers, of each class and of all queries.

    Args:
        k: Depths; a query with fewer candidates is judged on all of them.
        ranks: One model's rank list: `name`, `sample` and `same`, a list of right and wrong.
    """

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        joined = rows.join(ranks.select("name", "sample", "same"), on=["name", "sample"])
        parts = [(ALL, joined)] + [
            (str(name), part) for (name,), part in joined.group_by("name", maintain_order=True)
        ]
        found: list[Measure] = []
        for name, part in parts:
            patient = part["cluster"].to_numpy()
            for depth in k:
                first = part["same"].list.head(depth)
                right, some = first.list.mean().to_numpy(), first.list.any().to_numpy() * 1.0
                found.append(mean_measure(f"precision_at_{depth}", name, right, patient, clusters))
                found.append(mean_measure(f"hit_at_{depth}", name, some, patient, clusters))
        return found

    return measures
