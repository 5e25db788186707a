"""Metrics within groups of patients, the worst group, and the gap between best and worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.estimate import (
    Estimate,
    Measure,
    OfModel,
    Row,
    estimate,
    found_measures,
    row,
)
from medvlp.evaluate.metrics.intervals import Method
from medvlp.evaluate.metrics.resampling import combined
from medvlp.evaluate.predictions import SUBGROUPS

SMALLEST = 10
"""Patients, and where a label has two sides patients on each side, below which a cell is kept
back, so that nobody can be recognised in it."""

GAP = "gap"
"""The `group` of a line that is the best group's value less the worst's."""

UNKNOWN = "unknown"
"""The group of those of whom the column says nothing; neither worst nor in the gap."""


@dataclass(frozen=True, kw_only=True)
class SubgroupRow(Row):
    """One line of ``subgroups`` in `metrics.json`."""

    column: str
    group: str
    suppressed: bool = False
    """Too few patients: no value is told, and `n` is 0."""

    worst: bool = False
    """Whether no other group of the column does worse."""


def subgroup_rows(
    table: pl.DataFrame,
    patients: int,
    measures: OfModel,
    headlines: Sequence[str],
    *,
    domain: str,
    draws: int,
    confidence: float,
    seed: int,
    method: Method,
) -> list[SubgroupRow]:
    """The headline metrics, and the labels that a macro mean is over, of each model and group.

    A macro mean within groups is over the labels that count in every group in which any does, so
    that groups differ in patients and not in labels; a group in which none counts is kept back.
    All groups see the same draws. Where a column has a cell that is kept back, the numbers of
    cases of its other groups are rounded down to tens, so that the difference from the total does
    not tell what is hidden. The draws of a gap are biased upwards, as noise makes a range; use
    ``bca``, which corrects the median of that.

    Args:
        table: Rows of `PREDICTIONS` with a `cluster` column; controls are left out.
        patients: Over all rows.
        measures: The task's.
        headlines: Names of metrics.
        domain: For the lines.
        draws: Bootstrap draws.
        confidence: Of the intervals.
        seed: Of the draws.
        method: How intervals are made of draws.
    """
    told: list[SubgroupRow] = []
    models = table.filter(~pl.col("control"))
    for column in SUBGROUPS:
        if models[column].n_unique() < 2:
            continue
        groups = {
            str(group): rows
            for (group,), rows in models.with_columns(pl.col(column).fill_null(UNKNOWN))
            .sort(column, maintain_order=True)
            .group_by(column, maintain_order=True)
        }
        found = _found(groups, patients, measures, headlines)
        estimates = {
            group: estimate(of_group, patients, draws, seed) for group, of_group in found.items()
        }
        cells = _Cells(column, groups, estimates, models, domain)
        told.extend(cells.rows(confidence, method))
    return told


What = tuple[str, str]
_Key = tuple[str, str, str, int]
_Found = dict[_Key, tuple[Measure, bool, str]]


def _found(
    groups: Mapping[str, pl.DataFrame], patients: int, measures: OfModel, headlines: Sequence[str]
) -> dict[str, _Found]:
    """Of each group with enough patients, the measures wanted, over the same members in each."""
    every = {
        group: found_measures(rows, patients, measures)
        for group, rows in groups.items()
        if rows["patient"].n_unique() >= SMALLEST
    }
    members: dict[_Key, list[tuple[What, ...]]] = {}
    for found in every.values():
        for key, (measure, _, _) in found.items():
            if key[1] in headlines and _told(measure):
                members.setdefault(key, []).append(measure.members)
    wanted = {(k[0], *what, k[3]) for k, sets in members.items() for m in sets for what in m}
    return {
        group: {
            key: (_narrowed(measure, members.get(key, [])), control, protocol)
            for key, (measure, control, protocol) in found.items()
            if _told(measure) and (key in members or key in wanted)
        }
        for group, found in every.items()
    }


def _told(measure: Measure) -> bool:
    """Whether there is anything to estimate: a mean over no label is none."""
    return measure.statistic is not None or bool(measure.members)


def _narrowed(measure: Measure, of_groups: Sequence[tuple[What, ...]]) -> Measure:
    """The measure, a mean only over the members that it has in every group."""
    if measure.statistic is not None:
        return measure
    shared = (m for m in measure.members if all(m in members for members in of_groups))
    return replace(measure, members=tuple(shared))


class _Cells:
    """One column's groups, by (model, metric, name)."""

    def __init__(
        self,
        column: str,
        groups: Mapping[str, pl.DataFrame],
        estimates: Mapping[str, Sequence[Estimate]],
        models: pl.DataFrame,
        domain: str,
    ) -> None:
        self.column, self.groups, self.domain = column, groups, domain
        sides = models.group_by("name").agg(pl.col("label").n_unique())
        self.two_sided = {name for name, kinds in sides.iter_rows() if kinds == 2}
        self.cells: dict[tuple[str, str, str], dict[str, Estimate]] = {}
        for group, found in estimates.items():
            for one in found:
                self.cells.setdefault((one.model, *one.what), {})[group] = one

    def rows(self, confidence: float, method: Method) -> list[SubgroupRow]:
        """The lines of every model and metric."""
        told: list[SubgroupRow] = []
        for of_group in self.cells.values():
            shown = {g: one for g, one in of_group.items() if not self._small(g, one)}
            hidden = [g for g in self.groups if g not in shown]
            whole = next(iter(of_group.values()))
            told.extend(self._group_rows(shown, bool(hidden), confidence, method))
            told.extend(self._hidden(whole, group) for group in hidden)
            told.extend(self._gap(shown, bool(hidden), confidence, method))
        return told

    def _small(self, group: str, one: Estimate) -> bool:
        rows = self.groups[group].filter(pl.col("model") == one.model)
        if one.measure.name in self.two_sided:
            part = rows.filter(pl.col("name") == one.measure.name)
            sides = [part.filter(pl.col("label") == side) for side in (0, 1)]
        else:
            sides = [rows]
        return min(side["patient"].n_unique() for side in sides) < SMALLEST

    def _group_rows(
        self, shown: Mapping[str, Estimate], hides: bool, confidence: float, method: Method
    ) -> list[SubgroupRow]:
        worst = _extreme(shown, worst=True)
        return [
            SubgroupRow(
                **_rounded(asdict(row(one, self.domain, confidence, method)), hides),
                column=self.column,
                group=group,
                worst=group == worst,
            )
            for group, one in shown.items()
        ]

    def _hidden(self, one: Estimate, group: str) -> SubgroupRow:
        return SubgroupRow(
            domain=self.domain, protocol=one.protocol, model=one.model, control=one.control,
            metric=one.measure.metric, name=one.measure.name, value=None, low=None, high=None,
            n=0, column=self.column, group=group, suppressed=True,
        )  # fmt: skip

    def _gap(
        self, shown: Mapping[str, Estimate], hides: bool, confidence: float, method: Method
    ) -> list[SubgroupRow]:
        known = [one for group, one in shown.items() if _counts(group, one)]
        if len(known) < 2:
            return []
        spread = combined(
            [one.spread for one in known], lambda values_GR: np.ptp(values_GR, axis=0)
        )
        whole = Estimate(
            model=known[0].model, control=known[0].control, protocol=known[0].protocol,
            measure=known[0].measure, spread=spread, values=(spread.value,),
            n=sum(one.n for one in known),
        )  # fmt: skip
        values = _rounded(asdict(row(whole, self.domain, confidence, method)), hides)
        return [SubgroupRow(**values, column=self.column, group=GAP)]


def _counts(group: str, one: Estimate) -> bool:
    return group != UNKNOWN and not math.isnan(one.spread.value)


def _extreme(shown: Mapping[str, Estimate], *, worst: bool) -> str | None:
    known = {g: one for g, one in shown.items() if _counts(g, one)}
    if len(known) < 2:
        return None
    sign = -1 if next(iter(known.values())).measure.low_is_better == worst else 1
    return min(known, key=lambda group: sign * known[group].spread.value)


def _rounded(values: dict[str, Any], hides: bool) -> dict[str, Any]:
    return values | {"n": values["n"] // 10 * 10} if hides else values
