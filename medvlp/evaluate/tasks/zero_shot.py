"""Task `zero-shot`: findings asked for in words, one score a sample and label."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.prompts import PromptSet, load_prompts
from medvlp.evaluate.cases import check_labels, known_labels, sample_items
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, predict_labels
from medvlp.evaluate.predictions import Evidence


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ZeroShotConfig:
    """Classification without training."""

    kind: Literal["zero-shot"] = "zero-shot"
    prompts: Path | PromptSet
    """The prompt set, or its file relative to the protocol's."""

    labels: tuple[str, ...] | None = None
    """Which of the prompts' labels are evaluated; all if not given."""

    headlines: ClassVar[tuple[str, ...]] = ("auroc_macro",)

    def resolve(self, base: Path) -> ZeroShotConfig:
        """The task with its prompt file taken in.

        Raises:
            ConfigError: The file cannot be used, or does not hold a label that is evaluated.
        """
        prompts = inline(self.prompts, base)
        check_labels(self.labels or (), prompts.names, "task.labels", "the prompt set")
        return dataclasses.replace(self, prompts=prompts)

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
        return predict_labels(study, scorers, prompts, names, items, train)

    def measures(self, evidence: Evidence) -> Measures:
        """AUROC, average precision, calibration, and sensitivity at the stored thresholds."""
        return finding_measures(evidence.thresholds, evidence.stated)


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
