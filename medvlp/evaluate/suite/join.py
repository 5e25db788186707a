"""Cells of one protocol together: one predictions folder, metrics on the same draws for all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.errors import InputError
from medvlp.evaluate.controls.table import told_controls
from medvlp.evaluate.protocol import Protocol
from medvlp.evaluate.record import METRICS, PREDICTED, metrics_of, read_study, write_study
from medvlp.evaluate.run import staged
from medvlp.evaluate.suite.cells import place
from medvlp.evaluate.suite.plan import Cell
from medvlp.plain_files import read_json

OF_MODELS = ("models_", "maps_by_", "pairs_unknown_to_heads")
"""Beginnings of counts over a cell's own model; all others are over the data, equal in each."""


def join_cells(protocol: Protocol, cells: Sequence[Cell], out: Path) -> None:
    """Write ``OUT/<protocol>/`` from finished cells, unless it holds these very cells already.

    The rows are those of a single evaluation of all bundles: each bundle's own, then the controls
    that are computed, which are the same in every cell.
    """
    held = [{"model": cell.model, "key": cell.key} for cell in cells]
    if _up_to_date(out / protocol.name, held):
        return
    folders = [place(out, cell) for cell in cells]
    models = [cell.model for cell in cells]
    with staged(out, protocol.name) as folder:
        for name in sorted({path.name for place in folders for path in place.glob("*.parquet")}):
            tables = [pl.read_parquet(place / name) for place in folders if (place / name).exists()]
            joined(tables, models).write_parquet(folder / name)
        shutil.copy(folders[0] / "protocol.yaml", folder / "protocol.yaml")
        told = _by_name(entry for place in folders for entry in read_json(place / "bundles.json"))
        (folder / "bundles.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        pictures = [place / "examples" for place in folders if (place / "examples").is_dir()]
        if pictures:
            shutil.copytree(pictures[0], folder / "examples")
        controls = told_controls(
            protocol.task.kind, pl.read_parquet(folder / PREDICTED)["model"].unique()
        )
        facts = _facts([read_study(place) for place in folders], held)
        write_study(folder, {**facts, "controls": controls})
        _, text = metrics_of(protocol, folder)
        (folder / METRICS).write_text(text, encoding="utf-8")


def joined(tables: Sequence[pl.DataFrame], models: Sequence[str]) -> pl.DataFrame:
    """Each table's rows of `models` in turn, then the other models', each from the first table."""
    own = [table.filter(pl.col("model").is_in(models)) for table in tables]
    seen = set(models)
    rest = []
    for table in tables:
        rest.append(table.filter(~pl.col("model").is_in(list(seen))))
        seen |= set(table["model"].unique())
    return pl.concat([*own, *rest])


def _by_name(entries: Any) -> list[dict[str, Any]]:
    return list({entry["name"]: entry for entry in reversed(list(entries))}.values())[::-1]


def _facts(studies: Sequence[dict[str, Any]], held: Sequence[dict[str, str]]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for study in studies:
        for name, count in study["counts"].items():
            if name.startswith(OF_MODELS):
                counts[name] = counts.get(name, 0) + count
            else:
                counts.setdefault(name, count)
    return {
        **studies[0],
        "counts": counts,
        "leaks": _distinct(leak for study in studies for leak in study["leaks"]),
        "leaks_unchecked": _distinct(why for study in studies for why in study["leaks_unchecked"]),
        "cells": list(held),
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept


def _up_to_date(folder: Path, held: Sequence[dict[str, str]]) -> bool:
    try:
        study = read_study(folder)
    except InputError:
        return False
    whole = (folder / PREDICTED).is_file() and (folder / METRICS).is_file()
    return whole and study.get("cells") == list(held)
