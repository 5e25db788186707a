"""One protocol, several bundles: predictions first, then metrics from the predictions alone."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlp import __version__
from medvlp.config import dump_config, plain
from medvlp.data.manifest import Shown, open_all
from medvlp.data.proxies import open_proxies
from medvlp.data.readers import how_read
from medvlp.digest import digest_plain
from medvlp.errors import InputError
from medvlp.evaluate.brought.join import join_brought
from medvlp.evaluate.brought.join import told as told_table
from medvlp.evaluate.brought.table import Brought
from medvlp.evaluate.controls.table import told_controls
from medvlp.evaluate.environment import code_digest, environment
from medvlp.evaluate.examples import draw_examples
from medvlp.evaluate.leakage.gate import inspect_leaks
from medvlp.evaluate.leakage.leak import Leaks, mark
from medvlp.evaluate.metrics.estimate import Row
from medvlp.evaluate.predict import Predicted, Scorer, Study, UndecodableError
from medvlp.evaluate.protocol import TRAINED, Protocol, load_protocol
from medvlp.evaluate.record import METRICS, PREDICTED, STUDY, metrics_of, write_study
from medvlp.evaluate.scorers import open_scorers
from medvlp.train.phantom_data import phantom_manifest

PHANTOM_SPLIT = ("split.fractions={train: 0.3, valid: 0.0, test: 0.7}",)
"""A protocol's own phantom is there to be tested on; training patients serve the controls."""

TRAINED_SPLIT = ("split.fractions={train: 0.5, valid: 0.15, test: 0.35}",)
"""That of a task which trains itself and chooses on validation patients."""


def evaluate_protocol(
    protocol_path: Path,
    bundles: Sequence[Path],
    out: Path,
    overrides: Sequence[str],
    tables: Sequence[Brought] = (),
) -> str:
    """Evaluate `bundles` and write ``OUT/<protocol>/``, all of it or nothing.

    An earlier evaluation of the same protocol there is replaced.

    Args:
        protocol_path: The protocol's YAML.
        bundles: Bundle folders: models, and controls that were trained as such.
        out: The predictions folder.
        overrides: Such as ``data.manifests=[mine]``.
        tables: Predictions that others made.

    Returns:
        A line a model for the terminal, and where the predictions are.

    Raises:
        ConfigError: The protocol, or what it asks of the manifests.
        BundleError: A bundle that is damaged or of another domain.
        LeakError: What is evaluated is known already, and the protocol does not allow it.
        InputError: Nothing is named to evaluate, a sample cannot be read any more, or a table does
            not fit the protocol.
    """
    if not bundles and not tables:
        raise InputError("no bundle is named", remedy="give --bundle RUN/bundle, once or more")
    protocol = load_protocol(protocol_path, overrides)
    scorers = scorers_of(protocol, bundles)
    study = open_study(protocol, out)
    with staged(out, protocol.name) as folder:
        leaks = predict_into(folder, protocol, study, scorers, bundles, tables)
        # From the files that were written: whoever reads them later gets these same numbers.
        rows, text = metrics_of(protocol, folder)
        (folder / METRICS).write_text(text, encoding="utf-8")
    return told_lines(protocol, rows, out / protocol.name, leaks)


def scorers_of(protocol: Protocol, bundles: Sequence[Path]) -> list[Scorer]:
    """The bundles, opened to read what the protocol's data name.

    Raises:
        ConfigError: The domain has no such proxies.
        BundleError: See `open_scorers`.
    """
    data = protocol.data
    proxies = open_proxies(protocol.domain, data.proxies)
    return open_scorers(bundles, protocol.domain, data.cache, proxies)


def open_study(protocol: Protocol, out: Path) -> Study:
    """The manifests of a protocol, opened; its phantom is made under `out` if it has one.

    Raises:
        ManifestError: A manifest is damaged, or a patient stands in two splits.
    """
    return Study(
        protocol=protocol.name,
        domain=protocol.domain,
        manifests=tuple(open_all(_manifests(protocol, out))),
        split=protocol.data.split,
        seed=protocol.seed,
    )


def _manifests(protocol: Protocol, out: Path) -> tuple[Path, ...]:
    phantom = protocol.data.phantom
    if phantom is None:
        return protocol.data.manifests
    split = TRAINED_SPLIT if protocol.task.kind in TRAINED else PHANTOM_SPLIT
    told = {"domain": protocol.domain, "phantom": plain(phantom), "split": split}
    digest = digest_plain(told)
    folder = out / "phantom" / f"{protocol.domain}-{digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return (phantom_manifest(protocol.domain, phantom, folder, split),)


def predict_into(
    folder: Path,
    protocol: Protocol,
    study: Study,
    scorers: Sequence[Scorer],
    bundles: Sequence[Path],
    tables: Sequence[Brought] = (),
) -> Leaks:
    """Fill an empty folder with everything that an evaluation writes, but the metrics.

    Args:
        folder: Empty.
        protocol: What is evaluated.
        study: On what.
        scorers: The models.
        bundles: Their folders, in the same order.
        tables: Predictions that others made.

    Returns:
        What leaks and was let through, as `metrics.json` says it.

    Raises:
        LeakError: What is evaluated is known already, and the protocol does not allow it.
    """
    inspected = inspect_leaks(study, protocol.task, protocol.leakage, scorers, bundles).plain()
    predicted = _predict(protocol, study, scorers)
    if tables:
        predicted = join_brought(study, predicted, tables)
    predicted.rows.write_parquet(folder / PREDICTED)
    for name, table in predicted.beside.items():
        table.write_parquet(folder / f"{name}.parquet")
    dump_config(protocol, folder / "protocol.yaml")
    told = [*(_told(s, predicted) for s in scorers), *(told_table(t) for t in tables)]
    (folder / "bundles.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    models = [scorer for scorer in scorers if scorer.control is None]
    if models and predicted.items:
        draw_examples(models[0], predicted, folder / "examples")
    controls = told_controls(protocol.task.kind, predicted.rows["model"].unique())
    reading = _reading(study, scorers, predicted)
    facts = {**_facts(protocol, study, predicted, reading), "controls": controls, **inspected}
    write_study(folder, facts)
    leaks: Leaks = inspected["leaks"]
    return leaks


def _predict(protocol: Protocol, study: Study, scorers: Sequence[Scorer]) -> Predicted:
    """What the task finds, less the spans of which a frame does not decode.

    They are left out for every model and control alike, whichever of them wanted the frame, so that
    all are asked the same.

    Raises:
        UndecodableError: The task asks for a span that was left out.
    """
    lost: frozenset[Shown] = frozenset()
    asked = study
    while True:
        try:
            found: Predicted = protocol.task.predict(asked, scorers)
        except UndecodableError as error:
            if error.spans <= lost:
                raise
            lost |= error.spans
            less = tuple(manifest.without(lost) for manifest in study.manifests)
            asked = replace(study, manifests=less)
        else:
            told = {"spans_that_do_not_decode": len(lost)} if lost else {}
            return replace(found, counts={**found.counts, **told})


def _reading(study: Study, scorers: Sequence[Scorer], predicted: Predicted) -> dict[str, Any]:
    """What read the samples; all bundles are of one domain and read by one set of proxies."""
    samples = predicted.rows["sample"].unique()
    if not scorers:
        return how_read(study.manifests, samples)
    first = scorers[0]
    return how_read(study.manifests, samples, first.bundle.preprocess, first.proxies)


def _facts(
    protocol: Protocol, study: Study, predicted: Predicted, reading: dict[str, Any]
) -> dict[str, Any]:
    """What is known of an evaluation and is no metric; it stands in `metrics.json`, too."""
    return {
        "medvlp": __version__,
        "code": code_digest(),
        "environment": environment(),
        "domain": protocol.domain,
        "protocol": protocol.name,
        "version": protocol.version,
        "digest": protocol.digest,
        "manifests": [manifest.digest for manifest in study.manifests],
        "reading": reading,
        "counts": predicted.counts,
    }


def _told(scorer: Scorer, predicted: Predicted) -> dict[str, Any]:
    return {
        "name": scorer.name,
        "digest": scorer.bundle.digest,
        "control": scorer.control,
        "scale": "probability",
        "thresholds": dict(predicted.thresholds.get(scorer.name, {})),
        "operating": dict(predicted.operating.get(scorer.name, {})),
        "calibration": plain(scorer.bundle.info.calibration),
        "contract": scorer.bundle.info.contract,
        "provenance": scorer.bundle.info.provenance,
    }


def told_lines(protocol: Protocol, rows: Sequence[Row], folder: Path, leaks: Leaks) -> str:
    """A line a model for the terminal, with what leaks beside it, and where the predictions are."""
    chosen = [r for r in rows if r.metric in protocol.task.headlines]
    lines = [
        f"{r.model:<24} {r.metric} {r.name}: {_interval(r)}  n={r.n}{mark(leaks, r.model)}"
        for r in chosen
    ]
    return "\n".join([*lines, f"Predictions: {folder}"])


def _interval(row: Row) -> str:
    if row.value is None:
        return "undefined"
    if row.low is None or row.high is None:
        return f"{row.value:.3f}"
    return f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"


_OURS = frozenset({STUDY, METRICS, PREDICTED, "protocol.yaml"})
"""Files of which an evaluation has one even if it was damaged."""


@contextmanager
def staged(out: Path, name: str) -> Iterator[Path]:
    """A folder that becomes ``OUT/name`` when everything in it is written.

    Raises:
        InputError: What is there is no evaluation, and would be deleted.
    """
    place = out / name
    found = {path.name for path in place.iterdir()} if place.is_dir() else set()
    if place.exists() and (found or not place.is_dir()) and _OURS.isdisjoint(found):
        raise InputError(
            f"{name} exists in the output folder and holds no evaluation",
            remedy="name another --out, or move away what is there",
        )
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
