"""The course of every trained task on labels: all entrants, all seeds, one fit each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from scipy.special import softmax

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.splits import DRAWS
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import check_labels, known_intervals, known_labels, subgroups
from medvlp.evaluate.controls.computed import computed
from medvlp.evaluate.heads.calibrate import calibrate
from medvlp.evaluate.heads.entrants import CONTROLS, Control, Entrant, entrants
from medvlp.evaluate.heads.search import Found, trial_rows
from medvlp.evaluate.heads.splits import (
    Splits,
    Subset,
    Windows,
    check_apart,
    labelled_splits,
)
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, label_rows
from medvlp.evaluate.predictions import Evidence

Floats = NDArray[np.floating[Any]]

CUTOFFS = pl.Schema(
    {
        "model": pl.String,
        "seed": pl.Int64,
        "name": pl.String,
        "aim": pl.String,
        "threshold": pl.Float64,
    }
)
"""Columns of ``cutoffs.parquet``: each training's thresholds, from validation data. `aim`: ``call``
for the decision, or the specificity in percent that the threshold reached."""

CALL = "call"


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainedLabels:
    """What tasks that are trained on labels have in common."""

    exclusive: ClassVar[bool] = False
    """Whether of the labels one holds at a time: windows where none or several do are left out,
    and probabilities sum to 1."""

    labels: tuple[str, ...] = Field(min_length=1)
    """Labels of the manifests, or, with `windows`, names of their timed regions."""

    subset: Subset = "100%"
    """How much of the training split: one protocol has one subset."""

    seeds: Annotated[int, Field(ge=1)] = 1
    """Trainings, with seeds from the protocol's on; for k shots each has the next of the
    manifest's draws."""

    windows: Windows | None = None
    """How recordings are cut; for the video domain."""

    controls: tuple[Control, ...] = CONTROLS
    """Controls that are the same training with altered inputs."""

    def __post_init__(self) -> None:
        if self.subset.endswith("shot") and self.seeds > DRAWS:
            raise ValueError(f"seeds {self.seeds}: there are {DRAWS} draws of k shots")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: one is named twice")


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What one fit says of the validation and the evaluated items, (N,L) each."""

    valid_NL: Floats
    test_NL: Floats


Fit = Callable[[Entrant, int], Found[Logits]]
"""(entrant, seed) -> the search's outcome. It sees the evaluated items' images, and is handed
their labels like all others; the tests see to it that these change nothing."""


def predict_trained(
    study: Study, scorers: Sequence[Scorer], task: TrainedLabels, fit: Fit, budget: Any
) -> Predicted:
    """Calibrated scores of every model and control, for every seed.

    Args:
        study: Where the items come from.
        scorers: The bundles.
        task: Labels, subset, seeds, controls.
        fit: One training with its search.
        budget: The search's configuration, told beside the trials.

    Raises:
        ConfigError: An unknown label, a missing subset, splits that are empty or share files, or
            a validation split on which nothing can be chosen.
    """
    known = known_labels if task.windows is None else known_intervals
    check_labels(task.labels, known(study.manifests), "task.labels", "the manifests")
    meta = subgroups(study.manifests)
    parts: dict[str, list[pl.DataFrame]] = {"rows": [], "trials": [], "cutoffs": []}
    thresholds: dict[str, dict[str, float]] = {}
    splits = None
    for seed in range(study.seed, study.seed + task.seeds):
        splits = labelled_splits(study, task.labels, task.subset, seed, task.windows)
        if task.exclusive:
            splits = _one_at_a_time(splits)
            check_apart(splits.named(study.split))
        _check_valid(splits, task.labels)
        scores: dict[str, tuple[NDArray[np.float64], bool]] = {}
        for entrant in entrants(scorers, splits, seed, task.controls):
            found = fit(entrant, seed)
            parts["trials"].append(trial_rows(entrant.name, seed, found, budget))
            if task.exclusive:
                scores[entrant.name] = softmax(found.best.test_NL, axis=1), entrant.control
                continue
            truth = _truth(entrant.splits.valid)
            calibrator = calibrate(found.best.valid_NL, truth, task.labels)
            scores[entrant.name] = (
                calibrator.probability(found.best.test_NL),
                entrant.control,
            )
            thresholds.setdefault(entrant.name, calibrator.thresholds)
            aims = {CALL: calibrator.thresholds, **calibrator.operating}
            cutoffs = [
                {"model": entrant.name, "seed": seed, "name": name, "aim": aim, "threshold": value}
                for aim, limits in aims.items()
                for name, value in limits.items()
            ]
            parts["cutoffs"].append(pl.DataFrame(cutoffs, schema=CUTOFFS))
        blind = computed(splits.test, splits.train, len(task.labels), meta, seed)
        scores.update({name: (found, True) for name, found in blind.items()})
        of_seed = dataclasses.replace(study, seed=seed)
        test = splits.test
        parts["rows"].append(label_rows(of_seed, test, task.labels, _truth(test), scores, meta))
    assert splits is not None
    return Predicted(
        rows=pl.concat(parts["rows"]),
        counts=_counts(splits),
        items=splits.test,
        beside={name: pl.concat(parts[name]) for name in ("trials", "cutoffs") if parts[name]},
        thresholds=thresholds,
    )


def trained_measures(evidence: Evidence) -> Measures:
    """Metrics of findings, at the thresholds of this very training."""
    table = evidence.beside.get("cutoffs")
    aims: dict[str, dict[str, float]] = {}
    for name, aim, limit in (
        () if table is None else table.select("name", "aim", "threshold").iter_rows()
    ):
        aims.setdefault(aim, {})[name] = limit
    called = aims.pop(CALL, None) or evidence.thresholds
    return finding_measures(called, evidence.stated, aims)


def _one_at_a_time(splits: Splits) -> Splits:
    """The items of which exactly one label holds."""

    def kept(items: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(item for item in items if (item.labels_L == 1).sum() == 1)

    return Splits(train=kept(splits.train), valid=kept(splits.valid), test=kept(splits.test))


def _truth(items: Sequence[Item]) -> NDArray[np.float32]:
    return np.stack([item.labels_L for item in items])


def _check_valid(splits: Splits, names: Sequence[str]) -> None:
    truth = _truth(splits.valid)
    if not any({0.0, 1.0} <= set(truth[:, k].tolist()) for k in range(len(names))):
        raise ConfigError(
            "the validation split has no label that is present in some samples and absent in "
            "others: nothing can be chosen on it",
            remedy="give validation more patients (split.fractions of medvlp index)",
        )


def _counts(splits: Splits) -> dict[str, int]:
    truth = _truth(splits.test)
    return {
        "training_samples": len(splits.train),
        "validation_samples": len(splits.valid),
        "uncertain_labels": int((truth == -1).sum()),
        "unknown_labels": int(np.isnan(truth).sum()),
    }
