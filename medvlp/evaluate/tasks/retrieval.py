"""Task `retrieval`: the report to an image and the image to a report, among all of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import DataConfig, Item, pair_items
from medvlp.data.permuted import permute_images
from medvlp.data.randomness import generator
from medvlp.data.text_policy import Level, TextPolicy
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.retrieval import retrieval_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import PREDICTIONS, Evidence
from medvlp.progress import track

Direction = Literal["image-to-text", "text-to-image"]
Floats = NDArray[np.floating[Any]]
Sides = tuple[Floats, Floats]
"""Vectors of studies (S,E) and of distinct texts (T,E)."""

BLOCK = 512
"""Queries whose similarities are held at once."""

RANKS = ("model", "seed", "name", "sample", "time_s", "rank", "answers")
"""Columns of the rank list, `ranks.parquet`."""

LISTED = 10
"""Answers of each query that the rank list keeps."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RetrievalConfig:
    """Retrieval both ways.

    A pair is a study and its text at a level, or a span of a recording and the words said there.
    Equal texts are one candidate, right for every study that has it.
    """

    kind: Literal["retrieval"] = "retrieval"
    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = ("report",)
    sources: tuple[str, ...] | None = None
    """Text sources to use, such as ``impression``; every source if not given."""

    unit: Literal["study", "image"] = "study"
    """``study``: the images of a study are averaged and ask together. ``image``: each asks alone,
    several of them for one text, as reconstructions of one CT do; a text then looks for any."""

    directions: Annotated[tuple[Direction, ...], Field(min_length=1)] = (
        "image-to-text",
        "text-to-image",
    )
    k: tuple[Annotated[int, Field(gt=0)], ...] = (1, 5, 10)

    headlines: ClassVar[tuple[str, ...]] = ("recall_at_10", "median_rank")

    def resolve(self, base: Path) -> RetrievalConfig:
        """The task itself: it names no files."""
        return self

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """The reciprocal rank of the right answer to every query, of every model and by chance.

        Raises:
            ConfigError: A level has fewer than two pairs.
        """
        rows: list[pl.DataFrame] = []
        ranks: list[pl.DataFrame] = []
        counts: dict[str, int] = {}
        for level in self.levels:
            pairs = Pairs(self._items(study, level), study, level, unit=self.unit)
            counts[f"{level}_studies"] = len(pairs.lead)
            counts[f"{level}_distinct_texts"] = len(pairs.texts)
            for model, control, sides in sides_of(pairs, study, scorers):
                for direction in self.directions:
                    found = pairs.ranks(sides, direction)
                    about = {
                        "model": model,
                        "seed": study.seed,
                        "name": f"{direction}/{level}",
                        "control": control,
                    }
                    part = _rows(found, about, study)
                    rows.append(part.drop("rank", "answers"))
                    ranks.append(part.select(RANKS))
        return Predicted(
            rows=as_predictions(pl.concat(rows), study),
            counts=counts,
            beside={"ranks": pl.concat(ranks)},
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Recall at k, median and mean reciprocal rank; thresholds play no part."""
        return retrieval_measures(self.k)

    def _items(self, study: Study, level: Level) -> list[Item]:
        return text_items(study, level, self.sources)


def text_items(study: Study, level: Level, sources: tuple[str, ...] | None) -> list[Item]:
    """The split's items with their text at a level."""
    policy = TextPolicy(levels=(level,), sources=sources, choose="join")
    config = DataConfig(manifests=tuple(m.path for m in study.manifests), texts=policy)
    return pair_items(study.manifests, config, study.split, domain=study.domain)


def sides_of(
    pairs: Pairs, study: Study, scorers: Sequence[Scorer]
) -> Iterator[tuple[str, bool, Sides]]:
    """Every model that has read text, then chance."""
    for scorer in scorers:
        if scorer.control != "supervised-unimodal":
            yield scorer.name, scorer.control is not None, pairs.embed(scorer, study.seed)
    yield "chance", True, pairs.random(study.seed)


def _rows(
    found: Iterator[tuple[Item, int, list[str]]], about: Mapping[str, Any], study: Study
) -> pl.DataFrame:
    meta = subgroups(study.manifests)
    rows = [
        {**describe(query, meta), **about, "label": 1, "score": 1 / rank, "rank": rank,
         "answers": answers}
        for query, rank, answers in found
    ]  # fmt: skip
    types = {name: kind for name, kind in PREDICTIONS.items() if name in rows[0]}
    return pl.DataFrame(rows, schema_overrides=types)


class Pairs:
    """Studies (or images, or spans) with one text each, and the distinct texts among them.

    Args:
        items: Items with the texts of one level.
        study: Where they come from.
        level: For the message.
        unit: Whether images of one study that share a text ask together or each alone.
    """

    def __init__(
        self, items: Sequence[Item], study: Study, level: str, *, unit: str = "study"
    ) -> None:
        asking = {
            sample: (owner or sample) if unit == "study" else sample
            for manifest in study.manifests
            for sample, owner in manifest.samples.select("sample", "study").iter_rows()
        }
        self.items = list(items)
        text_of: dict[tuple[str, Any, str], list[int]] = {}
        for i, item in enumerate(items):
            text = " ".join(" ".join(node.text for node in item.texts).split())
            text_of.setdefault((asking[item.sample], item.span, text), []).append(i)
        self.members = list(text_of.values())
        self.lead = [self.items[group[0]] for group in self.members]
        self.texts = list(dict.fromkeys(text for _, _, text in text_of))
        place = {text: i for i, text in enumerate(self.texts)}
        self.text_S = np.array([place[text] for _, _, text in text_of])
        if len(self.texts) < 2:
            raise ConfigError(
                f"{study.protocol}: split {study.split!r} has {len(self.texts)} distinct text(s) "
                f"at level {level}; retrieval needs two",
                remedy="name another level in task.levels, or more data",
            )

    def embed(self, scorer: Scorer, seed: int) -> Sides:
        """Unit vectors of studies and of distinct texts."""
        blind = scorer.control == "image-blind"
        image_NE = scorer.embed(permute_images(self.items, seed) if blind else self.items)
        study_SE = np.stack([image_NE[group].mean(axis=0) for group in self.members])
        study_SE /= np.maximum(np.linalg.norm(study_SE, axis=1, keepdims=True), 1e-12)
        return study_SE, scorer.bundle.embed_text(self.texts)

    def random(self, seed: int) -> Sides:
        """Random vectors in their place: retrieval by chance."""
        rng = generator(seed, 0, "pairs", "chance")
        return rng.normal(size=(len(self.lead), 32)), rng.normal(size=(len(self.texts), 32))

    def ranks(self, sides: Sides, direction: Direction) -> Iterator[tuple[Item, int, list[str]]]:
        """For each query: the item it belongs to, the right answer's rank, the first answers.

        A text that several studies share asks once, in the name of the first; its rank is that
        of the best-placed of them. A text among the answers is named by its first study.
        """
        first_T = np.unique(self.text_S, return_index=True)[1]
        study = (sides[0], self.text_S, self.lead)
        text = (sides[1], np.arange(len(self.texts)), [self.lead[i] for i in first_T])
        asking, answering = (study, text) if direction == "image-to-text" else (text, study)
        starts = range(0, len(asking[0]), BLOCK)
        for start in track(starts, direction):
            block = slice(start, start + BLOCK)
            found_QC = asking[0][block] @ answering[0].T
            right_QC = asking[1][block, None] == answering[1]
            order = np.argsort(-found_QC, axis=1, kind="stable")[:, :LISTED]
            for query, rank, listed in zip(
                asking[2][block], first_right(found_QC, right_QC), order, strict=True
            ):
                yield query, int(rank), [answering[2][i].key for i in listed]


def first_right(similarity_QC: Floats, right_QC: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(Q,) rank, from 1, of the best-scored right candidate of each query.

    A wrong candidate with the same score is placed before it, so that a model which answers all
    alike gets no credit.

    Args:
        similarity_QC: Scores.
        right_QC: Which candidates are right; at least one in each row.
    """
    best_Q1 = np.where(right_QC, similarity_QC, -np.inf).max(axis=1, keepdims=True)
    wrong_before: NDArray[np.int64] = ((similarity_QC >= best_Q1) & ~right_QC).sum(axis=1)
    return 1 + wrong_before
