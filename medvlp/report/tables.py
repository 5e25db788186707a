"""All numbers: one table a metric, labels down, models across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvlp.report import words
from medvlp.report.folder import ProtocolFolder

HIDDEN = ("prevalence",)
"""Metrics that are in the JSON and in the data card, not in the tables."""


def metric_tables(folder: ProtocolFolder) -> list[dict[str, Any]]:
    """One table a metric."""
    rows = folder.metrics["rows"]
    metrics = [m for m in dict.fromkeys(row["metric"] for row in rows) if m not in HIDDEN]
    models = list(
        dict.fromkeys(row["model"] for row in sorted(rows, key=lambda row: row["control"]))
    )
    return [
        {
            "metric": metric,
            "title": words.title(metric),
            "models": models,
            "lines": _lines([row for row in rows if row["metric"] == metric], models),
        }
        for metric in metrics
    ]


def _lines(rows: Sequence[dict[str, Any]], models: Sequence[str]) -> list[dict[str, Any]]:
    cell = {(row["name"], row["model"]): row for row in rows}
    names = dict.fromkeys(row["name"] for row in rows)
    return [
        {
            "name": name,
            "n": max(cell[name, m]["n"] for m in models if (name, m) in cell),
            "cells": [cell.get((name, model)) for model in models],
        }
        for name in names
    ]
