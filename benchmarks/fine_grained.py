"""Fine-grained chest X-ray methods at one budget: the study of eleven methods and three seeds.

    python benchmarks/fine_grained.py OUT [--steps 1500] [--patients 1500] [--seeds 3] [--workers 2]

Writes a phantom archive and its manifest, takes the reports apart (`medvlp structure`), trains
every method with every seed from `configs/cxr/study.yaml`, evaluates all of them on the protocols
in `configs/evaluate/cxr-study/`, and prints one table. Run again after a stop, it goes on with what
is missing. It takes up to three hours on two cores, so it is no part of `make bench`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from medvlp.errors import MedvlpError
from medvlp.evaluate.metrics.comparison import difference
from medvlp.evaluate.metrics.estimate import Estimate
from medvlp.evaluate.metrics.intervals import interval
from medvlp.evaluate.metrics.resampling import Spread, mean_spread
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.suite.processes import run_apart
from medvlp.evaluate.suite.run import headline_estimates
from medvlp.progress import track
from medvlp.train.fit import train_run

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/cxr/study.yaml"
PROTOCOLS = ROOT / "configs/evaluate/cxr-study"
REFERENCE = "clip"
MIX = "mixing={kind: medcutmix}"
MEDSLIP = (
    "{kind: medslip, width: 96, depth: 2, heads: 4, hidden: 192, dropout: 0.0, position: sine, "
    "negatives: unmentioned}"
)
TEXT_TRAINED = {
    "clip": "[{kind: clip}]",
    "dlilp": "[{kind: clip, weight: 0.1}, {kind: label-text}]",
    "gloria": "[{kind: clip}, {kind: local}]",
    "make": "[{kind: multi-text}]",
    "medslip": f"[{MEDSLIP}]",
}
METHODS: dict[str, tuple[str, ...]] = {
    "unimodal": ("objectives=[{kind: labels}]",),
    **{name: (f"objectives={objectives}",) for name, objectives in TEXT_TRAINED.items()},
    **{f"{name}+cutmix": (f"objectives={o}", MIX) for name, o in TEXT_TRAINED.items()},
}
COLUMNS = (
    ("zero-shot", "auroc_macro", "zero-shot AUROC"),
    ("grounding", "pointing_game_macro", "pointing game"),
    ("grounding", "pixel_average_precision_macro", "grounding AUPRC"),
    ("laterality", "robustness", "laterality"),
    ("polarity", "robustness", "polarity"),
    ("probe", "auroc_macro", "1 % probe AUROC"),
)
"""(protocol, metric, heading)."""


@dataclass(frozen=True)
class Training:
    """One method with one seed."""

    settings: tuple[str, ...]
    run: Path


def train(training: Training) -> str | None:
    """Train it, or go on; why it failed, or None."""
    try:
        train_run(CONFIG, training.settings, training.run)
    except MedvlpError as error:
        return str(error)
    return None


def medvlp(*arguments: str | Path) -> None:
    """One command of the platform."""
    command = [sys.executable, "-m", "medvlp.cli", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=ROOT)


def manifest_of(out: Path, patients: int) -> Path:
    """The phantom's manifest with the triples that the rules find in its reports."""
    archive, manifest = out / "archive", out / "manifest"
    if not manifest.exists():
        if not archive.exists():
            medvlp("phantom", "cxr", "--out", archive, "--n", str(patients), "--set", "size=128")
        medvlp("index", archive, "--kind", "dicom", "--config", archive / "index.yaml",
               "--set", "split.fractions={train: 0.7, valid: 0.1, test: 0.2}",
               "--out", manifest)  # fmt: skip
        medvlp("structure", manifest)
    return manifest


def trainings(
    out: Path, manifest: Path, steps: int, seeds: int, names: Sequence[str]
) -> list[Training]:
    """Seed by seed, so that a stopped study has whole seeds."""
    common = (
        "data.phantom=null", f"data.manifests=[{manifest}]", f"data.cache={out / 'cache'}",
        *(f"trainer.{key}={steps}" for key in ("steps", "valid_every", "save_every")),
    )  # fmt: skip
    return [
        Training((*common, f"seed={seed}", *METHODS[name]), out / "runs" / f"{name}-{seed}")
        for seed in range(seeds)
        for name in names
    ]


def evaluate(out: Path, manifest: Path, runs: Sequence[Training], workers: int) -> None:
    """Every model on every protocol, as a suite."""
    suite = {
        "name": "study", "version": 1, "workers": workers,
        "protocols": [str(path) for path in sorted(PROTOCOLS.glob("*.yaml"))],
        "bundles": [str(training.run / "bundle") for training in runs],
        "overrides": [f"data.manifests=[{manifest}]", f"data.cache={out / 'cache'}"],
    }  # fmt: skip
    file = out / "suite.yaml"
    file.write_text(yaml.safe_dump(suite), encoding="utf-8")
    medvlp("evaluate", file, "--out", out / "suite")


def table(
    out: Path,
    manifest: Path,
    names: Sequence[str],
    seeds: int,
    columns: Sequence[tuple[str, str, str]] = COLUMNS,
    overrides: Sequence[str] = (),
) -> list[str]:
    """The means over seeds with intervals, then their differences from plain CLIP."""
    values: dict[tuple[str, str], list[Spread | None]] = {}
    for protocol, metric, heading in columns:
        found = estimates(out, manifest, protocol, metric, overrides)
        for name in names:
            values[heading, name] = [found.get(f"{name}-{seed}") for seed in range(seeds)]
    headings = [heading for _, _, heading in columns]
    rule = "|---|" + "---|" * len(headings)
    lines = [f"| method | {' | '.join(headings)} |", rule]
    for name in names:
        cells = [_mean(values[heading, name]) for heading in headings]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| less {REFERENCE} | {' | '.join(headings)} |",
        "|---|" + "---|" * len(headings),
    ]
    for name in names:
        if name != REFERENCE:
            cells = [_gap(values[h, name], values[h, REFERENCE]) for h in headings]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def estimates(
    out: Path, manifest: Path, protocol: str, metric: str, overrides: Sequence[str] = ()
) -> dict[str, Spread]:
    """Model -> the draws of one metric of a protocol."""
    changes = [f"data.manifests=[{manifest}]", *overrides]
    loaded = load_protocol(PROTOCOLS / f"study-{protocol}.yaml", changes)
    found: list[Estimate] = headline_estimates(loaded, out / "suite" / loaded.name, metric)
    return {one.model: one.spread for one in found}


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


def main() -> None:
    """Everything, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--patients", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    manifest = manifest_of(out, options.patients)
    runs = trainings(out, manifest, options.steps, options.seeds, options.methods)
    left = [one for one in runs if not (one.run / "bundle").exists()]
    for one, reason in track(run_apart(train, left, options.workers), "trainings", len(left)):
        print(f"{one.run.name}: {reason or 'trained'}", flush=True)
    evaluate(out, manifest, [one for one in runs if (one.run / "bundle").exists()], options.workers)
    print("\n".join(table(out, manifest, options.methods, options.seeds)))


if __name__ == "__main__":
    main()
