"""A head-to-head from end to end: cells, one folder a protocol, ranks over all of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp import __version__
from medvlp.digest import digest_plain
from medvlp.errors import ConfigError
from medvlp.evaluate.metrics.estimate import Estimate, clustered, estimate, found_measures
from medvlp.evaluate.protocol import Protocol
from medvlp.evaluate.record import PREDICTED, measures_in
from medvlp.evaluate.suite.cells import RunCell, finished
from medvlp.evaluate.suite.config import Suite, load_suite
from medvlp.evaluate.suite.join import join_cells
from medvlp.evaluate.suite.plan import Cell, Plan, make_plan
from medvlp.evaluate.suite.processes import run_apart
from medvlp.evaluate.suite.ranks import Column, mean_ranks
from medvlp.outputs import whole_file
from medvlp.progress import track

INDEX = "suite.json"
INCOMPLETE = 6
"""Exit code of a suite some of whose cells failed."""


def run_suite(path: Path, out: Path) -> tuple[str, int]:
    """Run every cell that is not finished, then join each protocol and rank the models.

    Writes ``OUT/cells/<key>/``, ``OUT/<protocol>/`` and ``OUT/suite.json``. Run again after a kill
    or a failure, it goes on with the cells that are missing.

    Args:
        path: The suite's YAML.
        out: The folder of the head-to-head.

    Returns:
        Lines for the terminal, and the exit code: 0, or `INCOMPLETE` if a cell failed.

    Raises:
        ConfigError: The suite's file, or no cell at all could be run.
        BundleError: A bundle is damaged.
    """
    suite = load_suite(path)
    out.mkdir(parents=True, exist_ok=True)
    plan = make_plan(suite, out)
    failed = _run_cells(plan, suite, out)
    if len(failed) == len(plan.cells):
        raise ConfigError(
            f"{suite.name}: every cell failed; the first: {next(iter(failed.values()))}",
            remedy="correct what it names and repeat the command",
        )
    columns: list[tuple[Column, dict[str, NDArray[np.float64]]]] = []
    done = []
    for contest in track(plan.contests, "metrics"):
        cells = [cell for cell in contest.cells if cell.key not in failed]
        if cells:
            join_cells(contest.protocol, cells, out)
            columns += _columns(contest.protocol, out / contest.protocol.name)
            done.append(contest.protocol)
    told = _told(suite, plan, failed, columns, done)
    with whole_file(out / INDEX) as file:
        file.write(json.dumps(told, indent=1, allow_nan=False))
    return _lines(told), INCOMPLETE if failed or plan.refused else 0


def _run_cells(plan: Plan, suite: Suite, out: Path) -> dict[str, str]:
    """Key -> reason of the cells that failed."""
    missing = [cell for cell in plan.cells if not finished(out, cell)]
    done = run_apart(RunCell(out), missing, suite.workers)
    return {
        cell.key: reason
        for cell, reason in track(done, "cells", total=len(missing))
        if reason is not None
    }


def _columns(
    protocol: Protocol, folder: Path
) -> list[tuple[Column, dict[str, NDArray[np.float64]]]]:
    """The headline's columns: model -> its value, then its value in each draw."""
    headline = protocol.task.headlines[0]
    columns: dict[str, Column] = {}
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for one in headline_estimates(protocol, folder, headline):
        name = one.measure.name
        columns[name] = Column(
            protocol=protocol.name,
            domain=protocol.domain,
            metric=headline,
            name=name,
            low_is_better=one.measure.low_is_better,
        )
        value = np.concatenate([[one.spread.value], one.spread.draws_R])
        values.setdefault(name, {})[one.model] = value
    return [(column, values[name]) for name, column in columns.items()]


def headline_estimates(protocol: Protocol, folder: Path, headline: str) -> list[Estimate]:
    """The models' estimates of one metric, on the draws that all metrics of the protocol see."""
    # Patients are counted over all rows, controls among them: else the draws would be others.
    table, patients = clustered(pl.read_parquet(folder / PREDICTED))
    own = table.filter(~pl.col("control"))
    found = found_measures(own, patients, measures_in(protocol, folder))
    heads = {key: m for key, (m, _, _) in found.items() if m.metric == headline}
    members = {(key[0], *what, key[3]) for key, m in heads.items() for what in m.members}
    asked = {key: entry for key, entry in found.items() if key in heads or key in members}
    bootstrap = protocol.bootstrap
    estimates = estimate(asked, patients, bootstrap.draws, bootstrap.seed)
    return [one for one in estimates if one.measure.metric == headline]


def _told(
    suite: Suite, plan: Plan, failed: Mapping[str, str], columns: Any, done: list[Protocol]
) -> dict[str, Any]:
    digests = [protocol.digest for protocol in done]
    return {
        "medvlp": __version__,
        "suite": suite.name,
        "version": suite.version,
        "digest": digest_plain([suite.name, suite.version, digests]),
        "columns": [dataclasses.asdict(column) for column, _ in columns],
        "ranks": mean_ranks(columns, min(p.bootstrap.confidence for p in done)),
        "cells": [_cell(cell, failed.get(cell.key)) for cell in plan.cells],
        "refused": [{"protocol": name, "reason": reason} for name, reason in plan.refused],
    }


def _cell(cell: Cell, reason: str | None) -> dict[str, Any]:
    state = {"state": "done"} if reason is None else {"state": "failed", "reason": reason}
    return {"protocol": cell.protocol, "model": cell.model, "key": cell.key, **state}


def _lines(told: Mapping[str, Any]) -> str:
    bad = [cell for cell in told["cells"] if cell["state"] == "failed"]
    lines = [f"{len(told['cells']) - len(bad)} of {len(told['cells'])} cells are done"]
    lines += [f"failed: {c['protocol']} × {c['model']}: {c['reason']}" for c in bad]
    lines += [f"refused: {entry['protocol']}: {entry['reason']}" for entry in told["refused"]]
    lines += [
        f"{row['model']:<24} mean rank {_interval(row)} over {row['columns']} columns"
        for row in told["ranks"]
    ]
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    if row["rank"] is None:
        return "undefined"
    if row["low"] is None:
        return f"{row['rank']:.2f}"
    return f"{row['rank']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
