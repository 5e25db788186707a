"""Task `probe`: what a frozen encoder's features tell, by a linear head or by neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.evaluate.heads.calibrate import macro_auroc
from medvlp.evaluate.heads.entrants import Entrant
from medvlp.evaluate.heads.frozen import FeatureBank, fit_scale, linear_logits, neighbour_logits
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
        banks: dict[Any, FeatureBank] = {}

        def fit(entrant: Entrant, seed: int) -> Found[Logits]:
            bundle = entrant.scorer.bundle
            if bundle not in banks:
                banks[bundle] = FeatureBank(entrant.scorer)
            return self._fit(entrant, banks[bundle])

        return predict_trained(study, scorers, self, fit, self.search)

    def _fit(self, entrant: Entrant, bank: FeatureBank) -> Found[Logits]:
        splits = entrant.splits
        train_ND = bank.of(splits.train)
        scale = fit_scale(train_ND)
        others = [scale(bank.of(splits.valid)), scale(bank.of(splits.test))]
        train_NL, valid_NL = (
            np.stack([item.labels_L for item in items]) for items in (splits.train, splits.valid)
        )

        def trial(setting: Setting) -> tuple[Logits, float]:
            if self.method == "linear":
                valid, test = linear_logits(scale(train_ND), train_NL, others, setting["C"])
            else:
                count = int(setting["k"])
                valid, test = neighbour_logits(scale(train_ND), train_NL, others, count)
            return Logits(valid_NL=valid, test_NL=test), macro_auroc(valid, valid_NL)

        settings = (
            [{"C": value} for value in self.search.strengths]
            if self.method == "linear"
            else [{"k": float(value)} for value in self.search.neighbours]
        )
        return search(settings, trial)

    def measures(self, evidence: Evidence) -> Measures:
        """AUROC, average precision, calibration, and sensitivity at the validation threshold."""
        return trained_measures(evidence)
