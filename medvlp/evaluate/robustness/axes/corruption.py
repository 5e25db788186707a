"""Task `corruption`: what is left of the answers when images get worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.robustness.asking import CLEAN, Sheet, answered, lookers
from medvlp.evaluate.robustness.axes.imaged import ImagedConfig, wanted
from medvlp.evaluate.robustness.cells import corruption_measures
from medvlp.evaluate.robustness.corruptions.apply import KINDS, LEVELS, Level, corrupted, psnr
from medvlp.evaluate.robustness.forms import form_of
from medvlp.evaluate.tasks.zero_shot import resolved
from medvlp.progress import track


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CorruptionConfig(ImagedConfig):
    """Every kind of corruption at every level, of the same items."""

    kind: Literal["corruption"] = "corruption"
    kinds: tuple[str, ...] | None = None
    """Which corruptions; all of the images' form if not given."""

    levels: tuple[Level, ...] = LEVELS

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of the clean and of every corrupted version of each item.

        Raises:
            ConfigError: Stored arrays of an unknown form, or an unknown kind.
        """
        items, prompts = self.drawn(study), resolved(self.prompts)
        sheet = Sheet(items, self.names, subgroups(study.manifests))
        losses: list[dict[str, Any]] = []
        kinds: tuple[str, ...] = ()
        for scorer in lookers(scorers):
            clean = list(scorer.stored(items))
            form = form_of(clean[0])
            kinds = wanted(self.kinds, list(KINDS[form.kind]), "task.kinds")
            sheet.add(scorer, CLEAN, answered(scorer, clean, prompts, self.names))
            cells = [(kind, level) for kind in kinds for level in self.levels]
            for kind, level in track(cells, f"{scorer.name}: corruptions"):
                changed = self._changed(clean, items, kind, level)
                found = answered(scorer, changed, prompts, self.names)
                sheet.add(scorer, f"{kind}/{level}", found)
                told = {"model": scorer.name, "seed": study.seed, "change": kind, "level": level}
                losses.append(told | _loss(clean, changed))
        return Predicted(
            rows=as_predictions(sheet.rows, study),
            counts={"items": len(items), "kinds": len(kinds), "levels": len(self.levels)},
            prompts=prompts,
            beside={"corruptions": pl.DataFrame(losses)},
        )

    def _changed(
        self, clean: Sequence[NDArray[Any]], items: Sequence[Item], kind: str, level: int
    ) -> list[NDArray[Any]]:
        return [
            corrupted(array, kind, level, seed=self.seed, sample=item.key)
            for array, item in zip(clean, items, strict=True)
        ]

    def measures(self, evidence: Evidence) -> Measures:
        """AUROC, clean and corrupted, and what is kept of it."""
        return corruption_measures


def _loss(clean: Sequence[NDArray[Any]], changed: Sequence[NDArray[Any]]) -> dict[str, Any]:
    found = [psnr(a, b) for a, b in zip(clean, changed, strict=True)]
    finite = [value for value in found if np.isfinite(value)]
    return {
        "psnr_db": float(np.mean(finite)) if finite else None,
        "unchanged": len(found) - len(finite),
    }
