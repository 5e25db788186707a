"""Altered images asked about findings: who is asked, what, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, softmax

from medvlp.data.items import Item
from medvlp.data.prompts import PromptSet
from medvlp.evaluate.controls.computed import Scores
from medvlp.evaluate.predict import Scorer, describe
from medvlp.evaluate.predictions import PREDICTIONS, SUBGROUPS

CLEAN = "clean/0"
"""The cell of what was left as it is."""

_LOOKING = (None, "random-encoder", "random-label")
"""Controls that look at the image they are given and read prompts; others are not asked."""


def lookers(scorers: Sequence[Scorer]) -> list[Scorer]:
    """The bundles to whom an altered image can matter."""
    return [scorer for scorer in scorers if scorer.control in _LOOKING]


def probabilities(scorer: Scorer, image_NE: NDArray[np.float32], prompts: PromptSet) -> Scores:
    """(N,L) probabilities of embedded images, by the platform's own zero-shot rule."""
    logits = scorer.bundle.score(image_NE, prompts).logits_NL.astype(np.float64)
    exclusive = prompts.mode == "exclusive"
    found: Scores = softmax(logits, axis=1) if exclusive else expit(logits)
    return found


def answered(
    scorer: Scorer, arrays: Iterable[NDArray[Any]], prompts: PromptSet, names: Sequence[str]
) -> Scores:
    """(N,L) probabilities of stored arrays for `names`, which the prompt set holds."""
    found = probabilities(scorer, scorer.bundle.embed_stored(arrays), prompts)
    return found[:, [prompts.names.index(name) for name in names]]


class Sheet:
    """Rows of `PREDICTIONS` whose names are ``<kind>/<level>/<label>``.

    Args:
        items: What was asked about, with `labels_L` in the order of `names`.
        names: Labels.
        meta: Sample -> subgroup columns.
    """

    def __init__(
        self,
        items: Sequence[Item],
        names: Sequence[str],
        meta: Mapping[str, Mapping[str, str | None]],
    ) -> None:
        truth_NL = np.stack([item.labels_L for item in items])
        self.item_K, self.label_K = np.nonzero((truth_NL == 0) | (truth_NL == 1))
        columns = ("sample", "patient", "time_s", *SUBGROUPS)
        about = pl.DataFrame(
            [describe(item, meta) for item in items],
            schema={name: PREDICTIONS[name] for name in columns},
        )
        self.base = about[self.item_K].with_columns(
            label=pl.Series(truth_NL[self.item_K, self.label_K]).cast(pl.Int8)
        )
        self.names_K = np.array(names, dtype=object)[self.label_K]
        self.parts: list[pl.DataFrame] = []

    def add(
        self, scorer: Scorer, cell: str, found_NL: Scores, among_N: NDArray[np.bool_] | None = None
    ) -> None:
        """One cell's answers of one model, of all items or of those `among_N`."""
        rows = self.base.with_columns(
            name=pl.Series([f"{cell}/{name}" for name in self.names_K], dtype=pl.String),
            score=pl.Series(found_NL[self.item_K, self.label_K]),
            model=pl.lit(scorer.name),
            control=pl.lit(scorer.control is not None),
        )
        self.parts.append(rows if among_N is None else rows.filter(pl.Series(among_N[self.item_K])))

    @property
    def rows(self) -> pl.DataFrame:
        """All that was added."""
        return pl.concat(self.parts)
