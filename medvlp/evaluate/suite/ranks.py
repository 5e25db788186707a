"""Ranks with intervals: in every draw of patients the models are ranked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of a head-to-head: a protocol's headline metric for one name."""

    protocol: str
    domain: str
    metric: str
    name: str
    low_is_better: bool


def rank_draws(value_MR: Floats, *, low_is_better: bool) -> Floats:
    """(M,R) ranks of M models in each draw, 1 the best, ties sharing their mean rank.

    A model without a value in a draw has no rank in it (NaN), and none among the others.

    Args:
        value_MR: A metric's value of each model in each draw.
        low_is_better: Whether a small value is a good one.
    """
    return np.asarray(
        rankdata(value_MR if low_is_better else -value_MR, axis=0, nan_policy="omit"),
        dtype=np.float64,
    )


def mean_ranks(
    columns: Sequence[tuple[Column, Mapping[str, Floats]]], confidence: float
) -> list[dict[str, Any]]:
    """Each model's mean rank over the columns of its domain, best first, with an interval.

    Columns whose draws stem from the same patients share them, so that what they have in common is
    not counted twice.

    Args:
        columns: A column, and model -> (1+R,) its value followed by its value in each draw.
        confidence: Of the percentile interval over draws.

    Returns:
        Rows of domain, model, rank, low, high (None without draws) and the number of columns.
    """
    rows: list[dict[str, Any]] = []
    for domain in dict.fromkeys(column.domain for column, _ in columns):
        own = [(column, values) for column, values in columns if column.domain == domain]
        rows += _of_domain(domain, own, confidence)
    return rows


def _of_domain(
    domain: str, columns: Sequence[tuple[Column, Mapping[str, Floats]]], confidence: float
) -> list[dict[str, Any]]:
    models = list(dict.fromkeys(model for _, values in columns for model in values))
    # A metric that is undefined as a whole has no draws; it takes the others' none away.
    lengths = {len(value) for _, values in columns for value in values.values()}
    draws = min(lengths - {1}, default=1)
    stacked = np.full((len(columns), len(models), draws), np.nan)
    for c, (column, values) in enumerate(columns):
        value_MR = np.stack([_draws(values.get(m), draws) for m in models])
        stacked[c] = rank_draws(value_MR, low_is_better=column.low_is_better)
    rows = []
    for m, model in enumerate(models):
        ranks_CR = stacked[:, m]
        counted = ~np.isnan(ranks_CR)
        mean_R = np.where(counted, ranks_CR, 0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
        defined = mean_R[1:][counted[:, 1:].any(axis=0)]
        tail = (1 - confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (None, None)
        rows.append(
            {
                "domain": domain,
                "model": model,
                "rank": float(mean_R[0]) if counted[:, 0].any() else None,
                "low": None if low is None else float(low),
                "high": None if high is None else float(high),
                "columns": int(counted[:, 0].sum()),
            }
        )
    return sorted(rows, key=lambda row: (row["rank"] is None, row["rank"] or 0, row["model"]))


def _draws(value: Floats | None, draws: int) -> Floats:
    """(1+R,) the value and its draws, NaN for those that are not there."""
    known = np.empty(0) if value is None else value[:draws]
    return np.concatenate([known, np.full(draws - len(known), np.nan)])
