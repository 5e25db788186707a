"""What studies of methods at one budget share: trainings, a suite of evaluations, one table.

A study trains every method with every seed from one configuration, evaluates all of them, and tells
each method's mean over the seeds, with the interval over patients, and its difference from another.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from medvlp.errors import MedvlpError
from medvlp.evaluate.metrics.comparison import difference
from medvlp.evaluate.metrics.estimate import Estimate
from medvlp.evaluate.metrics.intervals import interval
from medvlp.evaluate.metrics.resampling import Spread, mean_spread
from medvlp.evaluate.predictions import ALL
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.suite.processes import run_apart
from medvlp.evaluate.suite.run import headline_estimates
from medvlp.progress import track
from medvlp.train.fit import train_run

ROOT = Path(__file__).resolve().parents[1]


class Column(NamedTuple):
    """What a table tells of every method."""

    heading: str
    protocol: Path
    metric: str
    name: str = ALL


@dataclass(frozen=True)
class Training:
    """One method with one seed."""

    config: Path
    settings: tuple[str, ...]
    run: Path


@dataclass(frozen=True)
class Options:
    """What a study is asked for."""

    out: Path
    steps: int
    patients: int
    seeds: int
    workers: int
    methods: Mapping[str, tuple[str, ...]]
    """Method -> its changes of the budget."""

    @classmethod
    def read(
        cls, about: str | None, methods: Mapping[str, tuple[str, ...]], steps: int, patients: int
    ) -> Options:
        """From the command line; the study's folder is made.

        Args:
            about: What the command says of itself.
            methods: All there are.
            steps: Of a training, if none are asked for.
            patients: Of the phantom, likewise.
        """
        parser = argparse.ArgumentParser(description=about)
        parser.add_argument("out", type=Path)
        parser.add_argument("--steps", type=int, default=steps)
        parser.add_argument("--patients", type=int, default=patients)
        parser.add_argument("--seeds", type=int, default=3)
        parser.add_argument("--workers", type=int, default=2)
        parser.add_argument("--methods", nargs="+", choices=list(methods), default=list(methods))
        found = parser.parse_args()
        found.out.mkdir(parents=True, exist_ok=True)
        return cls(
            found.out.resolve(), found.steps, found.patients, found.seeds, found.workers,
            {name: methods[name] for name in found.methods},
        )  # fmt: skip

    def data(self, manifest: Path) -> tuple[str, str]:
        """The overrides by which trainings and evaluations read the same data."""
        return f"data.manifests=[{manifest}]", f"data.cache={self.out / 'cache'}"

    def budget(self) -> tuple[str, ...]:
        """The overrides that give every training its steps."""
        keys = ("steps", "valid_every", "save_every")
        return ("data.phantom=null", *(f"trainer.{key}={self.steps}" for key in keys))


def medvlp(*arguments: str | Path) -> None:
    """One command of the platform."""
    command = [sys.executable, "-m", "medvlp.cli", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=ROOT)


def manifest_of(options: Options, domain: str, kind: str, settings: Sequence[str]) -> Path:
    """The manifest of the study's phantom, which is written where it is not there yet.

    Args:
        options: Of the study.
        domain: The phantom's.
        kind: The source kind that reads it.
        settings: The phantom's.
    """
    archive, manifest = options.out / "archive", options.out / "manifest"
    if not manifest.exists():
        if not archive.exists():
            told = [word for setting in settings for word in ("--set", setting)]
            medvlp("phantom", domain, "--out", archive, "--n", str(options.patients), *told)
        medvlp("index", archive, "--kind", kind, "--config", archive / "index.yaml",
               "--set", "split.fractions={train: 0.6, valid: 0.1, test: 0.3}",
               "--out", manifest)  # fmt: skip
    return manifest


def trainings(
    out: Path, config: Path, common: Sequence[str], methods: Mapping[str, Sequence[str]], seeds: int
) -> list[Training]:
    """Seed by seed, so that a stopped study has whole seeds.

    Args:
        out: The study's folder.
        config: The budget.
        common: Changes of it for all.
        methods: Each one's own changes.
        seeds: How many.
    """
    return [
        Training(config, (*common, f"seed={seed}", *own), out / "runs" / f"{name}-{seed}")
        for seed in range(seeds)
        for name, own in methods.items()
    ]


def train_all(runs: Sequence[Training], workers: int) -> list[Path]:
    """Train what is not trained yet, or go on; the bundles that there are."""
    left = [one for one in runs if not (one.run / "bundle").exists()]
    for one, reason in track(run_apart(_train, left, workers), "trainings", len(left)):
        print(f"{one.run.name}: {reason or 'trained'}", flush=True)
    return [one.run / "bundle" for one in runs if (one.run / "bundle").exists()]


def _train(training: Training) -> str | None:
    try:
        train_run(training.config, training.settings, training.run)
    except MedvlpError as error:
        return str(error)
    return None


def evaluate(
    out: Path, name: str, protocols: Sequence[Path], bundles: Sequence[Path],
    overrides: Sequence[str], workers: int,
) -> None:  # fmt: skip
    """Every model on every protocol, as a suite in the study's folder."""
    suite = {
        "name": name, "version": 1, "workers": workers,
        "protocols": [str(path) for path in protocols],
        "bundles": [str(path) for path in bundles],
        "overrides": list(overrides),
    }  # fmt: skip
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(suite), encoding="utf-8")
    medvlp("evaluate", file, "--out", out / name)


def estimates(suite: Path, column: Column, overrides: Sequence[str]) -> dict[str, Spread]:
    """Model -> the draws of one column in a suite's folder."""
    loaded = load_protocol(column.protocol, overrides)
    found: list[Estimate] = headline_estimates(loaded, suite / loaded.name, column.metric)
    named = {one.model: one.spread for one in found if one.measure.name == column.name}
    if found and not named:
        known = ", ".join(sorted({one.measure.name for one in found}))
        raise ValueError(
            f"{column.heading}: no {column.metric} of {column.name}; there are {known}"
        )
    return named


def table(
    suite: Path, columns: Sequence[Column], names: Sequence[str], seeds: int,
    against: Sequence[tuple[str, str]], overrides: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """The means over seeds with intervals, then differences.

    Args:
        suite: The evaluations' folder.
        columns: What is told.
        names: Methods.
        seeds: Of each.
        against: Pairs of a method and what it is compared with.
        overrides: The suite's.
    """
    values: dict[tuple[str, str], list[Spread | None]] = {}
    for column in columns:
        found = estimates(suite, column, overrides)
        for name in names:
            values[column.heading, name] = [found.get(f"{name}-{seed}") for seed in range(seeds)]
    headings = [column.heading for column in columns]
    rule = "|---|" + "---|" * len(headings)
    lines = [f"| method | {' | '.join(headings)} |", rule]
    for name in names:
        cells = [_mean(values[heading, name]) for heading in headings]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| less | {' | '.join(headings)} |", rule]
    for name, reference in against:
        if {name, reference} <= set(names):
            cells = [_gap(values[h, name], values[h, reference]) for h in headings]
            lines.append(f"| {name} less {reference} | {' | '.join(cells)} |")
    return lines


def _mean(spreads: Sequence[Spread | None]) -> str:
    if any(spread is None for spread in spreads):
        return "-"
    known = [spread for spread in spreads if spread is not None]
    joined = mean_spread(known)
    ends = interval(joined, 0.95)
    sd = float(np.std([spread.value for spread in known], ddof=1)) if len(known) > 1 else 0.0
    return f"{joined.value:.3f} ({ends.low:.3f} to {ends.high:.3f}; ±{sd:.3f})"


def _gap(spreads: Sequence[Spread | None], reference: Sequence[Spread | None]) -> str:
    if any(spread is None for spread in (*spreads, *reference)):
        return "-"
    ours, theirs = ([s for s in given if s is not None] for given in (spreads, reference))
    joined = difference(mean_spread(ours), mean_spread(theirs))
    ends = interval(joined, 0.95, "percentile")
    seeds = [a.value - b.value for a, b in zip(ours, theirs, strict=True)]
    by_seed = f"{min(seeds):+.3f} to {max(seeds):+.3f}"
    return f"{joined.value:+.3f} ({ends.low:+.3f} to {ends.high:+.3f}; {by_seed})"
