"""Cards: whom the data show, what leaks were looked for, and how the run was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from medvlp.evaluate.controls.table import ROW
from medvlp.evaluate.predictions import SUBGROUPS
from medvlp.report import words
from medvlp.report.folder import ProtocolFolder


def data_card(folder: ProtocolFolder) -> dict[str, Any]:
    """Patients, samples and prevalence, counted on one model's rows."""
    frame = folder.predictions
    one = frame.filter(pl.col("model") == frame["model"][0])
    labels = one.group_by("name", maintain_order=True).agg(
        n=pl.len(), positives=pl.col("label").sum(), patients=pl.col("patient").n_unique()
    )
    counted = folder.task in words.FINDINGS or folder.task in ("phases", "phase-probe")
    return {
        "patients": one["patient"].n_unique(),
        "samples": one["sample"].n_unique(),
        "labels": labels.to_dicts() if counted else [],
        "groups": {column: _counts(one, column) for column in SUBGROUPS},
    }


def _counts(frame: pl.DataFrame, column: str) -> list[tuple[str, int]]:
    """Samples by the values of a subgroup column; empty if it is unknown of all."""
    counted = (
        frame.unique("sample").group_by(pl.col(column).fill_null("unknown")).len().sort(column)
    )
    pairs = [(str(value), int(count)) for value, count in counted.iter_rows()]
    return [] if [value for value, _ in pairs] == ["unknown"] else pairs


def leakage_card(folder: ProtocolFolder) -> dict[str, Any]:
    """Leaks, what could not be looked at, and how the controls fared against what is expected."""
    metrics = folder.metrics
    return {
        "looked": "leaks" in metrics,
        "leaks": [leak | {"between": " and ".join(leak["between"])}
                  for leak in metrics.get("leaks", [])],
        "unchecked": metrics.get("leaks_unchecked", []),
        "absent": _absent(metrics.get("controls", {})),
    }  # fmt: skip


def _absent(controls: Mapping[str, str]) -> dict[str, str]:
    """The controls that have no row, with the reason why."""
    return {name: why for name, why in controls.items() if why != ROW}


def run_card(folder: ProtocolFolder) -> dict[str, Any]:
    """Everything that a repetition needs: protocol, code, weights, data, environment, seeds."""
    metrics, protocol = folder.metrics, folder.protocol
    bootstrap = protocol["bootstrap"]
    facts = {
        "Protocol": f"{metrics['protocol']}, version {metrics['version']}",
        "Protocol digest": metrics["digest"],
        "medvlp": metrics.get("medvlp", "–"),
        "Code digest": metrics.get("code", "–"),
        "Seed of the protocol": protocol.get("seed", 0),
        "Draws of patients": f"{bootstrap['draws']}, seed {bootstrap['seed']}",
        "Confidence": f"{100 * bootstrap['confidence']:g} %",
    }
    reading = metrics.get("reading", {})
    if "readers" in reading:
        facts["Read by"] = ", ".join(f"{name} ({n})" for name, n in reading["readers"].items())
    if "moments" in reading:
        facts["Frame of a moment"] = reading["moments"]
    data = {f"Manifest {i + 1}": d for i, d in enumerate(metrics.get("manifests", []))}
    return {
        "facts": {name: str(value) for name, value in (facts | data).items()},
        "environment": metrics.get("environment", {}),
        "bundles": folder.bundles,
        "files": metrics.get("artefacts", {}),
    }
