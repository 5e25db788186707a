"""Task `phases`: windows of recordings, each told which phase or step it lies in by its words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.prompts import PromptSet
from medvlp.data.published_prompts import PublishedPrompts
from medvlp.evaluate.cases import check_labels, known_intervals, timed_items
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.phases import phase_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.tasks.zero_shot import resolved, taken_in
from medvlp.evaluate.windowed import predict_windows

Seconds = Annotated[float, Field(gt=0)]

Contract = dict[str, Any]

CONVENTIONS = {
    "frames": ("f1_macro", "accuracy"),
    "surgvlp": ("f1_macro_video", "accuracy_video"),
    "tecno": (
        "f1_present_macro", "accuracy_video", "precision_present_macro", "recall_present_macro",
        "jaccard_present_macro",
    ),
    "surglavi": ("f1_macro", "accuracy"),
}  # fmt: skip
"""Convention -> the metrics that its papers print; `medvlp.evaluate.metrics.phases` has their
formulas. All metrics are always computed: a convention says which ones stand for it.

- ``frames``: over the windows of all recordings together.
- ``surgvlp``: within each recording, over the labels true or called there; mean over recordings.
- ``tecno``: accuracy within each recording; the other metrics for each label within the recordings
  in which it occurs (a label never called has precision 0), mean over these, then over labels.
- ``surglavi``: its public files do not say how they average; taken as ``frames``.
"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhasesConfig:
    """Recognition of phases, or of steps, without training.

    A window counts for the label whose interval covers its middle; windows outside every named
    interval, or inside two of them, are left out.
    """

    kind: Literal["phases"] = "phases"
    prompts: Path | PromptSet
    """An exclusive prompt set whose labels are names of timed regions: of phases or of steps."""

    window_s: Seconds
    stride_s: Seconds
    convention: Literal["frames", "surgvlp", "tecno", "surglavi"] = "frames"
    """Whose averages are shown first."""

    tolerance_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds from a boundary within which a call is forgiven in the relaxed metrics."""

    published: PublishedPrompts | None = None
    """The published prompts that `prompts` stands in for; used where its path is given."""

    contract: Contract = Field(default_factory=dict)
    """Fields of the models' preprocessing contract that the protocol sets for all of them, such
    as ``frames: 1``; every model's own contract if not given."""

    @property
    def headlines(self) -> tuple[str, ...]:
        """The convention's metrics."""
        return CONVENTIONS[self.convention]

    def resolve(self, base: Path) -> PhasesConfig:
        """The task with its prompt file, or the user's copy of the published one, taken in.

        Raises:
            ConfigError: The file cannot be used.
        """
        prompts, published = taken_in(self.prompts, self.published, base)
        return dataclasses.replace(self, prompts=prompts, published=published)

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
        fed = [scorer.under(self.contract) for scorer in scorers]
        return predict_windows(
            study, fed, prompts, items, train, window_s=self.window_s, stride_s=self.stride_s
        )

    def measures(self, evidence: Evidence) -> Measures:
        """All averages of `medvlp.evaluate.metrics.phases`; thresholds play no part."""
        return partial(phase_measures, tolerance_s=self.tolerance_s)
