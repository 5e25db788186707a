"""How well a heatmap shows where something is; pure functions of one map and one mask.

A map is compared with its mask pixel by pixel, on the part of the stored grid that shows the
image. Values that differ by less than a billionth of a map's range count as equal, so that the
rounding of an interpolation makes no order where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

LevelKind = Literal["quantile", "value"]

MIOU_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Thresholds that `Case.mean_iou` averages over."""

CANDIDATES = 120
"""Levels that the choice of a threshold tries."""

_SAME_DIGITS = 9


@dataclass(frozen=True)
class Case:
    """One map and its mask, on the same pixels."""

    unit: Floats
    """(*S) the map rescaled to [0,1] over these pixels; zeros where it is flat."""

    raw: Floats
    """(*S) its own values: cosines, for a model."""

    mask: Bools
    """(*S) where the region is; never empty."""

    @property
    def area_share(self) -> float:
        """The region's share of the pixels: what a blind guess points into."""
        return float(self.mask.mean())

    def pointing(self) -> float:
        """Whether the highest value lies in the region (the pointing game, arXiv:1608.00507).

        Of several pixels with the highest value, the share that lies inside: a guess among them.
        """
        return float(self.mask[self.unit == self.unit.max()].mean())

    def average_precision(self) -> float:
        """Area under the precision-recall curve of the pixels, as average precision.

        It needs no threshold and follows the map's order alone; a flat map has the area share.
        """
        return float(average_precision_score(self.mask.ravel(), self.unit.ravel()))

    @property
    def slice_share(self) -> float:
        """The share of a volume's slices that hold some of the region: a blind guess at a slice.

        Slices lie along the first axis, a CT's from foot to head. NaN of a map in two dimensions,
        as are `slice_pointing` and `slice_average_precision`.
        """
        return float(self._slices()[1].mean()) if self.mask.ndim == 3 else float("nan")

    def slice_pointing(self) -> float:
        """Whether the slice with the highest value holds some of the region.

        A slice has the highest value of its pixels. Of several equal ones, the share that hold
        some: a guess among them.
        """
        if self.mask.ndim != 3:
            return float("nan")
        best_D, held_D = self._slices()
        return float(held_D[best_D == best_D.max()].mean())

    def slice_average_precision(self) -> float:
        """Average precision of the slices, by their highest values; of a flat map, their share."""
        if self.mask.ndim != 3:
            return float("nan")
        best_D, held_D = self._slices()
        return float(average_precision_score(held_D, best_D))

    def _slices(self) -> tuple[Floats, Bools]:
        """(D,) the highest value of each slice, and whether it holds some of the region."""
        held_D: Bools = np.any(self.mask, axis=(1, 2))
        return self.unit.max((1, 2)), held_D

    def contrast_to_noise(self) -> float:
        """|mean inside - mean outside| / sqrt(variance inside + variance outside).

        As in arXiv:2204.09817. The sign is lost by definition: a map that is dark exactly where
        it should be bright has the same value. A flat map has 0; NaN where the region fills the
        image, or where both sides are flat and differ.
        """
        inside, outside = self.unit[self.mask], self.unit[~self.mask]
        if not len(outside):
            return float("nan")
        gap = abs(inside.mean() - outside.mean())
        noise = np.sqrt(inside.var() + outside.var())
        if noise == 0:
            return 0.0 if gap == 0 else float("nan")
        return float(gap / noise)

    def iou(self, kind: LevelKind, levels: Sequence[float]) -> Floats:
        """(K,) intersection over union of the region with the pixels above each level.

        Args:
            kind: Whether a level is a value of the map, or the share of its pixels that are not
                above it. Equal pixels are never told apart, so a flat map has none above.
            levels: K levels.
        """
        above, hit = self._counts(kind, levels)
        share: Floats = hit / (above + self.mask.sum() - hit)
        return share

    def dice(self, kind: LevelKind, level: float) -> float:
        """Twice the intersection over the sum of both areas; see `iou`."""
        above, hit = self._counts(kind, [level])
        return float(2 * hit[0] / (above[0] + self.mask.sum()))

    def mean_iou(self, values: Literal["unit", "raw"]) -> float:
        """Mean IoU over `MIOU_LEVELS`, of the rescaled map or of the raw values.

        On raw cosines the levels mean another thing for every model; on the rescaled map they do
        not, yet each map's own extremes decide.
        """
        map_S = self.unit if values == "unit" else self.raw
        return float(Case(map_S, map_S, self.mask).iou("value", MIOU_LEVELS).mean())

    def _counts(self, kind: LevelKind, levels: Sequence[float]) -> tuple[Floats, Floats]:
        map_S = self.unit if kind == "quantile" else self.raw
        every = np.sort(map_S, axis=None)
        inside = np.sort(map_S[self.mask])
        cut_K = np.asarray(levels, np.float64)
        if kind == "quantile":
            cut_K = every[np.floor(cut_K * (every.size - 1)).astype(int)]
        above_K = every.size - np.searchsorted(every, cut_K, side="right")
        hit_K = inside.size - np.searchsorted(inside, cut_K, side="right")
        return above_K.astype(np.float64), hit_K.astype(np.float64)


def make_case(
    heat: Floats,
    mask: Bools,
    image: Sequence[tuple[int, int]] | None = None,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Case:
    """A map on its own grid, brought to the mask's pixels linearly between cell centres.

    Args:
        heat: The map on a grid of as many axes as the mask; it covers the same field.
        mask: The region on the stored grid.
        image: The part of the grid that shows the image, (first, past the last) of each axis;
            the rest is padding and is left out. All of it if not given.
        low: The value that 0 in `heat` stands for.
        high: The value that 1 in `heat` stands for.

    Raises:
        ValueError: Map and mask have different numbers of axes, or no pixel is left of the mask.
    """
    part = [(0, n) for n in mask.shape] if image is None else list(image)
    seen = mask[tuple(slice(a, b) for a, b in part)]
    if heat.ndim != mask.ndim or not seen.any():
        raise ValueError(f"a map of {heat.ndim} axes and a mask of {mask.ndim}, or an empty mask")
    spread = upsample(heat, mask.shape, part)
    bottom, top = spread.min(), spread.max()
    flat = top - bottom <= 10.0**-_SAME_DIGITS * max(1.0, abs(top))
    unit = np.zeros_like(spread) if flat else (spread - bottom) / (top - bottom)
    return Case(unit.round(_SAME_DIGITS), low + (high - low) * spread, seen)


def upsample(
    heat: Floats, shape: Sequence[int], part: Sequence[tuple[int, int]] | None = None
) -> Floats:
    """A map at another resolution, linearly between cell centres, level beyond the last centre.

    Args:
        heat: The map.
        shape: The new shape.
        part: (first, past the last) pixel of each axis that are wanted; all if not given.
    """
    spread = heat.astype(np.float64)
    for axis, size in enumerate(shape):
        first, last = (0, size) if part is None else part[axis]
        weight = _weights(heat.shape[axis], size)[first:last]
        spread = np.moveaxis(np.tensordot(weight, spread, axes=(1, axis)), 0, axis)
    return spread


def choose_level(
    cases: Iterable[Case], kind: LevelKind, span: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """The level with the highest mean IoU over validation cases, and that mean.

    The lowest one of several; `CANDIDATES` are tried.

    Args:
        cases: Gone through once, so that they need not be in memory together.
        kind: Quantiles from 0.4 to 0.995 are tried, or values.
        span: The least and the greatest value that are tried.

    Raises:
        ValueError: There are no cases.
    """
    ends = (0.4, 0.995) if kind == "quantile" else span
    levels = np.linspace(*ends, CANDIDATES)
    found = [case.iou(kind, levels.tolist()) for case in cases]
    if not found:
        raise ValueError("a level is chosen on one case or more")
    mean = np.mean(found, axis=0)
    best = int(np.argmax(mean))
    return float(levels[best]), float(mean[best])


def _weights(source: int, target: int) -> Floats:
    """(target, source) weights of linear interpolation between the centres of cells."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = np.floor(place).astype(int)
    weight = np.zeros((target, source))
    rows = np.arange(target)
    weight[rows, below] = 1 - (place - below)
    weight[rows, np.minimum(below + 1, source - 1)] += place - below
    return weight
