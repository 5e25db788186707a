"""Task `phases`: windows of recordings, each told which phase it lies in by its words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.prompts import PromptSet
from medvlp.evaluate.cases import check_labels, known_intervals, timed_items
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.phases import phase_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, predict_labels
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.tasks.zero_shot import inline, resolved

Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhasesConfig:
    """Phase recognition without training.

    A window counts for the phase whose interval covers its middle; windows outside every named
    interval, or inside two of them, are left out.
    """

    kind: Literal["phases"] = "phases"
    prompts: Path | PromptSet
    """An exclusive prompt set whose labels are names of timed regions."""

    window_s: Seconds
    stride_s: Seconds

    headlines: ClassVar[tuple[str, ...]] = ("f1_macro", "accuracy")

    def resolve(self, base: Path) -> PhasesConfig:
        """The task with its prompt file taken in.

        Raises:
            ConfigError: The file cannot be used.
        """
        return dataclasses.replace(self, prompts=inline(self.prompts, base))

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of every model and control.

        Raises:
            ConfigError: A phase that no manifest knows, or nothing to score.
        """
        prompts = resolved(self.prompts)
        known = known_intervals(study.manifests)
        check_labels(prompts.names, known, "task.prompts", "the manifests' timed regions")
        items, train = (
            timed_items(
                study.manifests, split, prompts.names,
                window_s=self.window_s, stride_s=self.stride_s,
            )
            for split in (study.split, "train")
        )  # fmt: skip
        return predict_labels(study, scorers, prompts, prompts.names, items, train)

    def measures(self, evidence: Evidence) -> Measures:
        """Accuracy and F1 over windows and over videos; thresholds play no part."""
        return phase_measures
