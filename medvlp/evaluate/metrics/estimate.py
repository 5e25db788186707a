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

from medvlp.evaluate.metrics.statistics import (
    Floats,
    Ratio,
    Spread,
    Statistic,
    bootstrap,
    mean_spread,
)


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
    seeds: int = 1
    """How many trainings the value is the mean of; each draw of patients is shared by all."""

    seed_sd: float | None = None
    """Standard deviation of the value over trainings, which the interval does not hold."""

    undefined_draws: int = 0
    """Bootstrap draws without the classes that the metric needs; the interval leaves them out."""


_Key = tuple[str, str, str, int]
"""(model, metric, name, seed)."""

Measures = Callable[[pl.DataFrame, int], Sequence[Measure]]
"""A task's metrics of one training of one model: (its rows with a `cluster` column, clusters) to
measures."""


def metric_rows(
    predictions: pl.DataFrame,
    measures: Callable[[str, int], Measures],
    *,
    domain: str,
    draws: int,
    confidence: float,
    seed: int,
) -> list[Row]:
    """All metrics of all models on the same patient-clustered draws.

    Args:
        predictions: Rows of `PREDICTIONS`, of one protocol.
        measures: Model name and seed -> the task's metrics for that training of the model.
        domain: For the rows.
        draws: Bootstrap draws.
        confidence: Of the percentile intervals.
        seed: Of the draws.
    """
    patients = predictions["patient"].unique().sort()
    table = predictions.with_columns(
        cluster=pl.col("patient").replace_strict(patients, np.arange(len(patients)))
    )
    found: dict[_Key, Measure] = {}
    about: dict[str, tuple[bool, str]] = {}
    for (model, seed_of), rows in table.group_by("model", "seed", maintain_order=True):
        about[str(model)] = (bool(rows["control"][0]), str(rows["protocol"][0]))
        for measure in measures(str(model), int(str(seed_of)))(rows, len(patients)):
            found[str(model), measure.metric, measure.name, int(str(seed_of))] = measure
    own = {key: m.statistic for key, m in found.items() if m.statistic is not None}
    # One cluster is every draw: its interval would have no width and mean nothing.
    spreads = bootstrap(own, len(patients), draws if len(patients) > 1 else 0, seed)
    for key, measure in found.items():
        if measure.statistic is None:
            spreads[key] = _mean_of(key, measure.members, spreads)
    return [
        _row(key, about[key[0]], [(found[k], spreads[k]) for k in keys], domain, confidence)
        for key, keys in _by_seed(found).items()
    ]


def _mean_of(
    key: _Key, members: Sequence[tuple[str, str]], spreads: Mapping[_Key, Spread]
) -> Spread:
    model, _, _, seed = key
    if not members:
        return Spread(math.nan, np.empty(0))
    return mean_spread([spreads[model, metric, name, seed] for metric, name in members])


def _by_seed(found: Mapping[_Key, Measure]) -> dict[tuple[str, str, str], list[_Key]]:
    grouped: dict[tuple[str, str, str], list[_Key]] = {}
    for key in found:
        grouped.setdefault(key[:3], []).append(key)
    return grouped


def _row(
    key: tuple[str, str, str],
    about: tuple[bool, str],
    of_seeds: Sequence[tuple[Measure, Spread]],
    domain: str,
    confidence: float,
) -> Row:
    values = [spread.value for _, spread in of_seeds]
    spread = of_seeds[0][1] if len(of_seeds) == 1 else mean_spread([s for _, s in of_seeds])
    low, high = spread.interval(confidence)
    return Row(
        domain=domain,
        protocol=about[1],
        model=key[0],
        control=about[0],
        metric=key[1],
        name=key[2],
        value=_number(spread.value),
        low=_number(low),
        high=_number(high),
        n=max(measure.n for measure, _ in of_seeds),
        seeds=len(of_seeds),
        seed_sd=None if len(values) == 1 else _number(float(np.std(values, ddof=1))),
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


def mean_measure(metric: str, name: str, values: Floats, patient: Any, clusters: int) -> Measure:
    """The mean of `values`, one a row, as a measure."""
    statistic = Ratio(values, np.ones(len(values)), patient, clusters)
    return Measure(metric=metric, name=name, n=len(values), statistic=statistic)
