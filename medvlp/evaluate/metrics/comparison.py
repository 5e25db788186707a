"""Models against each other: paired differences on the draws that gave their intervals."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.delong import delong_p
from medvlp.evaluate.metrics.estimate import Estimate, number
from medvlp.evaluate.metrics.intervals import NONE, interval, p_value, varies
from medvlp.evaluate.metrics.resampling import Spread, combined
from medvlp.evaluate.metrics.statistics import Auroc

What = tuple[str, str]
"""(metric, name)."""

CASE = ("sample", "name", "time_s")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One line of ``comparisons`` in `metrics.json`: two models, one metric."""

    domain: str
    protocol: str
    metric: str
    name: str
    first: str
    second: str
    control: bool
    """Whether the second is a control."""

    difference: float | None
    """First less second."""

    low: float | None
    high: float | None
    """The expanded percentile interval; null where no draw moves a difference that is not 0."""

    p: float | None
    """Two-sided, of the same draws: the least level at which the interval leaves 0 out."""

    p_holm: float | None = None
    """Adjusted over all comparisons of this metric with models, or with controls."""

    same_cases: bool
    """Whether both were scored on the very same cases; else the draws are shared, but no case."""

    delong_p: float | None = None
    """Of AUROC alone."""

    delong_refused: str | None = None
    """Why there is none."""


def compare(
    estimates: Sequence[Estimate],
    predictions: pl.DataFrame,
    chosen: Sequence[What],
    *,
    domain: str,
    confidence: float,
) -> list[Comparison]:
    """Every model against every other and against every control.

    Args:
        estimates: Of one bootstrap.
        predictions: Rows of `PREDICTIONS` that they are of.
        chosen: Metrics to compare by.
        domain: For the lines.
        confidence: Of the intervals.
    """
    cases = _Cases(predictions)
    found = [
        _pair(first, second, cases, domain, confidence)
        for what in chosen
        for first, second in _pairs([one for one in estimates if one.what == what])
    ]
    families: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for i, one in enumerate(found):
        families[one.metric, one.control].append(i)
    for places in families.values():
        adjusted = holm([_float(found[i].p) for i in places])
        for i, p in zip(places, adjusted, strict=True):
            found[i] = replace(found[i], p_holm=number(p))
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values of a family (Holm 1979); NaN stays and does not count.

    The k-th smallest of m is multiplied by m−k+1; no adjusted value is below a smaller p's.
    """
    values = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    raised = values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(raised))
    return [float(x) for x in adjusted]


def difference(first: Spread, second: Spread) -> Spread:
    """First less second, within each draw."""
    return combined([first, second], lambda values_2R: values_2R[0] - values_2R[1])


def _pairs(of_metric: Sequence[Estimate]) -> Iterator[tuple[Estimate, Estimate]]:
    models = [one for one in of_metric if not one.control]
    controls = [one for one in of_metric if one.control]
    yield from itertools.combinations(models, 2)
    yield from itertools.product(models, controls)


def _pair(
    first: Estimate, second: Estimate, cases: _Cases, domain: str, confidence: float
) -> Comparison:
    spread = difference(first.spread, second.spread)
    certain = not math.isnan(spread.value) and spread.value != 0 and not varies(spread)
    around = NONE if certain else interval(spread, confidence, "percentile")
    p_delong, refused = None, None
    if isinstance(first.measure.statistic, Auroc):
        p_delong, refused = cases.delong(first, second)
    return Comparison(
        domain=domain,
        protocol=first.protocol,
        metric=first.measure.metric,
        name=first.measure.name,
        first=first.model,
        second=second.model,
        control=second.control,
        difference=number(spread.value),
        low=number(around.low),
        high=number(around.high),
        p=number(p_value(spread)),
        same_cases=cases.same(first.model, second.model),
        delong_p=p_delong,
        delong_refused=refused,
    )


def _float(value: float | None) -> float:
    return math.nan if value is None else value


class _Cases:
    """What each model was scored on."""

    def __init__(self, predictions: pl.DataFrame) -> None:
        self.of_model: Mapping[str, pl.DataFrame] = {
            str(model): rows.sort(CASE)
            for (model,), rows in predictions.group_by("model", maintain_order=True)
        }

    def same(self, first: str, second: str) -> bool:
        a, b = (self.of_model[m].select(*CASE, "label").unique() for m in (first, second))
        return a.sort(CASE).equals(b.sort(CASE))

    def delong(self, first: Estimate, second: Estimate) -> tuple[float | None, str | None]:
        """DeLong's p of two models' AUROC of a label, or why it is not valid."""
        parts = [
            self.of_model[one.model].filter(pl.col("name") == one.measure.name)
            for one in (first, second)
        ]
        if max(len(first.values), len(second.values)) > 1:
            return None, "several trainings of a model"
        if not parts[0].select(*CASE, "label").equals(parts[1].select(*CASE, "label")):
            return None, "the models were not scored on the same cases"
        if parts[0]["patient"].is_duplicated().any():
            return None, "a patient has several rows, and DeLong's cases are independent"
        positive_N = parts[0]["label"].to_numpy() == 1
        if min(positive_N.sum(), (~positive_N).sum()) < 2:
            return None, "fewer than two positives or negatives"
        score_2N = np.stack([part["score"].to_numpy() for part in parts])
        return delong_p(score_2N, positive_N), None
