"""Grounding metrics of one model, from the tables of heatmaps, masks and levels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure
from medvlp.evaluate.metrics.grounding import Case, make_case
from medvlp.evaluate.packed import unpack_mask
from medvlp.evaluate.packed_heat import unpack_heat
from medvlp.evaluate.predictions import ALL, Evidence
from medvlp.progress import track

LEVELS = pl.Schema(
    {
        "model": pl.String,
        "name": pl.String,
        "kind": pl.String,
        "level": pl.Float64,
        "iou": pl.Float64,
        "cases": pl.Int64,
    }
)
"""Columns of `levels.parquet`, besides `seed`: the level (of `kind` quantile or value) that had the
highest mean `iou` over as many validation `cases`."""

METRICS = (
    "pixel_average_precision", "pointing_game", "area_share", "contrast_to_noise", "miou_rescaled",
    "miou_cosine", "iou", "dice", "slice_pointing", "slice_average_precision", "slice_share",
)  # fmt: skip

_KEYS = ["sample", "name"]


def grounding_measures(evidence: Evidence) -> Measures:
    """Means over cases for each name, and over names.

    `pixel_average_precision` is the rows' score. A random pixel lies in the region with
    probability `area_share`, which is the pointing game of a flat map and its average precision;
    smooth random maps have a somewhat higher average precision, for which see the chance row.
    `iou` and `dice` are at the level that was chosen on validation data, and missing where there
    is none. Maps that are no cosines have no `miou_cosine`. Those of volumes have three metrics of
    slices besides, whose chance level is `slice_share`. A case without a value (contrast to
    noise of a region that fills the image) is left out of that mean.

    Args:
        evidence: Tables `heatmaps`, `masks` and `levels`.
    """

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        levels = {row["name"]: row for row in evidence.beside["levels"].iter_rows(named=True)}
        joined = rows.join(evidence.beside["heatmaps"], on=_KEYS, suffix="_heat").join(
            evidence.beside["masks"], on=_KEYS, suffix="_mask"
        )
        table = _values(joined, levels)
        found: list[Measure] = []
        for (name,), part in table.group_by("name", maintain_order=True):
            for metric in METRICS:
                own = part.filter(pl.col(metric).is_not_nan())
                if len(own):
                    patient = own["cluster"].to_numpy()
                    value = own[metric].to_numpy()
                    found.append(mean_measure(metric, str(name), value, patient, clusters))
        return found + _macro(found)

    return measures


def case_of(heat: Mapping[str, Any], mask: Mapping[str, Any]) -> Case:
    """A row of `heatmaps` and one of `masks`, opened.

    Raises:
        InputError: The bytes of the heatmap are not what the row says.
        ValueError: Those of the mask are not.
    """
    return make_case(
        unpack_heat(heat["heat"], heat["shape"]),
        unpack_mask(mask["reference"], mask["shape"]),
        [(a, b) for a, b in zip(mask["image"][::2], mask["image"][1::2], strict=True)],
        low=heat["low"],
        high=heat["high"],
    )


def _values(joined: pl.DataFrame, levels: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    rows = []
    for row in track(list(joined.iter_rows(named=True)), "grounding metrics"):
        case = case_of(row, row | {"shape": row["shape_mask"]})
        rows.append(_case_values(case, levels.get(row["name"]), row["cosine"]) | {
            "name": row["name"], "cluster": row["cluster"],
            "pixel_average_precision": row["score"],
        })  # fmt: skip
    return pl.DataFrame(rows)


def _case_values(case: Case, level: Mapping[str, Any] | None, cosine: bool) -> dict[str, float]:
    nothing = float("nan")
    return {
        "pointing_game": case.pointing(),
        "area_share": case.area_share,
        "contrast_to_noise": case.contrast_to_noise(),
        "miou_rescaled": case.mean_iou("unit"),
        "miou_cosine": case.mean_iou("raw") if cosine else nothing,
        "iou": float(case.iou(level["kind"], [level["level"]])[0]) if level else nothing,
        "dice": case.dice(level["kind"], level["level"]) if level else nothing,
        "slice_pointing": case.slice_pointing(),
        "slice_average_precision": case.slice_average_precision(),
        "slice_share": case.slice_share,
    }


def _macro(found: list[Measure]) -> list[Measure]:
    macro = []
    for metric in METRICS:
        own = [measure for measure in found if measure.metric == metric]
        if own:
            members = tuple((metric, measure.name) for measure in own)
            n = sum(measure.n for measure in own)
            macro.append(Measure(metric=f"{metric}_macro", name=ALL, n=n, members=members))
    return macro
