"""Task `zero-shot`: findings asked for in words, one score a sample and label."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.prompts import PromptSet, load_prompts
from medvlp.data.published_prompts import PublishedPrompts, read_published
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import check_labels, known_labels, sample_items
from medvlp.evaluate.controls.computed import Scores
from medvlp.evaluate.metrics.estimate import Measure, Measures
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.metrics.phases import choice_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, predict_labels
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.rules import HALF, NO_PROBABILITY, OWN, TRANSDUCTIVE, RuleName

OF_PROBABILITIES = ("brier_score", "calibration_error", "net_benefit")
"""Beginnings of the names of metrics that mean nothing for scores that are no probabilities."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ZeroShotConfig:
    """Classification without training."""

    kind: Literal["zero-shot"] = "zero-shot"
    prompts: Path | PromptSet
    """The prompt set, or its file relative to the protocol's."""

    labels: tuple[str, ...] | None = None
    """Which of the prompts' labels are evaluated; all if not given."""

    rule: RuleName = "medvlp"
    """How embeddings become scores (`medvlp.evaluate.rules`). ``native`` asks each model in its own
    way: the head that it was trained with where that knows all the labels, else prompts."""

    ensemble: bool = False
    """Adds a row of the models' mean score, as several checkpoints of one method are joined."""

    published: PublishedPrompts | None = None
    """The published prompts that `prompts` stands in for; used where its path is given."""

    headlines: ClassVar[tuple[str, ...]] = ("auroc_macro",)

    def __post_init__(self) -> None:
        if self.rule in ("label-head", "native") and self.ensemble:
            raise ValueError(f"an ensemble is of scores by prompts; the rule is {self.rule}")

    def resolve(self, base: Path) -> ZeroShotConfig:
        """The task with its prompt file, or the user's copy of the published one, taken in.

        Raises:
            ConfigError: The file cannot be used, or does not hold a label that is evaluated.
        """
        prompts, published = taken_in(self.prompts, self.published, base)
        check_labels(self.labels or (), prompts.names, "task.labels", "the prompt set")
        return dataclasses.replace(self, prompts=prompts, published=published)

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of every model and control.

        Raises:
            ConfigError: A label that no manifest knows, or nothing to score.
        """
        prompts = resolved(self.prompts)
        names = self.labels or prompts.names
        check_labels(names, known_labels(study.manifests), "task.labels", "the manifests")
        items, train = (
            sample_items(study.manifests, split, names, domain=study.domain)
            for split in (study.split, "train")
        )
        if prompts.mode == "exclusive":
            items, train = others_absent(items), others_absent(train)

        def score(scorer: Scorer, seen: Sequence[Item]) -> Scores:
            if self._by_head(scorer, names):
                return scorer.label_scores(seen, names)
            rule = "medvlp" if self.rule == "native" else self.rule
            column = [prompts.names.index(name) for name in names]
            return scorer.rule_scores(rule, seen, prompts)[:, column]

        found = predict_labels(study, scorers, prompts, names, items, train, score)
        by_head = {scorer.name for scorer in scorers if self._by_head(scorer, names)}
        return self._finished(found, by_head)

    def measures(self, evidence: Evidence) -> Measures:
        """AUROC, average precision, calibration, and sensitivity at the stored thresholds.

        Where labels exclude each other, also accuracy and F1 of the best-scored label, over samples
        of which all labels are known; nothing of calibration where the rule gives no probabilities.
        """
        findings = finding_measures(evidence.thresholds, evidence.stated, evidence.operating)

        def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
            found = [
                measure
                for measure in findings(rows, clusters)
                if self.rule not in NO_PROBABILITY
                or not measure.metric.startswith(OF_PROBABILITIES)
            ]
            if resolved(self.prompts).mode == "exclusive":
                # A choice is right or wrong only among all labels, not among those that are known.
                told = pl.len().over("sample") == rows["name"].n_unique()
                found += choice_measures(rows.filter(told), clusters)
            return found

        return measures

    def _by_head(self, scorer: Scorer, names: Sequence[str]) -> bool:
        if self.rule == "native":
            return set(names) <= set(scorer.bundle.answers)
        return self.rule == "label-head"

    def _finished(self, found: Predicted, by_head: Collection[str]) -> Predicted:
        counts, rows = dict(found.counts), found.rows
        if self.rule == "native":
            counts["models_by_head"] = len(by_head)
            counts["models_by_prompts"] = len(found.thresholds) - len(by_head)
        if self.rule in TRANSDUCTIVE:
            counts["transductive"] = 1
        # What validation taught was about probabilities by our own rule.
        ours = set(found.thresholds) - set(by_head) if self.rule in OWN else set()
        thresholds = {m: t if m in ours else {} for m, t in found.thresholds.items()}
        operating = {m: t if m in ours else {} for m, t in found.operating.items()}
        if self.rule in HALF and resolved(self.prompts).mode == "independent":
            thresholds = dict.fromkeys(thresholds, dict.fromkeys(rows["name"].unique(), 0.5))
        if self.ensemble:
            rows = pl.concat([rows, mean_of_models(rows)])
        return dataclasses.replace(
            found, counts=counts, thresholds=thresholds, operating=operating, rows=rows
        )


def others_absent(items: Sequence[Item]) -> list[Item]:
    """Items of labels that exclude each other: where one is present, unknown ones are absent.

    Labels mined from reports tell of absence only where it is mentioned. Items with several labels
    present, or with an uncertain one, stay as they are.
    """
    found = []
    for item in items:
        labels_L = item.labels_L
        if (labels_L == 1).sum() == 1 and not (labels_L == -1).any():
            item = dataclasses.replace(item, labels_L=np.nan_to_num(labels_L, nan=0.0))
        found.append(item)
    return found


def mean_of_models(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of a model ``ensemble``: the mean score of all models that are no controls.

    Raises:
        ConfigError: There are fewer than two.
    """
    own = rows.filter(~pl.col("control"))
    models = own["model"].unique()
    if len(models) < 2:
        raise ConfigError(
            f"task.ensemble: a mean of {len(models)} model(s)",
            remedy="name several bundles, or set task.ensemble to false",
        )
    first = own.filter(pl.col("model") == own["model"][0])
    keys = ["sample", "time_s", "name"]
    mean = own.group_by(keys, maintain_order=True).agg(pl.col("score").mean())
    if not np.array_equal(mean["sample"], first["sample"]):
        raise ValueError("models were scored on different samples")
    return first.with_columns(model=pl.lit("ensemble"), score=mean["score"])


def taken_in(
    prompts: Path | PromptSet, published: PublishedPrompts | None, base: Path
) -> tuple[PromptSet, PublishedPrompts | None]:
    """The prompts that are asked, and the published ones they are or stand in for.

    Raises:
        ConfigError: The prompt file, or the user's copy of the published one, cannot be used.
    """
    if published is None or published.path is None:
        return inline(prompts, base), published
    # Where the copy lies is the user's; the prompts themselves tell which were used.
    return read_published(published, base), dataclasses.replace(published, path=None)


def inline(prompts: Path | PromptSet, base: Path) -> PromptSet:
    """The prompt set itself; a file is looked for in the folder `base`."""
    return load_prompts(base / prompts) if isinstance(prompts, Path) else prompts


def resolved(prompts: Path | PromptSet) -> PromptSet:
    """The prompt set of a task that `resolve` has gone over.

    Raises:
        ValueError: It still names a file.
    """
    if isinstance(prompts, Path):
        raise ValueError("the task is not resolved: load it with load_protocol")
    return prompts
