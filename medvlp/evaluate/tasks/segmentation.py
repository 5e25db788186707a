"""Task `segmentation`: where structures lie, by a head on a frozen or tuned encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.preprocess import contract_digest
from medvlp.evaluate.cases import check_labels, subgroups
from medvlp.evaluate.heads.decoders import HeadKind
from medvlp.evaluate.heads.entrants import CONTROLS, Control, entrants
from medvlp.evaluate.heads.search import SearchConfig, trial_rows
from medvlp.evaluate.heads.segment import (
    CALLED,
    Recipe,
    References,
    Segment,
    fit_segmenter,
    mean_masks,
)
from medvlp.evaluate.heads.splits import Share, Splits, check_apart, labelled_splits
from medvlp.evaluate.masks import MASK_KINDS, Regions, known_regions
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.regions import region_measures
from medvlp.evaluate.packed import MASKS, mask_row
from medvlp.evaluate.predict import Predicted, Scorer, Study, label_rows
from medvlp.evaluate.predictions import PREDICTIONS, Evidence
from medvlp.models.inputs import chunks


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SegmentationConfig:
    """Masks of named structures, each told apart from its own background.

    Prediction and reference lie on the grid of the model's input. Settings are chosen by the
    mean Dice on the validation split. Images are not augmented: the contract's augmentation
    would move the image under its mask.
    """

    kind: Literal["segmentation"] = "segmentation"
    structures: tuple[str, ...] = Field(min_length=1)
    """Names of the manifests' regions. Where a sample has none of a name, its mask is empty if
    its label of that name is 0, and else not known and left out."""

    head: HeadKind = "unet"
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    """Channels inside the head."""

    encoder: Literal["frozen", "tuned"] = "frozen"
    boxes_as_masks: bool = False
    """Whether a box counts as a mask, filled, where a name has no mask file in a sample."""

    tolerance_mm: Annotated[float, Field(gt=0)] = 2.0
    """Surfaces this near to each other agree, for the surface Dice."""

    subset: Share = "100%"
    """How much of the training split: one protocol has one subset."""

    seeds: Annotated[int, Field(ge=1)] = 1
    controls: tuple[Control, ...] = CONTROLS
    """Controls that are the same training with altered inputs."""

    search: SearchConfig = SearchConfig(rates=(3e-4, 1e-3), batch_size=8)

    headlines: ClassVar[tuple[str, ...]] = ("dice_macro",)

    def resolve(self, base: Path) -> SegmentationConfig:
        """The same task: it names no file."""
        return self

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Masks of every model and control.

        Raises:
            ConfigError: An unknown structure, a missing subset, splits that are empty or share
                files, or a training that diverged for every setting.
            InputError: An image or a mask cannot be read any more, or does not fit its image.
        """
        kinds = ("box", *MASK_KINDS) if self.boxes_as_masks else MASK_KINDS
        known = known_regions(study.manifests, kinds)
        check_labels(self.structures, known, "task.structures", "the manifests' regions")
        regions = Regions(study.manifests, self.structures, boxes=self.boxes_as_masks)
        every = labelled_splits(study, self.structures, self.subset, 0, None)
        splits = Splits(
            train=tuple(regions.among(every.train)),
            valid=tuple(regions.among(every.valid)),
            test=tuple(regions.among(every.test)),
        )
        check_apart(splits.named(study.split))
        on_grid: dict[str, References] = {}

        def references(scorer: Scorer) -> References:
            preprocess = scorer.bundle.preprocess
            digest = contract_digest(preprocess.config)
            if digest not in on_grid:
                everyone = (*splits.train, *splits.valid, *splits.test)
                on_grid[digest] = References(regions, preprocess, everyone)
            return on_grid[digest]

        rows, masks, trials = [], [], []
        for seed in range(study.seed, study.seed + self.seeds):
            drawn = []
            for entrant in entrants(scorers, splits, seed, self.controls):
                found = fit_segmenter(entrant, references(entrant.scorer), self._recipe(), seed)
                trials.append(trial_rows(entrant.name, seed, found, self.search))
                drawn.append(
                    _Drawn(
                        entrant.name, entrant.control, seed, entrant.splits.test, found.best,
                        references(entrant.scorer),
                    )
                )  # fmt: skip
            prior = _prior(splits, references(scorers[0]))
            drawn.append(
                _Drawn("prevalence", True, seed, splits.test, prior, references(scorers[0]))
            )
            for one in drawn:
                told, table = self._table(study, splits.test, one)
                rows.append(told)
                masks.append(table)
        return Predicted(
            rows=pl.concat(rows),
            counts={
                "training_samples": len(splits.train),
                "validation_samples": len(splits.valid),
                "samples_without_regions": len(every.test) - len(splits.test),
            },
            beside={"masks": pl.concat(masks), "trials": pl.concat(trials)},
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Foreground Dice, surface Dice, HD95; what is missed; what is drawn where nothing is."""
        return region_measures(evidence.beside["masks"], self.tolerance_mm)

    def _recipe(self) -> Recipe:
        return Recipe(
            head=self.head,
            width=self.width,
            tuned=self.encoder == "tuned",
            structures=len(self.structures),
            search=self.search,
        )

    def _table(
        self, study: Study, items: Sequence[Item], drawn: _Drawn
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """One training's rows of `PREDICTIONS` and of `MASKS`."""
        truth = np.full((len(items), len(self.structures)), np.nan, np.float32)
        scores = np.zeros(truth.shape)
        entries = []
        for n, found in enumerate(drawn.probabilities(self.search.batch_size)):
            reference = drawn.references.of(items[n])
            for k in np.flatnonzero(reference.known_K):
                truth[n, k] = reference.masks[k].any()
                scores[n, k] = found[k].max()
                about = {
                    "model": drawn.name, "seed": drawn.seed, "sample": items[n].sample,
                    "name": self.structures[k],
                }  # fmt: skip
                mask = found[k] >= CALLED
                entries.append(mask_row(about, mask, reference.masks[k], reference.spacing_mm))
        masks = pl.DataFrame(entries, schema=MASKS)
        rows = label_rows(
            dataclasses.replace(study, seed=drawn.seed), items, self.structures, truth,
            {drawn.name: (scores, drawn.control)}, subgroups(study.manifests),
        )  # fmt: skip
        digests = masks.select("sample", "name", "digest")
        joined = rows.drop("digest").join(
            digests, on=["sample", "name"], how="left", maintain_order="left"
        )
        return joined.select(PREDICTIONS.names()), masks


@dataclasses.dataclass(frozen=True)
class _Drawn:
    name: str
    control: bool
    seed: int
    shown: Sequence[Item]
    segment: Segment
    references: References

    def probabilities(self, size: int) -> Iterator[NDArray[Any]]:
        for chunk in chunks(self.shown, size):
            yield from self.segment(chunk)


def _prior(splits: Splits, references: References) -> Segment:
    mean = mean_masks(splits.train, references)
    return lambda items: np.repeat(mean[None], len(items), axis=0)
