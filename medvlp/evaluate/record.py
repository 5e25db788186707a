"""A predictions folder's own record, and `metrics.json` made of its files and of nothing else.

`study.json` says what is no metric: which protocol, data and code, what was left out, and the
digest of every file. With it, `metrics.json` can be made again for ever, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.digest import digest_file
from medvlp.errors import ConfigError, InputError
from medvlp.evaluate.brought.ranked import ranked_only
from medvlp.evaluate.metrics.estimate import Measures, OfModel, Row, plain_rows
from medvlp.evaluate.metrics.summary import Summary, summarise
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.protocol import Protocol
from medvlp.plain_files import read_json

STUDY = "study.json"
METRICS = "metrics.json"
PREDICTED = "predictions.parquet"
_MADE_LATER = frozenset({STUDY, METRICS, "report.html", "report.json"})
_AGAIN = "run medvlp evaluate for this protocol again"


def write_study(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `facts` and the digests of the files that lie in `folder` now, as ``study.json``.

    Args:
        folder: A predictions folder in which everything is written but the metrics.
        facts: Plain values; an older list of files among them is replaced.
    """
    beside = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in _MADE_LATER
    )
    files = {str(path.relative_to(folder)): digest_file(path) for path in beside}
    (folder / STUDY).write_text(_text({**facts, "files": files}), encoding="utf-8")


def read_study(folder: Path) -> dict[str, Any]:
    """The facts of a predictions folder, after every file's digest has been found to hold.

    Raises:
        InputError: There is no record, or a file was changed, is missing, or was added.
    """
    try:
        study = read_json(folder / STUDY)
        files: dict[str, str] = dict(study["files"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder.name}: {STUDY} is missing or damaged", remedy=_AGAIN) from error
    changed = [name for name, digest in files.items() if not _holds(folder, name, digest)]
    added = {path.name for path in folder.glob("*.parquet")} - set(files)
    for names, what in ((changed, "was changed or is missing"), (sorted(added), "was added")):
        if names:
            raise InputError(f"{folder.name}/{names[0]} {what} since the evaluation", remedy=_AGAIN)
    return dict(study)


def _holds(folder: Path, name: str, digest: str) -> bool:
    path = folder / name
    inside = path.resolve().is_relative_to(folder.resolve())
    return inside and path.is_file() and digest_file(path) == digest


def metrics_of(protocol: Protocol, folder: Path) -> tuple[list[Row], str]:
    """The metric rows of a predictions folder, and the text of its ``metrics.json``.

    Args:
        protocol: The folder's ``protocol.yaml``, loaded.
        folder: Where everything but the metrics is written.

    Raises:
        InputError: See `read_study`.
    """
    study = read_study(folder)
    found = compute_metrics(protocol, folder)
    artefacts = {**study.pop("files"), STUDY: digest_file(folder / STUDY)}
    values = {**study, "artefacts": dict(sorted(artefacts.items())), **computed(found)}
    return found.rows, _text(values)


def computed(found: Summary) -> dict[str, Any]:
    """What `metrics.json` says beside the facts, each entry from the predictions alone."""
    return {
        "rows": plain_rows(found.rows),
        "comparisons": plain_rows(found.comparisons),
        "ranks": plain_rows(found.ranks),
        "subgroups": plain_rows(found.subgroups),
        "undefined_draws": [
            {"model": r.model, "metric": r.metric, "name": r.name, "draws": r.undefined_draws}
            for r in found.rows
            if r.undefined_draws
        ],
    }


def compute_metrics(protocol: Protocol, folder: Path) -> Summary:
    """Metrics from ``predictions.parquet``, the tables beside it and ``bundles.json``."""
    return summarise(
        pl.read_parquet(folder / PREDICTED),
        measures_in(protocol, folder),
        protocol.task.headlines,
        domain=protocol.domain,
        bootstrap=protocol.bootstrap,
    )


def measures_in(protocol: Protocol, folder: Path) -> OfModel:
    """(model, seed) -> the task's measures, with that model's thresholds and tables beside."""
    told = {bundle["name"]: bundle for bundle in read_json(folder / "bundles.json")}
    beside = {
        path.stem: pl.read_parquet(path)
        for path in sorted(folder.glob("*.parquet"))
        if path.name != PREDICTED
    }

    def measures(model: str, seed: int) -> Measures:
        own = (pl.col("model") == model) & (pl.col("seed") == seed)
        tables = {name: table.filter(own) for name, table in beside.items()}
        about = told.get(model, {})
        found: Measures = protocol.task.measures(
            Evidence(
                thresholds=about.get("thresholds", {}),
                operating=about.get("operating", {}),
                beside=tables,
                stated=protocol.stated,
            )
        )
        return ranked_only(found) if about.get("scale") == "ranks" else found

    return measures


def _text(values: Any) -> str:
    return json.dumps(values, indent=1, allow_nan=False)
