"""One protocol, several bundles: predictions first, then metrics from the predictions alone."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from medvlp import __version__
from medvlp.config import dump_config, plain
from medvlp.data.manifest import open_all
from medvlp.digest import digest_file, digest_plain
from medvlp.errors import InputError
from medvlp.evaluate.controls.table import told_controls
from medvlp.evaluate.examples import draw_examples
from medvlp.evaluate.leakage.gate import inspect_leaks
from medvlp.evaluate.leakage.leak import Inspected
from medvlp.evaluate.metrics.estimate import Measures, Row, plain_rows
from medvlp.evaluate.metrics.summary import Summary, summarise
from medvlp.evaluate.predict import Predicted, Scorer, Study, open_scorers
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.protocol import Protocol, load_protocol
from medvlp.plain_files import read_json
from medvlp.train.phantom_data import phantom_manifest

PHANTOM_SPLIT = ("split.fractions={train: 0.3, valid: 0.0, test: 0.7}",)
"""A protocol's own phantom is there to be tested on; training patients serve the controls."""


def evaluate_protocol(
    protocol_path: Path, bundles: Sequence[Path], out: Path, overrides: Sequence[str]
) -> str:
    """Evaluate `bundles` and write ``OUT/<protocol>/``, all of it or nothing.

    An earlier evaluation of the same protocol there is replaced.

    Args:
        protocol_path: The protocol's YAML.
        bundles: Bundle folders: models, and controls that were trained as such.
        out: The predictions folder.
        overrides: Such as ``data.manifests=[mine]``.

    Returns:
        A line a model for the terminal, and where the predictions are.

    Raises:
        ConfigError: The protocol, or what it asks of the manifests.
        BundleError: A bundle that is damaged or of another domain.
        InputError: No bundle is named, or a sample cannot be read any more.
        LeakError: What is evaluated is known already, and the protocol does not allow it.
    """
    if not bundles:
        raise InputError("no bundle is named", remedy="give --bundle RUN/bundle, once or more")
    protocol = load_protocol(protocol_path, overrides)
    scorers = open_scorers(bundles, protocol.domain, protocol.data.cache)
    study = Study(
        protocol=protocol.name,
        domain=protocol.domain,
        manifests=tuple(open_all(_manifests(protocol, out))),
        split=protocol.data.split,
        seed=protocol.seed,
    )
    inspected = inspect_leaks(study, protocol.task, protocol.leakage, scorers, bundles)
    with _staged(out, protocol.name) as folder:
        predicted: Predicted = protocol.task.predict(study, scorers)
        predicted.rows.write_parquet(folder / "predictions.parquet")
        for name, table in predicted.beside.items():
            table.write_parquet(folder / f"{name}.parquet")
        dump_config(protocol, folder / "protocol.yaml")
        _write_json(folder / "bundles.json", [_told(s, predicted) for s in scorers])
        models = [scorer for scorer in scorers if scorer.control is None]
        if models and predicted.items:
            draw_examples(models[0], predicted, folder / "examples")
        # From the file that was written: whoever reads it later gets these same numbers.
        found = compute_metrics(protocol, folder)
        told = _metrics(protocol, study, predicted, found, folder) | inspected.plain()
        _write_json(folder / "metrics.json", told)
    return _lines(protocol, found.rows, out / protocol.name, inspected)


def _manifests(protocol: Protocol, out: Path) -> tuple[Path, ...]:
    phantom = protocol.data.phantom
    if phantom is None:
        return protocol.data.manifests
    digest = digest_plain({"domain": protocol.domain, "phantom": plain(phantom)})
    folder = out / "phantom" / f"{protocol.domain}-{digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return (phantom_manifest(protocol.domain, phantom, folder, PHANTOM_SPLIT),)


def compute_metrics(protocol: Protocol, folder: Path) -> Summary:
    """Metrics from ``predictions.parquet``, the tables beside it and ``bundles.json``."""
    told = read_json(folder / "bundles.json")
    thresholds = {bundle["name"]: bundle["thresholds"] for bundle in told}
    beside = {
        path.stem: pl.read_parquet(path)
        for path in sorted(folder.glob("*.parquet"))
        if path.stem != "predictions"
    }

    def measures(model: str, seed: int) -> Measures:
        own = (pl.col("model") == model) & (pl.col("seed") == seed)
        tables = {name: table.filter(own) for name, table in beside.items()}
        found: Measures = protocol.task.measures(
            Evidence(thresholds=thresholds.get(model, {}), beside=tables, stated=protocol.stated)
        )
        return found

    return summarise(
        pl.read_parquet(folder / "predictions.parquet"),
        measures,
        protocol.task.headlines,
        domain=protocol.domain,
        bootstrap=protocol.bootstrap,
    )


def _told(scorer: Scorer, predicted: Predicted) -> dict[str, Any]:
    return {
        "name": scorer.name,
        "digest": scorer.bundle.digest,
        "control": scorer.control,
        "thresholds": dict(predicted.thresholds.get(scorer.name, {})),
        "calibration": plain(scorer.bundle.info.calibration),
        "contract": scorer.bundle.info.contract,
        "provenance": scorer.bundle.info.provenance,
    }


def _metrics(
    protocol: Protocol, study: Study, predicted: Predicted, found: Summary, folder: Path
) -> dict[str, Any]:
    return {
        "medvlp": __version__,
        "domain": protocol.domain,
        "protocol": protocol.name,
        "version": protocol.version,
        "digest": protocol.digest,
        "manifests": [manifest.digest for manifest in study.manifests],
        "counts": predicted.counts,
        "controls": told_controls(protocol.task.kind, predicted.rows["model"].unique()),
        **told_rows(found, folder),
    }


def told_rows(found: Summary, folder: Path) -> dict[str, Any]:
    """What `metrics.json` says of the metrics and of the files beside it, by name and digest."""
    beside = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "metrics.json")
    return {
        "artefacts": {str(p.relative_to(folder)): digest_file(p) for p in beside},
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


def _lines(protocol: Protocol, rows: Sequence[Row], folder: Path, inspected: Inspected) -> str:
    chosen = [r for r in rows if r.metric in protocol.task.headlines]
    lines = [
        f"{r.model:<24} {r.metric} {r.name}: {_interval(r)}  n={r.n}{inspected.mark(r.model)}"
        for r in chosen
    ]
    return "\n".join([*lines, f"Predictions: {folder}"])


def _interval(row: Row) -> str:
    if row.value is None:
        return "undefined"
    if row.low is None or row.high is None:
        return f"{row.value:.3f}"
    return f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, allow_nan=False), encoding="utf-8")


@contextmanager
def _staged(out: Path, name: str) -> Iterator[Path]:
    """A folder that becomes ``OUT/name`` when everything in it is written."""
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out))
    folder, old = staging / "new", staging / "old"
    folder.mkdir()
    try:
        yield folder
        if (out / name).exists():
            (out / name).rename(old)
        folder.rename(out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
