"""From the table of predictions to estimates with draws, and to rows with intervals.

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

from medvlp.evaluate.metrics.intervals import Method, interval
from medvlp.evaluate.metrics.resampling import Spread, bootstrap, mean_spread
from medvlp.evaluate.metrics.statistics import Floats, Ratio, Statistic


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric to be estimated: a statistic of its own, or the mean of others' spreads."""

    metric: str
    name: str
    n: int
    statistic: Statistic | None = None
    members: tuple[tuple[str, str], ...] = ()
    """(metric, name) of the measures that a macro mean is taken over."""

    low_is_better: bool = False
    """Whether less is better, as for errors and ranks: which model leads, which group is worst."""


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

    interval: str | None = None
    """What the interval was made by: percentile, bca, inverted or wilson; null where there is none,
    or where no draw of patients moves the value."""

    undefined_draws: int = 0
    """Bootstrap draws without the classes that the metric needs; the interval leaves them out."""


Measures = Callable[[pl.DataFrame, int], Sequence[Measure]]
"""A task's metrics of one training of one model: (its rows with a `cluster` column, clusters) to
measures."""

OfModel = Callable[[str, int], Measures]
"""Model and seed -> the task's metrics for that training of the model."""

_Key = tuple[str, str, str, int]
"""(model, metric, name, seed)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One metric of one model, over all its trainings."""

    model: str
    control: bool
    protocol: str
    measure: Measure
    """Of the first training."""

    spread: Spread
    """The mean over trainings, within each draw of patients."""

    values: tuple[float, ...]
    """Of each training."""

    n: int

    @property
    def what(self) -> tuple[str, str]:
        """(metric, name)."""
        return self.measure.metric, self.measure.name


def clustered(predictions: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The rows with their patient's number in a column `cluster`, and how many patients."""
    patients = predictions["patient"].unique().sort()
    number = pl.col("patient").replace_strict(patients, np.arange(len(patients)))
    return predictions.with_columns(cluster=number), len(patients)


def found_measures(
    table: pl.DataFrame, patients: int, measures: OfModel
) -> dict[_Key, tuple[Measure, bool, str]]:
    """Each training's measures, with whether the model is a control, and its protocol.

    Args:
        table: Rows of `PREDICTIONS` with a `cluster` column.
        patients: Over all of them.
        measures: The task's.
    """
    found: dict[_Key, tuple[Measure, bool, str]] = {}
    for (model, seed), rows in table.group_by("model", "seed", maintain_order=True):
        about = bool(rows["control"][0]), str(rows["protocol"][0])
        for measure in measures(str(model), int(str(seed)))(rows, patients):
            found[str(model), measure.metric, measure.name, int(str(seed))] = (measure, *about)
    return found


def estimate(
    found: Mapping[_Key, tuple[Measure, bool, str]], patients: int, draws: int, seed: int
) -> list[Estimate]:
    """All metrics of all models on the same patient-clustered draws, averaged over trainings."""
    own = {k: m.statistic for k, (m, _, _) in found.items() if m.statistic is not None}
    # One cluster is every draw: its interval would have no width and mean nothing.
    spreads = bootstrap(own, patients, draws if patients > 1 else 0, seed)
    for key, (measure, _, _) in found.items():
        if measure.statistic is None:
            spreads[key] = _mean_of(key, measure.members, spreads)
    grouped: dict[tuple[str, str, str], list[_Key]] = {}
    for key in found:
        grouped.setdefault(key[:3], []).append(key)
    return [_over_seeds(keys, found, spreads) for keys in grouped.values()]


def _mean_of(
    key: _Key, members: Sequence[tuple[str, str]], spreads: Mapping[_Key, Spread]
) -> Spread:
    model, _, _, seed = key
    if not members:
        return Spread(math.nan, np.empty(0), support=0)
    return mean_spread([spreads[model, metric, name, seed] for metric, name in members])


def _over_seeds(
    keys: Sequence[_Key],
    found: Mapping[_Key, tuple[Measure, bool, str]],
    spreads: Mapping[_Key, Spread],
) -> Estimate:
    measure, control, protocol = found[keys[0]]
    of_seeds = [spreads[key] for key in keys]
    return Estimate(
        model=keys[0][0],
        control=control,
        protocol=protocol,
        measure=measure,
        spread=of_seeds[0] if len(keys) == 1 else mean_spread(of_seeds),
        values=tuple(spread.value for spread in of_seeds),
        n=max(found[key][0].n for key in keys),
    )


def metric_rows(
    predictions: pl.DataFrame,
    measures: OfModel,
    *,
    domain: str,
    draws: int,
    confidence: float,
    seed: int,
    method: Method = "bca",
) -> list[Row]:
    """All metrics of all models, with patient-clustered intervals.

    Args:
        predictions: Rows of `PREDICTIONS`, of one protocol.
        measures: The task's metrics.
        domain: For the rows.
        draws: Bootstrap draws.
        confidence: Of the intervals.
        seed: Of the draws.
        method: How intervals are made of draws.
    """
    table, patients = clustered(predictions)
    found = estimate(found_measures(table, patients, measures), patients, draws, seed)
    return [row(one, domain, confidence, method) for one in found]


def row(found: Estimate, domain: str, confidence: float, method: Method) -> Row:
    """An estimate as a line of a table."""
    around = interval(found.spread, confidence, method)
    several = len(found.values) > 1
    return Row(
        domain=domain,
        protocol=found.protocol,
        model=found.model,
        control=found.control,
        metric=found.measure.metric,
        name=found.measure.name,
        value=number(found.spread.value),
        low=number(around.low),
        high=number(around.high),
        n=found.n,
        seeds=len(found.values),
        seed_sd=number(float(np.std(found.values, ddof=1))) if several else None,
        interval=around.method,
        undefined_draws=found.spread.undefined,
    )


def number(value: float) -> float | None:
    """The value as JSON has it: null for what is undefined."""
    return None if math.isnan(value) else value


def plain_rows(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Lines of a table as plain values for JSON, without the count of undefined draws."""
    return [
        {key: value for key, value in dataclasses.asdict(row).items() if key != "undefined_draws"}
        for row in rows
    ]


def mean_measure(metric: str, name: str, values: Floats, patient: Any, clusters: int) -> Measure:
    """The mean of `values`, one a row, as a measure."""
    statistic = Ratio(values, np.ones(len(values)), patient, clusters)
    return Measure(metric=metric, name=name, n=len(values), statistic=statistic)
