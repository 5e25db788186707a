"""What a task predicts and metrics read: one row a (model, seed, sample, name), tables beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from medvlp.config import STRICT

Share = Annotated[float, Field(gt=0, lt=1)]

SUBGROUPS = ("sex", "age_band", "view", "site", "scanner")
"""Columns that travel with every prediction, for subgroup tables and the metadata-only row."""

PREDICTIONS = pl.Schema(
    {
        "model": pl.String,
        "protocol": pl.String,
        "seed": pl.Int64,
        "sample": pl.String,
        "patient": pl.String,
        "name": pl.String,
        "label": pl.Int8,
        "score": pl.Float64,
        **dict.fromkeys(SUBGROUPS, pl.String),
        "control": pl.Boolean,
        "time_s": pl.Float64,
        "digest": pl.String,
    }
)
"""Columns of `predictions.parquet`. `label`: 1 present, 0 absent; uncertain and unknown labels
have no row. `score`: the probability of presence for findings and phases, the reciprocal rank of
the right answer for retrieval. `seed`: of the training that a task does itself, or the protocol's.
`time_s`: the middle of a window, null where a sample has none. `digest`: SHA-256 of what was
predicted and is no score (a text, a mask, a heatmap); the row of that digest in a table beside
holds it; null where there is nothing of the kind."""

ALL = "all"
"""The `name` of a row that is about every label at once."""


@checked(frozen=True, kw_only=True, config=STRICT)
class Stated:
    """What a protocol says of the place where a model would be used."""

    prevalences: dict[str, Share] = field(default_factory=dict)
    """Label -> the share of patients there who have it; predictive values are computed for it."""

    act_from: tuple[Share, ...] = (0.05, 0.1, 0.2)
    """Probabilities from which one would act, at which net benefit is computed."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one model's metrics are computed from, besides its rows of `PREDICTIONS`."""

    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Label -> the probability from which it is called present, chosen on validation data."""

    operating: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Specificity in percent -> label -> the probability that reached it on validation data."""

    beside: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """The model's rows of the tables beside, by their name: texts, masks, ranks."""

    stated: Stated = field(default_factory=Stated)
    """What the protocol says of the place of use."""
