"""Task `temporal-retrieval`: the moments of one or all recordings that a sentence tells of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import DataConfig, Item, pair_items, window_items
from medvlp.data.text_policy import Level, TextPolicy
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.moments import (
    Moment,
    first_hit,
    moment_measures,
    propose,
    spans_of,
)
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import PREDICTIONS, Evidence
from medvlp.evaluate.tasks.phases import Contract, Seconds
from medvlp.evaluate.windowed import window_cosines
from medvlp.progress import track

Scope = Literal["recording", "split"]
Floats = NDArray[np.floating]

MOMENTS = (
    "model",
    "seed",
    "name",
    "sample",
    "query",
    "rank",
    "answer",
    "start_s",
    "end_s",
    "value",
)
"""Columns of the answers, `moments.parquet`; `name` is the scope, `query` its number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """A sentence, where it is searched for, and where it truly holds."""

    text: str
    lead: Item
    """The first item with this text: whose patient the query counts for."""

    within: tuple[str, ...]
    true: tuple[Moment, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MomentsConfig:
    """From a sentence to the moments that it tells of.

    Windows are scored by the cosine to the sentence and merged into spans by the rule of
    `medvlp.evaluate.metrics.moments`. Equal sentences are one query, and each moment that has the
    sentence is right.
    """

    kind: Literal["temporal-retrieval"] = "temporal-retrieval"
    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = ("clip",)
    sources: tuple[str, ...] | None = None
    """Text sources to use; every source if not given."""

    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = ("recording", "split")
    """``recording``: a sentence is searched in the recording that it belongs to; ``split``: in
    all recordings of the split."""

    window_s: Seconds = 4.0
    stride_s: Seconds = 2.0
    overlaps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.3, 0.5, 0.7)
    """Temporal intersections over union from which an answer is right."""

    k: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (1, 5)
    contract: Contract = Field(default_factory=dict)
    """As in task `phases`."""

    headlines: ClassVar[tuple[str, ...]] = ("recall_at_1",)

    def resolve(self, base: Path) -> MomentsConfig:
        """The task itself: it names no files."""
        return self

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Reciprocal rank of the first right answer to every query, of every model and by chance.

        Raises:
            ConfigError: No text of the split has a span of time.
        """
        windows = [
            item
            for manifest in study.manifests
            for item in window_items(manifest, study.split, self.window_s, self.stride_s, ())
        ]
        queries = {scope: self._queries(study, scope, windows) for scope in self.scopes}
        texts = list(dict.fromkeys(q.text for found in queries.values() for q in found))
        rows: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        meta = subgroups(study.manifests)
        fed = [scorer.under(self.contract) for scorer in scorers]
        for model, control, score_WQ in window_cosines(study, fed, windows, texts):
            place = _Recordings(windows, score_WQ, texts)
            for scope, asked in queries.items():
                for number, query in enumerate(track(asked, f"{model}: moments")):
                    found = place.answers(query, max(self.k))
                    about = {**describe(query.lead, meta), "model": model, "control": control}
                    rows += self._rows(found, query, scope, about)
                    answers += _listed(found, query, number, scope, model, study.seed)
        types = {name: kind for name, kind in PREDICTIONS.items() if name in rows[0]}
        return Predicted(
            rows=as_predictions(pl.DataFrame(rows, schema_overrides=types), study),
            counts={f"{scope}_queries": len(found) for scope, found in queries.items()}
            | {"windows": len(windows)},
            beside={"moments": pl.DataFrame(answers).select(MOMENTS)},
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Recall at k for each scope and overlap."""
        return moment_measures(self.k)

    def _queries(self, study: Study, scope: Scope, windows: Sequence[Item]) -> list[Query]:
        policy = TextPolicy(levels=self.levels, sources=self.sources, choose="join")
        config = DataConfig(manifests=tuple(m.path for m in study.manifests), texts=policy)
        items = pair_items(study.manifests, config, study.split, domain=study.domain)
        everywhere = tuple(dict.fromkeys(window.sample for window in windows))
        told: dict[tuple[str, str], list[Item]] = {}
        for item in items:
            if item.span is not None and item.sample in everywhere:
                text = " ".join(" ".join(node.text for node in item.texts).split())
                told.setdefault((text, item.sample if scope == "recording" else ""), []).append(
                    item
                )
        if not told:
            raise ConfigError(
                f"{study.protocol}: split {study.split!r} has no text with a span of time at "
                f"levels {', '.join(self.levels)}",
                remedy="name another level in task.levels, or other manifests",
            )
        return [
            Query(
                text=text,
                lead=same[0],
                within=(sample,) if sample else everywhere,
                true=tuple(_moment(item) for item in same),
            )
            for (text, sample), same in told.items()
        ]

    def _rows(
        self, found: Sequence[Moment], query: Query, scope: Scope, about: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        for overlap in self.overlaps:
            score = first_hit(found, query.true, overlap)
            yield {**about, "name": f"{scope}/tiou-{overlap:g}", "label": 1, "score": score}


class _Recordings:
    """The windows of each recording, with their scores for every sentence."""

    def __init__(self, windows: Sequence[Item], score_WQ: Floats, texts: Sequence[str]) -> None:
        self.score_WQ = score_WQ.astype(np.float64)
        self.column = {text: i for i, text in enumerate(texts)}
        span_W2 = np.array([window.span for window in windows], np.float64)
        self.start_W, self.end_W = span_W2.T
        self.own: dict[str, list[int]] = {}
        for i, window in enumerate(windows):
            self.own.setdefault(window.sample, []).append(i)

    def answers(self, query: Query, count: int) -> list[Moment]:
        """The best moments where the query is searched for."""
        score_W = self.score_WQ[:, self.column[query.text]]
        searched = score_W[[i for sample in query.within for i in self.own[sample]]]
        mean, sd = float(searched.mean()), float(searched.std())
        spans = [
            span
            for sample in query.within
            for span in spans_of(
                sample, score_W[self.own[sample]], self.start_W[self.own[sample]],
                self.end_W[self.own[sample]], mean, sd,
            )
        ]  # fmt: skip
        return propose(spans, count)


def _moment(item: Item) -> Moment:
    start_s, end_s = item.span or (0.0, 0.0)
    return Moment(recording=item.sample, start_s=start_s, end_s=end_s)


def _listed(
    found: Sequence[Moment], query: Query, number: int, scope: Scope, model: str, seed: int
) -> Iterator[dict[str, Any]]:
    for rank, moment in enumerate(found, 1):
        yield {
            "model": model, "seed": seed, "name": scope, "sample": query.lead.sample,
            "query": number, "rank": rank, "answer": moment.recording,
            "start_s": moment.start_s, "end_s": moment.end_s, "value": moment.value,
        }  # fmt: skip
