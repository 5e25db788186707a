"""Task `tools`: which instruments are in view, asked for in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.prompts import PromptSet
from medvlp.evaluate.cases import annotated_items, check_labels, known_intervals
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.triplets import presence_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.tasks.phases import Contract, Seconds
from medvlp.evaluate.tasks.zero_shot import inline, resolved
from medvlp.evaluate.windowed import predict_windows


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ToolsConfig:
    """Presence of tools, or of any timed regions that may overlap, without training."""

    kind: Literal["tools"] = "tools"
    prompts: Path | PromptSet
    """The labels are names of timed regions. An independent set scores each label by its
    positive against its negative prompts; an exclusive one by the softmax of the cosines over
    labels."""

    window_s: Seconds = 1.0
    stride_s: Seconds = 1.0
    within: str = "phase:"
    """What names of the timed regions that mark annotated time begin with."""

    contract: Contract = Field(default_factory=dict)
    """As in task `phases`."""

    headlines: ClassVar[tuple[str, ...]] = (
        "average_precision_video_macro",
        "average_precision_macro",
    )

    def resolve(self, base: Path) -> ToolsConfig:
        """The task with its prompt file taken in.

        Raises:
            ConfigError: The file cannot be used.
        """
        return dataclasses.replace(self, prompts=inline(self.prompts, base))

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of every model and control.

        Raises:
            ConfigError: A label that no manifest knows, or nothing to score.
        """
        prompts = resolved(self.prompts)
        known = known_intervals(study.manifests)
        check_labels(prompts.names, known, "task.prompts", "the manifests' timed regions")
        items, train = (
            annotated_items(
                study.manifests, split, prompts.names,
                window_s=self.window_s, stride_s=self.stride_s, within=self.within,
            )
            for split in (study.split, "train")
        )  # fmt: skip
        fed = [scorer.under(self.contract) for scorer in scorers]
        return predict_windows(
            study, fed, prompts, items, train, window_s=self.window_s, stride_s=self.stride_s
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Average precision within recordings and over all windows."""
        return presence_measures
