"""Robustness: one score an axis, over the axes that were evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvlp.report import words
from medvlp.report.figures.forest import forest
from medvlp.report.figures.style import colours
from medvlp.report.folder import ProtocolFolder


def robustness_page(found: Sequence[ProtocolFolder]) -> dict[str, Any] | None:
    """Models down, axes across; None if no protocol is about an axis."""
    folders = [folder for folder in found if folder.task in words.AXES]
    if not folders:
        return None
    rows = [_row(row, folder) for folder in folders for row in folder.rows(words.AXIS_METRIC)]
    models = list(dict.fromkeys(r["model"] for r in sorted(rows, key=lambda r: r["control"])))
    of = {model: colour for folder in folders for model, colour in colours(folder).items()}
    cell = {(row["model"], row["part"]): row for row in rows}
    return {
        "axes": [
            {
                "part": f.metrics["protocol"],
                "axis": f.task,
                "meaning": words.AXES[f.task],
                "cells": [cell.get((model, f.metrics["protocol"])) for model in models],
            }
            for f in folders
        ],
        "models": models,
        "missing": [axis for axis in words.AXES if axis not in {f.task for f in folders}],
        "svg": forest(rows, of, None, "robustness", by="axis"),
    }


def _row(row: dict[str, Any], folder: ProtocolFolder) -> dict[str, Any]:
    return row | {"part": folder.metrics["protocol"], "axis": words.AXES[folder.task]}
