"""One self-contained page for people and one JSON for programs, from predictions alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from medvlp import __version__
from medvlp.domain import domains
from medvlp.errors import InputError
from medvlp.plain_files import own_file
from medvlp.progress import track
from medvlp.report import figures, words
from medvlp.report.folder import ProtocolFolder, find_protocols
from medvlp.report.page import render, write_text

HIDDEN = ("prevalence",)
"""Metrics that are in the JSON and in the data card, not in the tables."""


def build_report(folder: Path) -> Path:
    """Write `report.html` and `report.json` into `folder`.

    Args:
        folder: A protocol's folder or a folder of such.

    Returns:
        The page.

    Raises:
        InputError: No evaluated protocol is there, or one of its files is damaged.
    """
    found = find_protocols(folder)
    parts = [_part(protocol, i) for i, protocol in enumerate(track(found, "report"))]
    page = render("report.html.j2", parts=parts, controls=words.CONTROLS, reading=_reading(found))
    write_text(folder / "report.json", json.dumps(_json(found), indent=1))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _json(found: Sequence[ProtocolFolder]) -> dict[str, Any]:
    return {
        "medvlp": __version__,
        "rows": [row for protocol in found for row in protocol.metrics["rows"]],
        "protocols": [
            {
                key: value
                for key, value in protocol.metrics.items()
                if key not in ("rows", "artefacts")
            }
            | {"bundles": protocol.bundles}
            for protocol in found
        ],
    }


def _reading(found: Sequence[ProtocolFolder]) -> list[str]:
    tasks = dict.fromkeys(protocol.task for protocol in found)
    return [line for task in tasks for line in words.READING.get(task, ())]


def _part(folder: ProtocolFolder, index: int) -> dict[str, Any]:
    """Everything the template shows of one protocol."""
    domain = str(folder.metrics["domain"])
    installed = domains().get(domain)
    return {
        "id": f"part{index}",
        "name": folder.metrics["protocol"],
        "domain": installed.title if installed else domain,
        "task": words.TASKS.get(folder.task, folder.task),
        "metrics": folder.metrics,
        "protocol": folder.protocol,
        "bundles": folder.bundles,
        "summary": _summary(folder),
        "tables": _tables(folder),
        "card": _card(folder),
        "figures": _figures(folder, f"f{index}"),
        "examples": [_example(folder, entry) for entry in folder.examples],
    }


def _summary(folder: ProtocolFolder) -> dict[str, Any]:
    headline = words.HEADLINES.get(folder.task)
    rows = folder.metrics["rows"]
    metric = headline.metric if headline else (rows[0]["metric"] if rows else "")
    shown = folder.rows(metric)
    return {
        "title": headline.title if headline else words.title(metric),
        "chance": headline.chance if headline else None,
        "rows": [row | {"bar": _bar(row)} for row in shown],
        "named": len({row["name"] for row in shown}) > 1,
    }


def _bar(row: dict[str, Any]) -> dict[str, float] | None:
    """Where the interval lies on a scale from 0 to 100."""
    if row["value"] is None:
        return None
    low = row["value"] if row["low"] is None else row["low"]
    high = row["value"] if row["high"] is None else row["high"]
    return {key: round(100 * value, 1) for key, value in
            (("value", row["value"]), ("low", low), ("high", high))}  # fmt: skip


def _tables(folder: ProtocolFolder) -> list[dict[str, Any]]:
    """One table a metric: labels down, models across."""
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


def _card(folder: ProtocolFolder) -> dict[str, Any]:
    """Patients, samples and prevalence, counted on one model's rows."""
    frame = folder.predictions
    one = frame.filter(pl.col("model") == frame["model"][0])
    labels = one.group_by("name", maintain_order=True).agg(
        n=pl.len(), positives=pl.col("label").sum(), patients=pl.col("patient").n_unique()
    )
    return {
        "patients": one["patient"].n_unique(),
        "samples": one["sample"].n_unique(),
        "labels": labels.to_dicts() if folder.task not in ("retrieval", "vqa") else [],
        "groups": {column: _counts(one, column) for column in ("sex", "age_band", "view", "site")},
    }


def _counts(frame: pl.DataFrame, column: str) -> list[tuple[str, int]]:
    """Samples by the values of a subgroup column; empty if it is unknown of all."""
    counted = (
        frame.unique("sample").group_by(pl.col(column).fill_null("unknown")).len().sort(column)
    )
    pairs = [(str(value), int(count)) for value, count in counted.iter_rows()]
    return [] if [value for value, _ in pairs] == ["unknown"] else pairs


def _figures(folder: ProtocolFolder, name: str) -> list[dict[str, str]]:
    """Title, what it shows in words, and the SVG."""
    drawn: list[tuple[str, str, str | None]] = []
    if folder.task == "zero-shot":
        drawn = [
            (
                "AUROC of each finding",
                "Dot: estimate; line: interval over patients; dotted: a coin toss.",
                figures.forest(folder, "auroc", 0.5, f"{name}a"),
            ),
            (
                "ROC curves",
                "The further to the upper left, the better; dotted: a coin toss. Findings "
                "present and absent at least once, at most twelve.",
                figures.roc(folder, f"{name}b"),
            ),
            (
                "Reliability",
                "On the dotted line, a stated probability comes true as often as it says; the "
                "larger a dot, the more predictions.",
                figures.reliability(folder, f"{name}c"),
            ),
        ]
    if folder.task == "phases":
        drawn = [
            (
                "F1 of each phase",
                "Dot: estimate; line: interval over patients.",
                figures.forest(folder, "f1", None, f"{name}a"),
            )
        ]
        drawn += [
            (
                f"Confusion of phases: {model}",
                "Each row is a true phase, in per cent of its windows; the diagonal is right.",
                svg,
            )
            for model, svg in figures.confusion(folder, f"{name}d")
        ]
    return [{"title": t, "words": w, "svg": svg} for t, w, svg in drawn if svg is not None]


def _example(folder: ProtocolFolder, entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {key: _picture(folder.path / "examples", str(entry[key]))
                    for key in ("picture", "overlay")}  # fmt: skip


def _picture(examples: Path, name: str) -> str:
    path = own_file(examples, name)
    if path is None:
        raise InputError(
            f"{examples.parent.name}/examples: a picture is missing, or no file of the folder",
            remedy="run medvlp evaluate for this protocol again",
        )
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:image/png;base64,{data}"
