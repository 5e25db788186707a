"""Task `phase-probe`: phases or steps by a linear head on frozen features, from few procedures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.evaluate.heads.entrants import Entrant
from medvlp.evaluate.heads.frozen import Features, choice_logits, features_of_each
from medvlp.evaluate.heads.labels import Floats, Logits, TrainedLabels, predict_trained
from medvlp.evaluate.heads.search import Found, Setting, search
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.phases import phase_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.tasks.phases import CONVENTIONS, Contract


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhaseProbeConfig(TrainedLabels):
    """Few-shot recognition of phases: one multinomial regression on windows' pooled features.

    `subset` counts procedures of the training split. A window counts for the label whose interval
    covers its middle; windows of no label or of two are left out, in training, too. The penalty
    with the best macro F1 over the validation windows is taken.
    """

    exclusive: ClassVar[bool] = True

    kind: Literal["phase-probe"] = "phase-probe"
    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(1e-4, 1e-3, 1e-2, 0.1, 1.0), min_length=1
    )
    """C, the inverse of the L2 penalty: the whole budget, tried once for every model."""

    convention: Literal["frames", "surgvlp", "tecno", "surglavi"] = "frames"
    """Whose averages are shown first, as in task `phases`."""

    tolerance_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds from a boundary within which a call is forgiven in the relaxed metrics."""

    contract: Contract = Field(default_factory=dict)
    """As in task `phases`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows is None:
            raise ValueError("windows: give window_s and stride_s")
        if self.subset.endswith("shot"):
            raise ValueError(f"subset {self.subset}: name a share of the procedures, such as 10%")

    @property
    def headlines(self) -> tuple[str, ...]:
        """The convention's metrics."""
        return CONVENTIONS[self.convention]

    def resolve(self, base: Path) -> PhaseProbeConfig:
        """The same task: it names no file."""
        return self

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of every model and control.

        Raises:
            ConfigError: See `predict_trained`.
        """
        features = features_of_each()

        def fit(entrant: Entrant, seed: int) -> Found[Logits]:
            return self._fit(features(entrant))

        fed = [scorer.under(self.contract) for scorer in scorers]
        return predict_trained(study, fed, self, fit, self.strengths)

    def _fit(self, own: Features) -> Found[Logits]:
        def trial(setting: Setting) -> tuple[Logits, float]:
            valid, test = choice_logits(own.train_ND, own.train_NL, own.others, setting["C"])
            return Logits(valid_NL=valid, test_NL=test), _macro_f1(valid, own.valid_NL)

        return search([{"C": value} for value in self.strengths], trial)

    def measures(self, evidence: Evidence) -> Measures:
        """As task `phases`."""
        return partial(phase_measures, tolerance_s=self.tolerance_s)


def _macro_f1(logit_NL: Floats, label_NL: Floats) -> float:
    """Mean F1 of the labels that are true or called in some row."""
    called_NL = logit_NL.argmax(axis=1)[:, None] == np.arange(logit_NL.shape[1])
    both_L = ((label_NL == 1) & called_NL).sum(axis=0)
    either_L = (label_NL == 1).sum(axis=0) + called_NL.sum(axis=0)
    return float((2 * both_L[either_L > 0] / either_L[either_L > 0]).mean())
