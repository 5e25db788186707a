"""Metrics of masks, case by case: overlap, surfaces, and what happens where nothing is.

A case is one structure in one sample. Cases whose reference is empty are told apart: a Dice of 0
or 1 for them would say more of how common the structure is than of how well it is drawn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure
from medvlp.evaluate.metrics.findings import MACRO_MINIMUM
from medvlp.evaluate.packed import unpack_mask
from medvlp.evaluate.predictions import ALL
from medvlp.progress import track

Bools = NDArray[np.bool_]

MEANS = ("dice", "surface_dice", "hd95_mm", "missed", "false_positive_empty")
"""Metrics of each structure, in the order in which they are told; each has a ``_macro`` mean."""

ERRORS = ("hd95_mm", "missed", "false_positive_empty")


def dice(prediction: Bools, reference: Bools) -> float:
    """``2|A∩B| / (|A|+|B|)`` of the foreground (Dice 1945); NaN where both are empty."""
    total = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / total if total else math.nan


def surface_scores(
    prediction: Bools, reference: Bools, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float, float]:
    """Surface Dice at a tolerance (arXiv:1809.04430) and the 95th percentile Hausdorff distance.

    By MONAI: the surface is the mask's voxels beside its outside; the distance is the larger of
    the two directions' 95th percentiles.

    Args:
        prediction: Not empty.
        reference: Not empty.
        spacing_mm: Along the axes.
        tolerance_mm: Surfaces this near to each other agree.

    Returns:
        The share of both surfaces within the tolerance, and the distance in mm.

    Raises:
        ValueError: A mask is empty.
    """
    if not prediction.any() or not reference.any():
        raise ValueError("an empty mask has no surface")
    a, b = (torch.from_numpy(mask[None, None]) for mask in (prediction, reference))
    known: dict[str, Any] = {"include_background": True, "spacing": list(spacing_mm)}
    with warnings.catch_warnings():
        # MONAI takes seconds to import, and calls its own functions by deprecated names.
        warnings.simplefilter("ignore")
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
        from monai.metrics.surface_dice import compute_surface_dice

        near = compute_surface_dice(a, b, class_thresholds=[tolerance_mm], **known)
        far = compute_hausdorff_distance(a, b, percentile=95, **known)
    return float(near.item()), float(far.item())


@dataclass(frozen=True, kw_only=True)
class Case:
    """One structure in one sample; NaN for what is not defined."""

    sample: str
    name: str
    dice: float = math.nan
    """Where the reference is not empty; 0 for an empty prediction."""

    surface_dice: float = math.nan
    """As `dice`, and where the spacing is known."""

    hd95_mm: float = math.nan
    """Where neither is empty and the spacing is known; an empty prediction has no distance and
    counts in `missed`."""

    missed: float = math.nan
    """1 where the reference is not empty and the prediction is."""

    false_positive_empty: float = math.nan
    """1 where the reference is empty and the prediction is not."""


def case(row: dict[str, Any], tolerance_mm: float) -> Case:
    """A row of `packed.MASKS` as a case."""
    shape = row["shape"]
    prediction, reference = (unpack_mask(row[n], shape) for n in ("prediction", "reference"))
    about = {"sample": row["sample"], "name": row["name"]}
    drawn = bool(prediction.any())
    if not reference.any():
        return Case(**about, false_positive_empty=float(drawn))
    near, far = math.nan, math.nan
    if row["spacing_mm"] is not None:
        near = 0.0
        if drawn:
            near, far = surface_scores(prediction, reference, row["spacing_mm"], tolerance_mm)
    return Case(
        **about,
        dice=dice(prediction, reference),
        surface_dice=near,
        hd95_mm=far,
        missed=float(not drawn),
    )


def region_measures(masks: pl.DataFrame, tolerance_mm: float) -> Measures:
    """Means over cases of every metric in `MEANS`, for each structure and over structures.

    A structure with fewer than `MACRO_MINIMUM` cases that define a metric is shown but left out
    of the mean over structures.

    Args:
        masks: One training's rows of `packed.MASKS`.
        tolerance_mm: Of the surface Dice.
    """
    kept: dict[tuple[str, str], Case] = {}

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        # Subgroups ask for some of the same rows again.
        if not kept:
            for row in track(masks.iter_rows(named=True), "masks", total=len(masks)):
                kept[row["sample"], row["name"]] = case(row, tolerance_mm)
        found: list[Measure] = []
        for (name,), part in rows.sort("name", "sample").group_by("name", maintain_order=True):
            cases = [kept[sample, str(name)] for sample in part["sample"]]
            found += _of_structure(str(name), cases, part["cluster"].to_numpy(), clusters)
        for metric in MEANS:
            members = [m for m in found if m.metric == metric and m.n >= MACRO_MINIMUM]
            if members:
                found.append(_macro(metric, members))
        return found

    return measures


def _of_structure(
    name: str, cases: Sequence[Case], patient_N: NDArray[np.integer[Any]], clusters: int
) -> list[Measure]:
    found = []
    for metric in MEANS:
        value_N = np.array([getattr(c, metric) for c in cases])
        defined = ~np.isnan(value_N)
        if defined.any():
            found.append(mean_measure(metric, name, value_N[defined], patient_N[defined], clusters))
    return found


def _macro(metric: str, members: Sequence[Measure]) -> Measure:
    return Measure(
        metric=f"{metric}_macro",
        name=ALL,
        n=sum(member.n for member in members),
        members=tuple((metric, member.name) for member in members),
        low_is_better=metric in ERRORS,
    )
