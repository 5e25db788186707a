"""All that `metrics.json` says of a table of predictions, from one bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from medvlp.evaluate.metrics.comparison import Comparison, What, compare
from medvlp.evaluate.metrics.estimate import (
    Estimate,
    OfModel,
    Row,
    clustered,
    estimate,
    found_measures,
    row,
)
from medvlp.evaluate.metrics.ranks import Standing, standings
from medvlp.evaluate.metrics.subgroups import SubgroupRow, subgroup_rows
from medvlp.evaluate.protocol import BootstrapConfig


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The metrics of one protocol."""

    rows: list[Row]
    comparisons: list[Comparison]
    ranks: list[Standing]
    subgroups: list[SubgroupRow]


def summarise(
    predictions: pl.DataFrame,
    measures: OfModel,
    headlines: Sequence[str],
    *,
    domain: str,
    bootstrap: BootstrapConfig,
) -> Summary:
    """Metrics, comparisons, ranks and subgroups; a pure function of the predictions.

    Comparisons and ranks are by the headline metrics and, where one is a macro mean, by each
    label that it is over.

    Args:
        predictions: Rows of `PREDICTIONS`, of one protocol.
        measures: The task's metrics.
        headlines: Metrics that the task is judged by.
        domain: For the rows.
        bootstrap: How intervals are made.
    """
    table, patients = clustered(predictions)
    found = estimate(
        found_measures(table, patients, measures), patients, bootstrap.draws, bootstrap.seed
    )
    chosen = judged_by(found, headlines)
    confidence = bootstrap.confidence
    comparisons = compare(found, predictions, chosen, domain=domain, confidence=confidence)
    return Summary(
        rows=[row(one, domain, confidence, bootstrap.method) for one in found],
        comparisons=comparisons,
        ranks=standings(found, comparisons, chosen, domain=domain, confidence=confidence),
        subgroups=subgroup_rows(
            table,
            patients,
            measures,
            headlines,
            domain=domain,
            draws=bootstrap.draws,
            confidence=confidence,
            seed=bootstrap.seed,
            method=bootstrap.method,
        ),
    )


def judged_by(found: Sequence[Estimate], headlines: Sequence[str]) -> list[What]:
    """(metric, name) of the headline metrics and of their members, each once."""
    heads = [one for one in found if one.measure.metric in headlines]
    members = [what for one in heads for what in one.measure.members]
    return list(dict.fromkeys([*(one.what for one in heads), *members]))
