"""Example pictures for the report: findings that were found, and findings that were missed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from medvlp.evaluate.predict import Predicted, Scorer

EACH = 3
"""Pictures of either kind."""

EDGE = 320
"""Longest side of a picture, in pixels."""


def choose(rows: pl.DataFrame, thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Up to `EACH` present findings that were called and as many that were not.

    The clearest of each kind: called ones that score highest among their label's samples, missed
    ones that score lowest; first of different labels. A label is called at its threshold, or at
    one half where there is none.

    Args:
        rows: One model's predictions.
        thresholds: Label -> probability.
    """
    limit = pl.col("name").replace_strict(dict(thresholds), default=0.5, return_dtype=pl.Float64)
    placed = rows.with_columns(
        place=(pl.col("score").rank("average") / pl.len()).over("name"),
        called=pl.col("score") >= limit,
    ).filter(pl.col("label") == 1)
    chosen: list[dict[str, Any]] = []
    for called, outcome in ((True, "found"), (False, "missed")):
        ordered = (
            placed.filter(pl.col("called") == called)
            .sort("place", "sample", descending=[called, False])
            .with_columns(turn=pl.int_range(pl.len()).over("name"))
            .sort("turn", "name", maintain_order=True)
        )
        chosen += [row | {"outcome": outcome} for row in ordered.head(EACH).to_dicts()]
    return chosen


def draw_examples(scorer: Scorer, predicted: Predicted, folder: Path) -> int:
    """Write pictures, overlays and ``examples.json`` for one model; how many there are.

    Args:
        scorer: The model.
        predicted: Its predictions, with the items and prompts they were made from.
        folder: A new folder.
    """
    if predicted.prompts is None:
        return 0
    rows = predicted.rows.filter(pl.col("model") == scorer.name)
    by_moment = {(item.sample, item.span): item for item in predicted.items}
    item_of = {
        (sample, None if span is None else sum(span) / 2): item
        for (sample, span), item in by_moment.items()
    }
    entries = []
    folder.mkdir()
    for i, row in enumerate(choose(rows, predicted.thresholds.get(scorer.name, {}))):
        stored = next(scorer.stored([item_of[row["sample"], row["time_s"]]]))
        text = predicted.prompts.labels[row["name"]].positive[0]
        heatmap = scorer.bundle.heatmap_stored(stored, text)
        names = {"picture": f"{i}.png", "overlay": f"{i}-heatmap.png"}
        _save(heatmap.picture, folder / names["picture"])
        _save(heatmap.overlay(), folder / names["overlay"])
        told = {key: row[key] for key in ("name", "label", "score", "outcome", "model")}
        entries.append(names | told)
    text = json.dumps(entries, indent=1)
    (folder / "examples.json").write_text(text, encoding="utf-8")
    return len(entries)


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    image = Image.fromarray(picture)
    image.thumbnail((EDGE, EDGE))
    image.save(path)
