"""Maps of every model and control for the same questions, packed as the tables keep them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.data.items import Item
from medvlp.data.permuted import permute_images
from medvlp.data.preprocess import contract_digest
from medvlp.evaluate.controls.places import centre_map, chance_map, mean_map
from medvlp.evaluate.heat import head_grids, heat_grids, smoothed
from medvlp.evaluate.masks import Regions
from medvlp.evaluate.metrics.grounding import Case, LevelKind, choose_level
from medvlp.evaluate.metrics.maps import LEVELS, case_of
from medvlp.evaluate.packed import mask_digest, pack_mask, unpack_mask
from medvlp.evaluate.packed_heat import pack_heat
from medvlp.evaluate.phrases import Question, embed_questions
from medvlp.evaluate.predict import Scorer
from medvlp.evaluate.predictions import ALL
from medvlp.models.answers import aligning_objective, pointing_head, word_grids
from medvlp.progress import track

__all__ = ["Maps", "Pointers", "case_of", "level_rows"]

Row = dict[str, Any]
Floats = NDArray[np.float32]
Answer = tuple[Floats, bool]
"""A map, and whether it is of cosines."""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """One model's maps for Q questions, and the masks on its grid, as rows of tables."""

    model: str
    control: bool
    heat: list[Row]
    mask: list[Row]
    kept: list[int]
    """Questions whose region lies on every model's grid, at least with one pixel."""


class Pointers:
    """Models and controls that answer questions with maps.

    Args:
        scorers: The bundles; an image-blind one sees another patient's image.
        regions: Where the truth is drawn.
        seed: Of chance maps and of the image-blind permutation.
        smooth: Deviation of the Gaussian that blurs models' maps, in cells.
        train: Questions of the training split, for the mean location; none if there are none.
        native: Whether a model whose trained head points answers with that for the names that the
            head knows, and one that was trained to align words with places, by its words.
    """

    def __init__(
        self,
        *,
        scorers: Sequence[Scorer],
        regions: Regions,
        seed: int,
        smooth: float,
        train: Sequence[Question],
        native: bool = False,
    ) -> None:
        self._scorers = list(scorers)
        self._regions = regions
        self._seed = seed
        self._smooth = smooth
        self._train = train
        self._native = native
        self._mean: dict[str, Floats] | None = None

    def maps(self, questions: Sequence[Question]) -> list[Maps]:
        """Every model's maps, then those of the controls, on the first model's grid.

        Raises:
            InputError: A region does not fit its image, or an image cannot be read any more.
        """
        masks: dict[str, list[Row]] = {}
        for scorer in self._scorers:
            contract = contract_digest(scorer.bundle.preprocess.config)
            if contract not in masks:
                masks[contract] = self._masks(scorer, questions)
        empty = {i for rows in masks.values() for i, row in enumerate(rows) if not row.pop("drawn")}
        kept = [i for i in range(len(questions)) if i not in empty]
        found = [
            Maps(
                model=scorer.name,
                control=scorer.control is not None,
                heat=_heat_rows(questions, self._answer(scorer, questions)),
                mask=masks[contract_digest(scorer.bundle.preprocess.config)],
                kept=kept,
            )
            for scorer in self._scorers
        ]
        return found + [
            Maps(
                model=name, control=True, mask=found[0].mask, kept=kept,
                heat=_heat_rows(questions, [(grid, False) for grid in grids]),
            )
            for name, grids in self._blind(questions, found[0].mask).items()
        ]  # fmt: skip

    def _answer(self, scorer: Scorer, questions: Sequence[Question]) -> list[Answer]:
        own = pointing_head(scorer.bundle) if self._native else None
        known = () if own is None else own.answers
        seen = _unique([q.item for q in questions])
        shown = permute_images(seen, self._seed) if scorer.control == "image-blind" else seen
        images = {item.sample: image for item, image in zip(seen, shown, strict=True)}
        asked = [i for i, q in enumerate(questions) if q.name not in known]
        told = [i for i, q in enumerate(questions) if q.name in known]
        aligned = aligning_objective(scorer.bundle) if self._native else None
        by_words = _asked if aligned is None else _read
        found: dict[int, Answer] = {}
        for indices, way in ((asked, by_words), (told, _told)):
            grids = way(scorer, [questions[i] for i in indices], images)
            cosine = way is _asked
            found |= {
                i: (smoothed(grid, self._smooth), cosine)
                for i, grid in zip(indices, grids, strict=True)
            }
        return [found[i] for i in range(len(questions))]

    def _masks(self, scorer: Scorer, questions: Sequence[Question]) -> list[Row]:
        rows = []
        for part in track(_by_image(questions), f"{scorer.name}: regions"):
            reference = self._regions.reference(part[0].item, scorer.bundle.preprocess)
            inside = tuple(slice(a, b) for a, b in reference.image)
            for question in part:
                mask = reference.masks[self._regions.names.index(question.name)]
                rows.append(
                    {
                        "sample": question.item.sample,
                        "name": question.name,
                        "reference": pack_mask(mask),
                        "shape": list(mask.shape),
                        "spacing_mm": reference.spacing_mm and list(reference.spacing_mm),
                        "image": [edge for pair in reference.image for edge in pair],
                        "digest": mask_digest(mask),
                        "drawn": bool(mask[inside].any()),
                    }
                )
        return rows

    def _blind(
        self, questions: Sequence[Question], masks: Sequence[Row]
    ) -> Mapping[str, list[Floats]]:
        shapes = [row["shape"] for row in masks]
        keys = [f"{q.item.key}|{q.name}" for q in questions]
        found = {
            "chance": [chance_map(s, self._seed, key) for s, key in zip(shapes, keys, strict=True)],
            "centre-prior": [centre_map(shape) for shape in shapes],
        }
        if self._train:
            means = self._means()
            found["mean-location"] = [means.get(q.name, means[ALL]) for q in questions]
        return found

    def _means(self) -> dict[str, Floats]:
        """Name -> its mean mask in training, and `ALL` -> that of all names, for the others."""
        if self._mean is None:
            rows = self._masks(self._scorers[0], self._train)
            names = {ALL: rows} | {
                name: own
                for name in self._regions.names
                if (own := [row for row in rows if row["name"] == name])
            }
            self._mean = {
                name: found
                for name, own in names.items()
                if (found := mean_map(unpack_mask(r["reference"], r["shape"]) for r in own))
                is not None
            }
        return self._mean


def level_rows(maps: Sequence[Maps], names: Sequence[str], kind: LevelKind) -> pl.DataFrame:
    """Table `levels`: the threshold of every model and name, chosen on validation maps.

    A name without validation cases takes the level of all of them together.
    """
    rows: list[Row] = []
    for one in maps:
        if not one.kept:
            continue
        of_name = {
            name: own
            for name in names
            if (own := [i for i in one.kept if one.heat[i]["name"] == name])
        }
        chosen = {
            name: (*_level(one, own, kind), len(own))
            for name, own in track({ALL: one.kept, **of_name}.items(), f"{one.model}: thresholds")
        }
        for name in names:
            level, iou, count = chosen.get(name, chosen[ALL])
            rows.append(
                {
                    "model": one.model, "name": name, "kind": kind, "level": level,
                    "iou": iou, "cases": count,
                }
            )  # fmt: skip
    return pl.DataFrame(rows, schema=LEVELS)


def _level(one: Maps, own: Sequence[int], kind: LevelKind) -> tuple[float, float]:
    def cases() -> Iterator[Case]:
        return (case_of(one.heat[i], one.mask[i]) for i in own)

    span = min(one.heat[i]["low"] for i in own), max(one.heat[i]["high"] for i in own)
    return choose_level(cases(), kind, span)


def _asked(
    scorer: Scorer, questions: Sequence[Question], images: Mapping[str, Item]
) -> Iterator[Floats]:
    """Maps by texts; questions of one image stand together, in the order of the images."""
    text_QE = iter(embed_questions(scorer, questions))
    parts = _by_image(questions)
    texts = [np.stack([next(text_QE) for _ in part]) for part in parts]
    shown = [images[part[0].item.sample] for part in parts]
    return chain.from_iterable(heat_grids(scorer, shown, texts))


def _read(
    scorer: Scorer, questions: Sequence[Question], images: Mapping[str, Item]
) -> Iterator[Floats]:
    """Maps by the words of texts."""
    aligned = aligning_objective(scorer.bundle)
    assert aligned is not None
    known = {q.texts: scorer.bundle.project_texts(q.texts) for q in questions}
    parts = _by_image(questions)
    shown = [images[part[0].item.sample] for part in parts]
    for part, stored in zip(parts, scorer.stored(shown), strict=True):
        yield from word_grids(scorer.bundle, aligned, stored, [known[q.texts] for q in part])


def _told(
    scorer: Scorer, questions: Sequence[Question], images: Mapping[str, Item]
) -> Iterator[Floats]:
    """Maps by the model's own head."""
    parts = _by_image(questions)
    shown = [images[part[0].item.sample] for part in parts]
    return chain.from_iterable(head_grids(scorer, shown, [[q.name for q in p] for p in parts]))


def _by_image(questions: Sequence[Question]) -> list[list[Question]]:
    return [list(part) for _, part in groupby(questions, lambda q: q.item.sample)]


def _heat_rows(questions: Sequence[Question], answers: Sequence[Answer]) -> list[Row]:
    rows = []
    for question, (grid, cosine) in zip(questions, answers, strict=True):
        packed = pack_heat(grid)
        rows.append(
            {
                "sample": question.item.sample, "name": question.name, "heat": packed.data,
                "shape": list(packed.shape), "low": packed.low, "high": packed.high,
                "cosine": cosine, "digest": packed.digest,
            }
        )  # fmt: skip
    return rows


def _unique(items: Sequence[Item]) -> list[Item]:
    return list({item.sample: item for item in items}.values())
