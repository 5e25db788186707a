"""Regions of a picture as pixels: boxes, ellipses, polygons and runs of one mask.

A pixel belongs to a shape where its centre does; the pixel of row r and column c has its centre at
(x, y) = (c + 1/2, r + 1/2). Shape letters: H rows, W columns, V corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

PICTURE_KINDS = ("box", "ellipse", "polygon", "runs")
"""Kinds of region whose pixels follow from their geometry; see `tables.REGIONS`."""

_LEAST_POLYGON = 6
_MOST_PIXELS = 1 << 31


def region_mask(kind: str, geometry: Sequence[float], shape_HW: tuple[int, int]) -> Mask:
    """The pixels of one region, (H,W).

    Args:
        kind: One of `PICTURE_KINDS`.
        geometry: As `tables.REGIONS` says, in pixels; what lies outside the picture is cut off.
        shape_HW: Rows and columns of the picture.

    Raises:
        ValueError: Kind or geometry is none of these, or the runs are of another picture size.

    >>> region_mask("box", (1, 0, 3, 1), (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    if fault_of(kind, geometry):
        raise ValueError(f"a region of kind {kind}: {fault_of(kind, geometry)}")
    if kind == "runs":
        return _runs(geometry, shape_HW)
    if kind == "polygon":
        return _polygon(np.asarray(geometry, np.float64).reshape(-1, 2), shape_HW)
    x0, y0, x1, y1 = geometry
    y_H1, x_1W = _centres(shape_HW)
    if kind == "box":
        inside: Mask = (x_1W > x0) & (x_1W < x1) & (y_H1 > y0) & (y_H1 < y1)
        return inside
    across_1W = (2 * x_1W - x0 - x1) / (x1 - x0)
    down_H1 = (2 * y_H1 - y0 - y1) / (y1 - y0)
    within: Mask = across_1W**2 + down_H1**2 <= 1
    return within


def mask_runs(mask_HW: Mask) -> list[float]:
    """The geometry of kind ``runs`` of a mask: rows, columns, then start and length of each run.

    Starts count pixels row by row from 0.

    >>> mask_runs(np.array([[0, 1, 1], [1, 0, 0]], bool))
    [2.0, 3.0, 1.0, 3.0]
    """
    flat = np.concatenate([[False], mask_HW.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = edges[::2], edges[1::2]
    pairs = np.stack([starts, ends - starts], axis=1).ravel()
    return [float(n) for n in (*mask_HW.shape, *pairs)]


def fault_of(kind: str, geometry: Sequence[float]) -> str:
    """What is wrong with a region's geometry; blank where nothing is."""
    if kind not in PICTURE_KINDS:
        return f"the kind is none of {', '.join(PICTURE_KINDS)}"
    if not np.isfinite(np.asarray(geometry, np.float64)).all():
        return "a number is not finite"
    if kind == "runs":
        return _fault_of_runs(geometry)
    if kind == "polygon":
        whole = len(geometry) >= _LEAST_POLYGON and len(geometry) % 2 == 0
        return "" if whole else "a polygon has three corners or more"
    if len(geometry) != 4 or geometry[0] >= geometry[2] or geometry[1] >= geometry[3]:
        return "the corners are not four in order"
    return ""


def _fault_of_runs(geometry: Sequence[float]) -> str:
    if len(geometry) < 2 or len(geometry) % 2 or any(n != int(n) or n < 0 for n in geometry):
        return "runs are pairs of whole numbers"
    rows, columns, *pairs = (int(n) for n in geometry)
    if not 0 < rows * columns <= _MOST_PIXELS:
        return "the picture has no size"
    runs = list(zip(pairs[::2], pairs[1::2], strict=True))
    if any(length == 0 for _, length in runs):
        return "a run is empty"
    if any(start + length > after for (start, length), (after, _) in pairwise(runs)):
        return "runs overlap or are out of order"
    return "a run ends beyond the picture" if runs and sum(runs[-1]) > rows * columns else ""


def _centres(shape_HW: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (y of each row, x of each column), as (H,1) and (1,W)."""
    y_H, x_W = (np.arange(size, dtype=np.float64) + 0.5 for size in shape_HW)
    return y_H[:, None], x_W[None]


def _runs(geometry: Sequence[float], shape_HW: tuple[int, int]) -> Mask:
    numbers = np.asarray(geometry, np.int64)
    if tuple(numbers[:2]) != tuple(shape_HW):
        raise ValueError(
            f"runs of a picture of {numbers[0]} x {numbers[1]} pixels, "
            f"asked for {shape_HW[0]} x {shape_HW[1]}"
        )
    steps = np.zeros(shape_HW[0] * shape_HW[1] + 1, np.int8)
    starts, lengths = numbers[2::2], numbers[3::2]
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + lengths, -1)
    return np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(shape_HW)


def _polygon(corners_V2: NDArray[np.float64], shape_HW: tuple[int, int]) -> Mask:
    """By the even-odd rule: a centre is inside where an odd number of edges lies left of it."""
    y_H, x_1W = _centres(shape_HW)[0][:, 0], _centres(shape_HW)[1]
    inside = np.zeros(shape_HW, bool)
    following = np.roll(corners_V2, -1, axis=0)
    for (ax, ay), (bx, by) in zip(corners_V2, following, strict=True):
        rows = np.flatnonzero((ay > y_H) != (by > y_H))
        if len(rows):
            at = ax + (y_H[rows] - ay) * (bx - ax) / (by - ay)
            inside[rows] ^= x_1W > at[:, None]
    return inside
