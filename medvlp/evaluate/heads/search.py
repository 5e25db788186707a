"""The search for settings: one fixed budget for every model, and validation data alone decide."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.config import STRICT, plain
from medvlp.digest import digest_plain

T = TypeVar("T")
Setting = Mapping[str, float]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchConfig:
    """The budget of what is trained by steps: every pair of rate and decay is tried once.

    Every model and every control gets the whole of it; it is part of the protocol's digest.
    """

    rates: tuple[Positive, ...] = Field(default=(1e-4, 3e-4, 1e-3), min_length=1)
    """Peak learning rates of the head."""

    weight_decays: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.05,), min_length=1)
    steps: Count = 500
    """Optimiser steps of a trial, with a cosine schedule after a tenth of warm-up."""

    batch_size: Count = 32
    checks: Count = 10
    """How often a trial looks at the validation split, evenly over its steps; the weights of the
    best look are kept."""

    patience: Count = 4
    """A trial ends after so many looks without a gain."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """A tuned tower's layer learns at this fraction of the rate of the layer above it."""

    tower_rate: Positive = 0.1
    """The top layer's rate in a tuned tower, as a fraction of the head's."""

    def settings(self) -> list[Setting]:
        """The trials, in the order in which they are run."""
        return [
            {"lr": rate, "weight_decay": decay}
            for rate in self.rates
            for decay in self.weight_decays
        ]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting and how well it did on the validation split."""

    setting: Setting
    score: float
    """Higher is better; NaN where the trial failed to give any."""


@dataclass(frozen=True, kw_only=True)
class Found(Generic[T]):
    """The outcome of a search."""

    best: T
    chosen: int
    """Its place among the trials."""

    trials: tuple[Trial, ...]


def search(settings: Iterable[Setting], fit: Callable[[Setting], tuple[T, float]]) -> Found[T]:
    """Try every setting and keep what did best on the validation split; of equals, the first.

    Args:
        settings: The budget.
        fit: Setting -> what was fitted, and its score on the validation split.

    Raises:
        ValueError: There is no setting.
    """
    best: tuple[T, int, float] | None = None
    trials: list[Trial] = []
    for i, setting in enumerate(settings):
        fitted, score = fit(setting)
        trials.append(Trial(setting=dict(setting), score=score))
        if best is None or _rank(score) > _rank(best[2]):
            best = (fitted, i, score)
    if best is None:
        raise ValueError("a search needs at least one setting")
    return Found(best=best[0], chosen=best[1], trials=tuple(trials))


def expected_best(scores: Sequence[float]) -> list[float]:
    """The expected maximum of n of these scores drawn with replacement, for n = 1 up to all.

    What a smaller budget would have found (Dodge et al. 2019, arXiv:1909.03004, equation 4).

    >>> [round(x, 3) for x in expected_best([0.0, 1.0])]
    [0.5, 0.75]
    """
    known = np.sort([score for score in scores if not math.isnan(score)])
    count = len(known)
    place = np.arange(1, count + 1) / count if count else np.empty(0)
    return [
        float((known * (place**n - (place - 1 / count) ** n)).sum()) if count else math.nan
        for n in range(1, len(scores) + 1)
    ]


TRIALS = pl.Schema(
    {
        "model": pl.String,
        "seed": pl.Int64,
        "trial": pl.Int64,
        "setting": pl.String,
        "valid_score": pl.Float64,
        "chosen": pl.Boolean,
        "expected_best": pl.Float64,
        "budget": pl.String,
    }
)
"""Columns of ``trials.parquet``. `setting`: JSON. `expected_best`: the validation score to expect
of the best of as many trials as the row's number (from 0) plus one. `budget`: digest of the whole
budget, equal for all models."""


def trial_rows(model: str, seed: int, found: Found[Any], budget: Any) -> pl.DataFrame:
    """A search as rows of `TRIALS`.

    Args:
        model: Whose.
        seed: Of the training.
        found: The search.
        budget: The configuration that it was given.
    """
    scores = [trial.score for trial in found.trials]
    rows = [
        {
            "model": model,
            "seed": seed,
            "trial": i,
            "setting": json.dumps(trial.setting, sort_keys=True),
            "valid_score": None if math.isnan(trial.score) else trial.score,
            "chosen": i == found.chosen,
            "expected_best": None if math.isnan(best) else best,
            "budget": digest_plain(plain(budget)),
        }
        for i, (trial, best) in enumerate(zip(found.trials, expected_best(scores), strict=True))
    ]
    return pl.DataFrame(rows, schema=TRIALS)


def _rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score
