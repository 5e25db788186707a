"""Task `finetune`: the whole image tower, trained on labels from the model's weights on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.randomness import generator
from medvlp.encoding import ImageEncoder
from medvlp.evaluate.heads.arrays import Arrays, deterministic
from medvlp.evaluate.heads.calibrate import macro_auroc
from medvlp.evaluate.heads.entrants import Entrant
from medvlp.evaluate.heads.labels import (
    Logits,
    TrainedLabels,
    predict_trained,
    trained_measures,
)
from medvlp.evaluate.heads.loop import search_trained, train
from medvlp.evaluate.heads.search import Found, SearchConfig, Setting
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.predict import Predicted, Scorer, Study
from medvlp.evaluate.predictions import Evidence


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneConfig(TrainedLabels):
    """The image tower and a linear head on its pooled features, trained end to end.

    Images are augmented as the bundle's own preprocessing contract says. Settings and the moment
    to stop are chosen by the mean AUROC on the validation split; probabilities and thresholds
    come from there, too.
    """

    kind: Literal["finetune"] = "finetune"
    search: SearchConfig = SearchConfig()

    headlines: ClassVar[tuple[str, ...]] = ("auroc_macro",)

    def resolve(self, base: Path) -> FinetuneConfig:
        """The same task: it names no file."""
        return self

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of every model and control.

        Raises:
            ConfigError: See `predict_trained`.
        """
        return predict_trained(study, scorers, self, self._fit, self.search)

    def _fit(self, entrant: Entrant, seed: int) -> Found[Logits]:
        arrays = Arrays(entrant.scorer)
        splits = entrant.splits
        arrays.check([*splits.train, *splits.valid, *splits.test])
        truth_NL = np.stack([item.labels_L for item in splits.train])
        valid_NL = np.stack([item.labels_L for item in splits.valid])
        target_NL = torch.from_numpy(np.nan_to_num(truth_NL, nan=-1.0))
        size = self.search.batch_size

        def trial(setting: Setting) -> tuple[Tuned, float]:
            with torch.random.fork_rng(devices=[]):
                deterministic(seed, "finetune")
                module = Tuned(entrant.scorer.bundle.model.image, len(self.labels))
                module.to(entrant.scorer.bundle.device)

                def loss(chosen: list[int], epoch: int) -> Tensor:
                    items = [splits.train[i] for i in chosen]
                    rngs = [generator(seed, epoch, item.key, "augment") for item in items]
                    logit_BL = module.train()(arrays.input(items, rngs))
                    return masked_cross_entropy(logit_BL, target_NL[chosen].to(logit_BL.device))

                score = train(
                    module,
                    loss,
                    lambda: macro_auroc(_logits(module, arrays, splits.valid, size), valid_NL),
                    count=len(splits.train),
                    config=self.search,
                    setting=setting,
                    seed=seed,
                    label=f"{entrant.name}: training",
                )
            return module, score

        found = search_trained(self.search, trial, entrant.name)
        best = Logits(
            valid_NL=_logits(found.best, arrays, splits.valid, size),
            test_NL=_logits(found.best, arrays, splits.test, size),
        )
        return Found(best=best, chosen=found.chosen, trials=found.trials)

    def measures(self, evidence: Evidence) -> Measures:
        """AUROC, average precision, calibration, and sensitivity at the validation threshold."""
        return trained_measures(evidence)


class Tuned(nn.Module):
    """A copy of an image tower with a linear head; parts named as `medvlp.train.parts` has it."""

    def __init__(self, tower: ImageEncoder, labels: int) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"image": copy.deepcopy(tower)})
        head = nn.Linear(tower.width, labels)
        # All labels start at even odds, whatever the seed.
        nn.init.trunc_normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        self.objectives = nn.ModuleDict({"labels": head})

    def forward(self, image: Tensor) -> Tensor:
        """(B,L) logits."""
        logit_BL: Tensor = self.objectives["labels"](self.model["image"](image).pooled_BD)
        return logit_BL.float()


def masked_cross_entropy(logit_BL: Tensor, label_BL: Tensor) -> Tensor:
    """Mean binary cross-entropy of the labels that are 0 or 1; 0 where none is."""
    known_BL = (label_BL == 0) | (label_BL == 1)
    target_BL = torch.where(known_BL, label_BL, 0.0)
    each_BL = F.binary_cross_entropy_with_logits(logit_BL, target_BL, reduction="none")
    return (each_BL * known_BL).sum() / known_BL.sum().clamp(min=1)


@torch.inference_mode()
def _logits(
    module: nn.Module, arrays: Arrays, items: Sequence[Item], size: int
) -> NDArray[np.float64]:
    module.eval()
    parts = [module(image).double().cpu().numpy() for image in arrays.each(items, size)]
    return np.concatenate(parts)
