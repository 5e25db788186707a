"""Task `grounding`: where in an image a finding lies, asked for in words.

A model's map is the cosine of its patches with the words, or, on request, what its own trained head
shows. Maps and masks are kept, and every metric follows from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.prompts import PromptSet
from medvlp.data.regions import PICTURE_KINDS
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import check_labels, sample_items, subgroups
from medvlp.evaluate.masks import Regions, known_regions
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.grounding import LevelKind
from medvlp.evaluate.metrics.maps import grounding_measures
from medvlp.evaluate.phrases import Question, ask_by_phrases, ask_by_prompts
from medvlp.evaluate.pointing import Maps, Pointers, case_of, level_rows
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.tasks.zero_shot import inline
from medvlp.progress import track


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GroundingConfig:
    """Pointing at findings without training; only images in which a region is drawn count."""

    kind: Literal["grounding"] = "grounding"
    prompts: Path | PromptSet | None = None
    """The prompt set, or its file relative to the protocol's; a label's positive prompts ask for
    the regions of its name. Without it, each image is asked with its own report's words: the text
    nodes that the table of entities ties to the region's name."""

    labels: tuple[str, ...] | None = None
    """Names of regions; by default all those of the prompt set that are drawn anywhere."""

    answer: Literal["text", "native"] = "text"
    """``text``: the cosines of patches with words. ``native``: where a model was trained with a
    head that points and that knows the name, the places that the head looks at; where it was
    trained to align words with places (`local`, `hierarchical`), those that the words look at;
    else cosines."""

    smooth: Annotated[float, Field(ge=0)] = 0.0
    """Deviation, in cells of the model's grid, of a Gaussian that blurs its maps; BioViL used
    1.5 (arXiv:2204.09817)."""

    threshold: LevelKind = "quantile"
    """How a map becomes a mask for IoU and Dice: above a quantile of its own pixels, or above a
    value. Which one is chosen for each name and model, by IoU on `threshold_split`."""

    threshold_split: str = "valid"
    """Where thresholds are chosen: never the split that is evaluated."""

    headlines: ClassVar[tuple[str, ...]] = (
        "pixel_average_precision_macro", "pointing_game_macro", "area_share_macro",
    )  # fmt: skip

    def resolve(self, base: Path) -> GroundingConfig:
        """The task with its prompt file taken in.

        Raises:
            ConfigError: The file cannot be used, or does not hold a label that is evaluated.
        """
        if self.prompts is None:
            return self
        prompts = inline(self.prompts, base)
        check_labels(self.labels or (), prompts.names, "task.labels", "the prompt set")
        return dataclasses.replace(self, prompts=prompts)

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Maps of every model and control, and their average precision as score.

        Raises:
            ConfigError: Nothing is drawn, or the threshold's split is not apart from the
                evaluated one.
            InputError: A region does not fit its image.
        """
        names = self._names(study)
        regions = Regions(study.manifests, names, boxes=True)
        seen = {
            split: sample_items(study.manifests, split, (), domain=study.domain)
            for split in dict.fromkeys((study.split, self.threshold_split, "train"))
        }
        self._apart(study, seen)
        asked, wordless = self._ask(study, regions, seen[study.split])
        if not asked:
            raise ConfigError(
                f"{study.protocol}: no region of {', '.join(names)} in split {study.split!r}",
                remedy="name other labels, or another data.split",
            )
        able = [scorer for scorer in scorers if scorer.control != "supervised-unimodal"]
        pointers = Pointers(
            scorers=able, regions=regions, seed=study.seed, smooth=self.smooth,
            native=self.answer == "native",
            train=self._ask(study, regions, seen["train"])[0] if study.split != "train" else [],
        )  # fmt: skip
        chosen = self._ask(study, regions, seen[self.threshold_split])[0]
        maps = pointers.maps(asked)
        if not maps[0].kept:
            raise ConfigError(
                f"{study.protocol}: all regions lie outside what the models see",
                remedy="use models whose preprocessing keeps these parts of the image",
            )
        levels = level_rows(pointers.maps(chosen) if chosen else [], names, self.threshold)
        prompts = self.prompts if isinstance(self.prompts, PromptSet) else None
        return Predicted(
            rows=_rows(maps, asked, study),
            counts={
                "questions": len(asked),
                "images_without_region": len(seen[study.split]) - _images(asked),
                "regions_without_words": wordless,
                "regions_outside_the_grid": len(asked) - len(maps[0].kept),
                "threshold_questions": len(chosen),
                "models_that_cannot_point": len(scorers) - len(able),
                **(_ways(maps[: len(able)]) if self.answer == "native" else {}),
            },
            prompts=prompts,
            items=tuple(q.item for q in asked),
            beside={
                "heatmaps": _table(maps, "heat", study.seed),
                "masks": _table(maps, "mask", study.seed),
                "levels": levels.with_columns(seed=pl.lit(study.seed, pl.Int64)),
            },
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Pointing game, average precision of pixels, contrast to noise, IoU and Dice."""
        return grounding_measures(evidence)

    def _names(self, study: Study) -> tuple[str, ...]:
        drawn = known_regions(study.manifests, [*PICTURE_KINDS, "mask"])
        offered = self.prompts.names if isinstance(self.prompts, PromptSet) else drawn
        names = self.labels or tuple(name for name in offered if name in drawn)
        check_labels(names or offered, drawn, "task.labels", "the manifests' regions")
        return tuple(names)

    def _apart(self, study: Study, seen: dict[str, list[Item]]) -> None:
        test = {item.sha256 for item in seen[study.split]}
        both = test & {item.sha256 for item in seen[self.threshold_split]}
        if self.threshold_split == study.split or both:
            raise ConfigError(
                f"task.threshold_split: {len(both)} image(s) of split {self.threshold_split!r} are "
                f"also evaluated",
                remedy="choose thresholds on other images than those that are evaluated",
            )

    def _ask(
        self, study: Study, regions: Regions, items: Sequence[Item]
    ) -> tuple[list[Question], int]:
        if not isinstance(self.prompts, PromptSet):
            return ask_by_phrases(items, regions, study.manifests)
        texts = {name: self.prompts.labels[name].positive for name in regions.names}
        return ask_by_prompts(items, regions, texts), 0


def _ways(maps: Sequence[Maps]) -> dict[str, int]:
    """How many models' maps come from their heads or words, and how many are of cosines."""
    cosine = [row["cosine"] for one in maps for row in one.heat]
    return {"maps_by_head": cosine.count(False), "maps_by_text": cosine.count(True)}


def _images(questions: Sequence[Question]) -> int:
    return len({q.item.sample for q in questions})


def _rows(maps: Sequence[Maps], asked: Sequence[Question], study: Study) -> pl.DataFrame:
    meta = subgroups(study.manifests)
    rows = [
        describe(asked[i].item, meta)
        | {
            "name": asked[i].name, "model": one.model, "control": one.control, "label": 1,
            "score": case_of(one.heat[i], one.mask[i]).average_precision(),
            "digest": one.heat[i]["digest"],
        }
        for one in maps
        for i in track(one.kept, f"{one.model}: average precision")
    ]  # fmt: skip
    schema = {"age_band": pl.String, "time_s": pl.Float64}
    return as_predictions(pl.DataFrame(rows, schema_overrides=schema), study)


def _table(maps: Sequence[Maps], what: Literal["heat", "mask"], seed: int) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {"model": one.model, "seed": seed} | getattr(one, what)[i] for one in maps for i in one.kept
    ]
    return pl.DataFrame(
        rows, schema_overrides={"spacing_mm": pl.List(pl.Float64)} if what == "mask" else None
    )
