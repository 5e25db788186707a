"""The tour: made-up archives in three domains, from files to one report, by the same functions
as the commands. Each stage is skipped where its result stands already.
"""  # noqa: D205

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from rich.console import Console

from medvlp.domain import get_domain
from medvlp.errors import InputError, MedvlpError, RunError
from medvlp.evaluate.run import evaluate_protocol
from medvlp.evaluate.suite.processes import run_apart
from medvlp.progress import track
from medvlp.report.build import build_report
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run
from medvlp.train.phantom_data import phantom_manifest


@dataclass(frozen=True, kw_only=True)
class Tour:
    """What one domain shows."""

    domain: str
    controls: tuple[str, ...]
    """Trained beside the model."""

    protocols: tuple[str, ...]
    """Names of files in ``configs/evaluate``."""

    labels: tuple[str, ...] = ()
    """The labels that zero-shot is evaluated on; all the prompts' if none are given."""

    fractions: dict[str, float] = field(
        default_factory=lambda: {"train": 0.6, "valid": 0.1, "test": 0.3}
    )
    """Of patients; the image-blind row means something over 200 held-out ones and more."""


TOURS = (
    Tour(
        domain="cxr",
        controls=("image-blind", "supervised-unimodal"),
        protocols=("cxr-phantom", "cxr-phantom-retrieval"),
        fractions={"train": 0.76, "valid": 0.06, "test": 0.18},
    ),
    Tour(
        domain="volumetric",
        controls=("image-blind",),
        protocols=("ct-phantom", "ct-phantom-retrieval"),
        # What the configuration's phantom draws: findings that its coarse voxels show.
        labels=(
            "cardiomegaly",
            "pericardial_effusion",
            "aortic_aneurysm",
            "pleural_effusion",
            "emphysema",
            "consolidation",
            "splenomegaly",
            "liver_lesion",
        ),
        fractions={"train": 0.66, "valid": 0.06, "test": 0.28},
    ),
    Tour(
        domain="video",
        controls=("image-blind",),
        protocols=("video-phantom", "video-phantom-retrieval"),
    ),
)

SUPERVISED = "objectives=[{kind: labels, weight: 1.0}]"


def run_demo(
    folder: Path, tours: Sequence[Tour] = TOURS, overrides: Sequence[str] = (), n: int | None = None
) -> Path:
    """Phantom, index, train, evaluate and report in every domain; again, it goes on.

    Args:
        folder: Takes everything: archives, manifests, runs, predictions.
        tours: The domains and what is shown of each.
        overrides: Changes to every domain's experiment, such as ``trainer.steps=4``.
        n: Patients of each phantom, in place of the configurations' numbers.

    Returns:
        The report's page.

    Raises:
        InputError: The configurations are not where they belong.
    """
    configs = _configs()
    start = time.monotonic()
    stages = [_Stages(folder, configs, tour, overrides, n) for tour in tours]
    for one in stages:
        one.prepare()
    _train_all([training for one in stages for training in one.trainings()])
    for one in stages:
        one.evaluate()
    report = _stage("report", None, lambda: build_report(folder / "predictions"))
    assert isinstance(report, Path)
    _say(f"done in {time.monotonic() - start:.0f} s")
    return report


@dataclass(frozen=True, kw_only=True)
class _Training:
    """One training run, as it crosses to the process that does it."""

    title: str
    config: Path
    settings: tuple[str, ...]
    run: Path


def _train_all(trainings: Sequence[_Training]) -> None:
    """Train what is not trained yet, two cores' worth of runs at a time.

    These models are so small that one run gains little from a second core, but two runs do.

    Raises:
        RunError: A training failed; the others go on first.
    """
    left = [training for training in trainings if not (training.run / "bundle").exists()]
    for training in trainings:
        if training not in left:
            _say(f"{training.title}: done before")
    if not left:
        return
    _say(f"train {len(left)} models ...")
    start, failed = time.monotonic(), []
    workers = min(len(left), os.cpu_count() or 1)
    for training, reason in track(run_apart(_train, left, workers), "trainings", len(left)):
        _say(f"{training.title}: {reason or f'after {time.monotonic() - start:.0f} s'}")
        failed += [] if reason is None else [f"{training.title}: {reason}"]
    if failed:
        raise RunError(failed[0], remedy="mend that, then repeat the command: the rest is kept")


def _train(training: _Training) -> str | None:
    try:
        train_run(training.config, training.settings, training.run)
    except MedvlpError as error:
        return error.message
    return None


class _Stages:
    """One domain's stages and where each leaves its result."""

    def __init__(
        self, folder: Path, configs: Path, tour: Tour, overrides: Sequence[str], n: int | None
    ) -> None:
        self.tour = tour
        self.title = get_domain(tour.domain).title
        self.configs = configs
        self.config = configs / "demo" / f"{tour.domain}.yaml"
        self.overrides = overrides
        self.n = n
        self.home = folder / tour.domain
        self.predictions = folder / "predictions"
        self.manifest = self.home / "manifest"
        self.cache = self.home / "cache"

    def prepare(self) -> None:
        """Phantom archive and manifest."""
        self.home.mkdir(parents=True, exist_ok=True)
        phantom = load_experiment(self.config, self.overrides).data.phantom
        if phantom is None:
            raise InputError(f"{self.config.name} names no phantom", remedy="restore configs/demo")
        if self.n is not None:
            phantom = replace(phantom, n=self.n)
        fractions = yaml.safe_dump(self.tour.fractions, default_flow_style=True).strip()
        self._stage(
            "phantom archive and index",
            self.manifest,
            lambda: phantom_manifest(
                self.tour.domain, phantom, self.home, [f"split.fractions={fractions}"]
            ),
        )

    def trainings(self) -> list[_Training]:
        """The model and its controls."""
        return [self._training(name) for name in ("clip", *self.tour.controls)]

    def evaluate(self) -> None:
        """Every protocol, of all models."""
        bundles = [training.run / "bundle" for training in self.trainings()]
        for name in self.tour.protocols:
            self._evaluate(name, bundles)

    def _stage(self, what: str, done: Path, work: Callable[[], object]) -> None:
        _stage(f"{self.title}: {what}", done, work)

    def _training(self, name: str) -> _Training:
        changed = [] if name == "clip" else [f"control={name}"]
        changed += [SUPERVISED] if name == "supervised-unimodal" else []
        return _Training(
            title=f"{self.title}: " + ("train" if name == "clip" else f"train the control {name}"),
            config=self.config,
            settings=(
                *self.overrides,
                "data.phantom=null",
                _listed("data.manifests", self.manifest),
                f"data.cache={self.cache}",
                *changed,
            ),
            run=self.home / name,
        )

    def _evaluate(self, name: str, bundles: Sequence[Path]) -> None:
        protocol = self.configs / "evaluate" / f"{name}.yaml"
        settings = [
            "data.phantom=null",
            _listed("data.manifests", self.manifest),
            f"data.cache={self.cache}",
        ]
        if self.tour.labels and name == self.tour.protocols[0]:
            settings.append(_listed("task.labels", *self.tour.labels))
        done = self.predictions / name
        self._stage(
            f"evaluate {name}",
            done,
            lambda: evaluate_protocol(protocol, bundles, self.predictions, settings),
        )


def _configs() -> Path:
    """The folder of configurations: inside the package where it is installed, else the checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "demo").is_dir():
            return folder
    raise InputError(
        "the folder configs/ is not beside medvlp", remedy="run the demo from a full checkout"
    )


def _listed(key: str, *values: str | Path) -> str:
    # One line whatever the length: an override is one word.
    listed = yaml.safe_dump([str(v) for v in values], default_flow_style=True, width=1_000_000)
    return f"{key}={listed.strip()}"


def _stage(what: str, done: Path | None, work: Callable[[], object]) -> object:
    if done is not None and done.exists():
        _say(f"{what}: done before")
        return None
    start = time.monotonic()
    _say(f"{what} ...")
    result = work()
    _say(f"{what}: {time.monotonic() - start:.0f} s")
    return result


def _say(line: str) -> None:
    Console(file=sys.stdout, soft_wrap=True, highlight=False).print(line, markup=False)
