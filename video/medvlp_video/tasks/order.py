"""Task `order`: does a model know that a procedure runs forward?

The texts of one level of a recording, in the order of time, are laid over its windows: each window
is given to one text, in order, and each text gets a window at least. A recording is told rightly
where the best such partition of the true order is worth more than that of a wrong one: the order
reversed, two neighbours swapped, or all shuffled. Which text a window resembles is what the model
adds; a model that does not look gets half of them right.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import DataConfig, Item, pair_items, window_items
from medvlp.data.randomness import generator
from medvlp.data.text_policy import Level, TextPolicy
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import PREDICTIONS, Evidence
from medvlp.evaluate.tasks.phases import Contract, Seconds
from medvlp.evaluate.windowed import window_cosines

Wrong = Literal["reverse", "swap", "shuffle"]
Floats = NDArray[np.floating]
Order = tuple[int, ...]

SAME = 1e-9
"""Difference of two partitions' mean cosines up to which neither is better."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """What happens in one recording, told at one level, in the order of time."""

    level: str
    lead: Item
    """The first of its items: whose patient it counts for."""

    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OrderConfig:
    """The true order of a recording's texts against wrong ones.

    A wrong order that reads like the true one, since texts repeat, is left out. Recordings with one
    text, or with fewer windows than texts, are counted and left out.
    """

    kind: Literal["order"] = "order"
    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = ("phase", "step")
    sources: tuple[str, ...] | None = None
    """Text sources to use; every source if not given."""

    wrong: Annotated[tuple[Wrong, ...], Field(min_length=1)] = ("reverse", "swap", "shuffle")
    """``reverse``: all texts from the last to the first; ``swap``: each pair of neighbours in turn;
    ``shuffle``: `shuffles` orders drawn at random, the same for every model."""

    shuffles: Annotated[int, Field(ge=1, le=1000)] = 10
    window_s: Seconds = 4.0
    stride_s: Seconds = 2.0
    contract: Contract = Field(default_factory=dict)
    """As in task `phases`."""

    headlines: ClassVar[tuple[str, ...]] = ("order_accuracy_macro", "order_accuracy")

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Share of wrong orders that the true one beats, of every model and by chance.

        Raises:
            ConfigError: No recording of the split has two texts in time at a level.
        """
        windows = [
            item
            for manifest in study.manifests
            for item in window_items(manifest, study.split, self.window_s, self.stride_s, ())
        ]
        own: dict[str, list[int]] = {}
        for i, window in enumerate(windows):
            own.setdefault(window.sample, []).append(i)
        courses, counts = self._courses(study, own)
        texts = list(dict.fromkeys(text for course in courses for text in course.texts))
        column = {text: i for i, text in enumerate(texts)}
        meta = subgroups(study.manifests)
        rows: list[dict[str, Any]] = []
        fed = [scorer.under(self.contract) for scorer in scorers]
        for model, control, score_WQ in window_cosines(study, fed, windows, texts):
            for course in courses:
                about = {**describe(course.lead, meta), "model": model, "control": control}
                place = np.ix_(own[course.lead.sample], [column[text] for text in course.texts])
                rows += self._rows(score_WQ[place], course, study.seed, about)
        types = {name: kind for name, kind in PREDICTIONS.items() if name in rows[0]}
        return Predicted(
            rows=as_predictions(pl.DataFrame(rows, schema_overrides=types), study),
            counts={"windows": len(windows), "courses": len(courses), **counts},
        )

    def resolve(self, base: object) -> OrderConfig:
        """The task itself: it names no files."""
        return self

    def measures(self, evidence: Evidence) -> Measures:
        """Mean share of wrong orders beaten, for each level and kind of wrong order."""
        return order_measures

    def _courses(
        self, study: Study, own: Mapping[str, Sequence[int]]
    ) -> tuple[list[Course], dict[str, int]]:
        found: list[Course] = []
        left: Counter[str] = Counter()
        for level in self.levels:
            told: dict[str, list[Item]] = {}
            for item in self._items(study, level):
                told.setdefault(item.sample, []).append(item)
            for sample, items in told.items():
                ordered = sorted(items, key=lambda item: item.span or (0.0, 0.0))
                texts = tuple(" ".join(item.texts[0].text.split()) for item in ordered)
                if len(set(texts)) < 2:
                    left["nothing_to_order"] += 1
                elif len(texts) > len(own.get(sample, ())):
                    left["fewer_windows_than_texts"] += 1
                else:
                    found.append(Course(level=level, lead=ordered[0], texts=texts))
        if not found:
            raise ConfigError(
                f"{study.protocol}: no recording of split {study.split!r} has two texts in time "
                f"at levels {', '.join(self.levels)}",
                remedy="name another level in task.levels, shorter windows, or other manifests",
            )
        return found, dict(left)

    def _items(self, study: Study, level: Level) -> Iterator[Item]:
        policy = TextPolicy(levels=(level,), sources=self.sources, choose="join")
        config = DataConfig(manifests=tuple(m.path for m in study.manifests), texts=policy)
        items = pair_items(study.manifests, config, study.split, domain=study.domain)
        return (item for item in items if item.span is not None)

    def _rows(
        self, score_WK: Floats, course: Course, seed: int, about: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        whole = tuple(range(len(course.texts)))
        for wrong in self.wrong:
            rng = generator(seed, 0, course.lead.sample, f"order {course.level}")
            orders = [
                order
                for order in _WRONG[wrong](len(whole), self.shuffles, rng)
                if tuple(course.texts[k] for k in order) != course.texts
            ]
            if orders:
                true, *others = best_in_order(score_WK[:, [whole, *orders]]).tolist()
                gap_O = true - np.array(others)
                score = float(np.where(np.abs(gap_O) <= SAME, 0.5, gap_O > 0).mean())
                yield {**about, "name": f"{course.level}/{wrong}", "label": 1, "score": score}


def best_in_order(score_WOK: Floats) -> Floats:
    """(O,): the largest mean score of windows given to K texts in order, one window or more each.

    Args:
        score_WOK: Score of each window, in the order of time, with the texts of each of O orders;
            W >= K.

    >>> best_in_order(np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])).tolist()
    [1.0]
    >>> best_in_order(np.array([[[0.0, 1.0]], [[1.0, 0.0]]])).tolist()
    [0.0]
    """
    score_WOK = score_WOK.astype(np.float64)
    best_OK = np.full(score_WOK.shape[1:], -np.inf)
    best_OK[:, 0] = score_WOK[0, :, 0]
    for score_OK in score_WOK[1:]:
        # A window goes to the text of the window before, or to the next one.
        moved_OK = np.roll(best_OK, 1, axis=1)
        moved_OK[:, 0] = -np.inf
        best_OK = score_OK + np.maximum(best_OK, moved_OK)
    return best_OK[:, -1] / len(score_WOK)


def order_measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
    """Mean share of wrong orders beaten, for each name, and over all of them."""
    found = [
        mean_measure(
            "order_accuracy", str(name), part["score"].to_numpy(), part["cluster"].to_numpy(),
            clusters,
        )
        for (name,), part in rows.group_by("name", maintain_order=True)
    ]  # fmt: skip
    members = tuple((measure.metric, measure.name) for measure in found)
    whole = Measure(metric="order_accuracy_macro", name="all", n=len(rows), members=members)
    return [*found, whole]


def _reverse(count: int, shuffles: int, rng: np.random.Generator) -> list[Order]:
    return [tuple(range(count - 1, -1, -1))]


def _swap(count: int, shuffles: int, rng: np.random.Generator) -> list[Order]:
    whole = tuple(range(count))
    return [(*whole[:i], i + 1, i, *whole[i + 2 :]) for i in range(count - 1)]


def _shuffle(count: int, shuffles: int, rng: np.random.Generator) -> list[Order]:
    return [tuple(rng.permutation(count).tolist()) for _ in range(shuffles)]


_WRONG: Mapping[Wrong, Callable[[int, int, np.random.Generator], list[Order]]] = {
    "reverse": _reverse,
    "swap": _swap,
    "shuffle": _shuffle,
}
