"""The gate: every pair of splits, every bundle's training data, and the prompts' words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlp.archive.duplicates.copied_texts import words_of
from medvlp.archive.duplicates.footprint import Footprint, reports
from medvlp.data.manifest import Manifest
from medvlp.data.prompts import PromptSet
from medvlp.data.tables import SPLITS
from medvlp.errors import LeakError
from medvlp.evaluate.leakage.compare import Part, in_footprint, pictured, shared, unread
from medvlp.evaluate.leakage.leak import (
    FOR_WORDS,
    WORD_TASKS,
    Inspected,
    Leak,
    LeakageConfig,
)
from medvlp.evaluate.leakage.training import Training, training_of
from medvlp.evaluate.predict import Scorer, Study

LEAST_WORDS = 8
"""A shorter prompt is a phrase that reports share by right."""

LEAST_REPORTS = 100
"""Among fewer training reports, a sentence may be missing by chance."""

_REMEDY = (
    "take the samples out (medvlp index with split.policy=hash and duplicates=group keeps copies "
    "together), or give leakage.allow=[{kinds}] to print the leak beside the numbers"
)


def inspect_leaks(
    study: Study,
    task: Any,
    config: LeakageConfig,
    scorers: Sequence[Scorer],
    bundles: Sequence[Path],
) -> Inspected:
    """Look for everything by which what is evaluated is known already.

    Args:
        study: The manifests and the split that is evaluated.
        task: Its kind says whether reports are answers; its prompts are compared with reports.
        config: What may pass.
        scorers: The models.
        bundles: Their folders, in the same order.

    Returns:
        All leaks, those that are let through among them, and what could not be looked at.

    Raises:
        LeakError: A leak that the protocol does not allow.
        ManifestError: A manifest that the protocol names as training data cannot be opened.
    """
    for path in config.trained_on:
        Manifest.open(path)
    found, unchecked = _look(study, task, config, scorers, bundles)
    spares = FOR_WORDS if task.kind not in WORD_TASKS else frozenset()
    leaks = tuple(replace(leak, refuses=leak.refuses and leak.kind not in spares) for leak in found)
    inspected = Inspected(
        leaks=leaks, unchecked=tuple(dict.fromkeys(unchecked)), allowed=config.allow
    )
    if refusing := inspected.refusing:
        kinds = dict.fromkeys(leak.kind for leak in refusing)
        told = ", ".join(leak.detail for leak in refusing[:3])
        more = f", and {len(refusing) - 3} more" if len(refusing) > 3 else ""
        raise LeakError(
            f"{study.protocol}: {told}{more}: a number from them would count what is known already",
            remedy=_REMEDY.format(kinds=", ".join(kinds)),
        )
    return inspected


def _look(
    study: Study,
    task: Any,
    config: LeakageConfig,
    scorers: Sequence[Scorer],
    bundles: Sequence[Path],
) -> tuple[list[Leak], list[str]]:
    evaluated = _part(study, study.split)
    leaks: list[Leak] = []
    unchecked: list[str] = []
    if missing := unread(evaluated):
        total = evaluated.samples.height
        unchecked.append(f"decoded pixels of {missing} of {total} samples of {evaluated.name}")
    for one, other in _pairs(study):
        leaks += shared(one, other)
        if not pictured(one, other):
            unchecked.append(f"near copies of images between {one.name} and {other.name}")
    for scorer, path in zip(scorers, bundles, strict=True):
        training = training_of(
            path, scorer.bundle.info.provenance, config.trained_on, study.manifests
        )
        found, lines = _against(evaluated, training, scorer.name, study)
        leaks += found
        unchecked += lines
    leaks += _prompts(task, evaluated, study)
    return leaks, unchecked


def _part(study: Study, split: str) -> Part:
    images_only = split == study.split
    return Part(f"split {split}", study.manifests, (split,), study.domain, words=not images_only)


def _pairs(study: Study) -> Iterator[tuple[Part, Part]]:
    """Every pair of splits of which one is evaluated, trained on or chosen by."""
    used = [study.split, *(s for s in ("valid", "train") if s != study.split)]
    parts = [part for split in used if (part := _part(study, split)).samples.height]
    yield from ((one, other) for i, one in enumerate(parts) for other in parts[i + 1 :])


def _against(
    evaluated: Part, training: Training, model: str, study: Study
) -> tuple[list[Leak], list[str]]:
    """What a model knows of the evaluated split from its training."""
    name = f"training of {model}"
    leaks: list[Leak] = []
    unchecked = list(_untold(training, name))
    own = {manifest.digest for manifest in study.manifests}
    if study.split in ("train", "valid") and training.digests & own:
        leaks.append(_whole(evaluated, name, model))
    # The evaluation's own manifests were compared split by split already.
    for manifest in training.manifests:
        if manifest.digest in own:
            continue
        other = Part(name, (manifest,), ("train", "valid"), study.domain)
        leaks += shared(evaluated, other, model)
        if manifest.key_id not in {m.key_id for m in study.manifests}:
            unchecked.append(f"patients and studies of {name}: its manifest has another key")
        if not pictured(evaluated, other):
            unchecked.append(f"near copies of images of {name}")
    if training.known:
        return leaks, unchecked
    if training.footprint is None:
        return leaks, [*unchecked, f"{name}: neither its manifests nor a footprint are at hand"]
    told = {leak.kind for leak in leaks}
    known = in_footprint(evaluated, training.footprint, name, model)
    leaks += [leak for leak in known if leak.kind not in told]
    return leaks, [*unchecked, *_limits(training.footprint, name, study)]


def _whole(evaluated: Part, name: str, model: str) -> Leak:
    total = evaluated.samples.height
    return Leak(
        kind="training",
        between=(evaluated.name, name),
        count=total,
        of=total,
        model=model,
        detail=f"{evaluated.name} itself belongs to the {name}",
    )


def _untold(training: Training, name: str) -> Iterator[str]:
    """What the weights may know from before the training that the bundle tells of."""
    if training.untold:
        yield (
            f"{name}: of {training.untold} of the bundles that it was started from, neither "
            "manifests nor a footprint are at hand"
        )


def _limits(footprint: Footprint, name: str, study: Study) -> Iterator[str]:
    """What a footprint alone cannot tell."""
    yield f"near copies of images and of reports of {name}: only its footprint is at hand"
    if not set(footprint.key_ids) & {manifest.key_id for manifest in study.manifests}:
        yield f"patients, studies and reports of {name}: its footprint has another key"
    if blind := footprint.samples - footprint.known.get("pixels", 0):
        yield f"decoded pixels of {blind} of {footprint.samples} samples of {name}"


def _prompts(task: Any, evaluated: Part, study: Study) -> Iterator[Leak]:
    """Prompts of some length that stand in evaluated reports and in no training report.

    It refuses only where training reports are `LEAST_REPORTS` and as many as the evaluated ones:
    among fewer, that a usual sentence is not said says little.
    """
    prompts = getattr(task, "prompts", None)
    if not isinstance(prompts, PromptSet):
        return
    asked = {
        line
        for label in prompts.labels.values()
        for text in (*label.positive, *label.negative)
        if len(words := words_of(text)) >= LEAST_WORDS and (line := f" {' '.join(words)} ")
    }
    if not asked:
        return
    split = {
        sample: where
        for manifest in study.manifests
        for sample, where in manifest.samples.select("sample", "split").iter_rows()
    }
    said: dict[str, set[str]] = {name: set() for name in SPLITS}
    counted = dict.fromkeys(SPLITS, 0)
    for manifest in study.manifests:
        for sample, text in reports(manifest):
            body = f" {' '.join(words_of(text))} "
            said[split[sample]] |= {line for line in asked if line in body}
            counted[split[sample]] += 1
    taken = said[study.split] - (said["train"] if study.split != "train" else set())
    if taken:
        yield Leak(
            kind="prompt",
            between=("prompts", evaluated.name),
            count=len(taken),
            of=len(asked),
            detail=f"{len(taken)} of {len(asked)} prompts of {LEAST_WORDS} words and more stand "
            f"word for word in reports of {evaluated.name} and in none of split train",
            refuses=counted["train"] >= max(counted[study.split], LEAST_REPORTS),
        )
