"""Task `probe`: what a frozen encoder's features tell, by a linear head or by neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.evaluate.heads.calibrate import macro_auroc
from medvlp.evaluate.heads.entrants import Entrant
from medvlp.evaluate.heads.frozen import (
    Features,
    features_of_each,
    linear_logits,
    neighbour_logits,
)
from medvlp.evaluate.heads.labels import (
    Logits,
    TrainedLabels,
    predict_trained,
    trained_measures,
)
from medvlp.evaluate.heads.search import Found, Setting, search
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.predict import Predicted, Scorer, Study
from medvlp.evaluate.predictions import Evidence


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProbeSearch:
    """The budget of a probe: every value of its method is tried once, for every model."""

    strengths: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0), min_length=1
    )
    """``linear``: C, the inverse of the L2 penalty."""

    neighbours: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 3, 5, 10, 20, 50, 200), min_length=1
    )
    """``knn``: how many training samples vote."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProbeConfig(TrainedLabels):
    """Linear probe or nearest neighbours on the image tower's pooled features.

    Features are computed once and standardised by the training samples. The setting with the
    best mean AUROC on the validation split is taken; probabilities and thresholds come from
    there, too.
    """

    kind: Literal["probe"] = "probe"
    method: Literal["linear", "knn"] = "linear"
    search: ProbeSearch = ProbeSearch()

    headlines: ClassVar[tuple[str, ...]] = ("auroc_macro",)

    def resolve(self, base: Path) -> ProbeConfig:
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

        return predict_trained(study, scorers, self, fit, self.search)

    def _fit(self, own: Features) -> Found[Logits]:
        given = own.train_ND, own.train_NL, own.others

        def trial(setting: Setting) -> tuple[Logits, float]:
            if self.method == "linear":
                valid, test = linear_logits(*given, setting["C"])
            else:
                valid, test = neighbour_logits(*given, int(setting["k"]))
            return Logits(valid_NL=valid, test_NL=test), macro_auroc(valid, own.valid_NL)

        settings = (
            [{"C": value} for value in self.search.strengths]
            if self.method == "linear"
            else [{"k": float(value)} for value in self.search.neighbours]
        )
        return search(settings, trial)

    def measures(self, evidence: Evidence) -> Measures:
        """AUROC, average precision, calibration, and sensitivity at the validation threshold."""
        return trained_measures(evidence)
