"""Task `grounded`: whether an answer comes from the image, and from the right place in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.prompts import PromptSet
from medvlp.data.randomness import generator
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.masks import Regions
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.robustness.asking import lookers
from medvlp.evaluate.robustness.attacks.pictures import Floats, label_directions
from medvlp.evaluate.robustness.axes.imaged import ImagedConfig
from medvlp.evaluate.robustness.forms import form_of
from medvlp.evaluate.robustness.places import Box, blank, boxes_of, covered, elsewhere
from medvlp.evaluate.robustness.sentences import credit, share_measures
from medvlp.evaluate.tasks.zero_shot import resolved

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GroundedConfig(ImagedConfig):
    """Four comparisons about each finding that an item has.

    ``image-over-blank``: the finding scores higher with the image than with an empty one.
    ``image-over-absent``: it scores higher than with the image of a patient without the finding.
    ``own-over-same-label``: the item's own report fits it better than it fits the image of
    another patient with the same finding.
    ``lesion-over-elsewhere``: its score falls by more when the finding's box is covered than when
    as much is covered elsewhere; not asked of video, whose boxes lie at moments.
    """

    kind: Literal["grounded"] = "grounded"

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """A credit for every comparison of every model.

        Raises:
            ConfigError: No item has a finding.
        """
        items, prompts = self.drawn(study), resolved(self.prompts)
        cases = _Cases(items, self.names, study, self.seed)
        tables = [
            _rows(cases, scorer, prompts, study) for scorer in lookers(scorers) if cases.found
        ]
        if not any(len(table) for table in tables):
            raise ConfigError(
                f"{study.protocol}: no finding that could be compared",
                remedy="evaluate items of which some have a finding and others do not",
            )
        rows = pl.concat(tables)
        beside = rows.select("model", "seed", "sample", "name", "right", "wrong")
        families = rows["name"].str.split("/").list.first()
        return Predicted(
            rows=as_predictions(rows.drop("right", "wrong"), study),
            counts={name: int((families == name).sum()) for name in families.unique().sort()},
            prompts=prompts,
            beside={"comparisons": beside},
        )

    def measures(self, evidence: Evidence) -> Measures:
        """The share of right comparisons, ties counting half."""
        return share_measures("grounded")


class _Cases:
    """Items with findings, and what each is compared with, the same for all models."""

    def __init__(
        self, items: Sequence[Item], names: Sequence[str], study: Study, seed: int
    ) -> None:
        self.items, self.names, self.seed = items, names, seed
        self.reports = _reports(study)
        self.regions = Regions(study.manifests, names, boxes=True)
        self.found = [
            (i, column)
            for i, item in enumerate(items)
            for column in range(len(names))
            if item.labels_L[column] == 1
        ]

    def other(self, i: int, column: int, value: float) -> int | None:
        """Another patient's item whose label has this value, drawn by the item's key."""
        own = self.items[i]
        options = [
            k
            for k, item in enumerate(self.items)
            if item.labels_L[column] == value and item.patient != own.patient
        ]
        if not options:
            return None
        rng = generator(self.seed, column, own.key, f"another patient {value:.0f}")
        return options[int(rng.integers(len(options)))]


def _reports(study: Study) -> dict[str, str]:
    found: dict[str, str] = {}
    for manifest in study.manifests:
        rows = manifest.texts.filter(pl.col("level") == "report").sort("sample", "order")
        for sample, text in rows.select("sample", "text").iter_rows():
            found.setdefault(sample, text)
    return found


def _contrasts(scorer: Scorer, prompts: PromptSet, names: Sequence[str]) -> Floats:
    """(L,E): a label's score is the product with the image's vector, against its alternative."""
    way_LE = label_directions(scorer.bundle, prompts, names)
    if prompts.mode == "exclusive":
        way_LE = way_LE - (way_LE.sum(0) - way_LE) / np.float32(max(1, len(names) - 1))
    return way_LE


def _rows(cases: _Cases, scorer: Scorer, prompts: PromptSet, study: Study) -> pl.DataFrame:
    arrays = list(scorer.stored(cases.items))
    told = [
        *_whole(cases, scorer, arrays, prompts),
        *_places(cases, scorer, arrays, prompts),
    ]
    meta = subgroups(study.manifests)
    about = {"model": scorer.name, "seed": study.seed, "control": scorer.control is not None}
    return pl.DataFrame(
        [
            {**describe(cases.items[i], meta), **about, "name": name, "label": 1,
             "score": credit(right, wrong), "right": right, "wrong": wrong}
            for i, name, right, wrong in told
        ],
        infer_schema_length=None,
    )  # fmt: skip


Told = tuple[int, str, float, float]
"""(item, name, the score that should be higher, the one that should be lower)."""


def _whole(cases: _Cases, scorer: Scorer, arrays: Arrays, prompts: PromptSet) -> Iterator[Told]:
    image_NE = scorer.bundle.embed_stored(arrays)
    empty_NE = scorer.bundle.embed_stored(blank(array) for array in arrays)
    way_LE = _contrasts(scorer, prompts, cases.names)
    texts = [cases.reports.get(item.sample) for item in cases.items]
    told = list(dict.fromkeys(text for text in texts if text))
    text_of = dict(zip(told, scorer.bundle.embed_text(told), strict=True))
    for i, column in cases.found:
        name, way = cases.names[column], way_LE[column]
        own = float(image_NE[i] @ way)
        yield i, f"image-over-blank/{name}", own, float(empty_NE[i] @ way)
        absent, same = (cases.other(i, column, value) for value in (0.0, 1.0))
        if absent is not None:
            yield i, f"image-over-absent/{name}", own, float(image_NE[absent] @ way)
        text = texts[i] if cases.items[i].span is None else None
        if same is not None and text and texts[same] != text:
            fits = [float(image_NE[k] @ text_of[text]) for k in (i, same)]
            yield i, f"own-over-same-label/{name}", fits[0], fits[1]


def _places(cases: _Cases, scorer: Scorer, arrays: Arrays, prompts: PromptSet) -> Iterator[Told]:
    """The fall of the score when the finding is covered, and when another place is."""
    pairs = []
    changed: list[NDArray[Any]] = []
    for i, column in cases.found:
        item, name = cases.items[i], cases.names[column]
        # A recording's boxes lie at moments, not on a clip.
        still = form_of(arrays[i]).kind != "video"
        if not still or not cases.regions.drawn(item.sample)[column]:
            continue
        reference = cases.regions.reference(item, scorer.bundle.preprocess)
        boxes = boxes_of(reference, column, name)
        versions = _versions(arrays[i], boxes, generator(cases.seed, 0, item.key, name))
        if versions is not None:
            pairs.append((i, column))
            changed += [arrays[i], *versions]
    if not pairs:
        return
    way_LE = _contrasts(scorer, prompts, cases.names)
    seen_PVE = scorer.bundle.embed_stored(changed).reshape(len(pairs), 3, -1)
    for (i, column), seen_VE in zip(pairs, seen_PVE, strict=True):
        whole, lesion, other = (float(v) for v in seen_VE @ way_LE[column])
        yield i, f"lesion-over-elsewhere/{cases.names[column]}", whole - lesion, whole - other


def _versions(
    array: NDArray[Any], boxes: Sequence[Box], rng: np.random.Generator
) -> list[NDArray[Any]] | None:
    """The array with the finding covered, and with as much covered elsewhere."""
    others = [elsewhere(array, boxes, box, rng) for box in boxes]
    if not boxes or any(other is None for other in others):
        return None
    lesion, other = array, array
    for box, place in zip(boxes, others, strict=True):
        assert place is not None
        lesion, other = covered(lesion, box), covered(other, place)
    return [lesion, other]
