"""What several readers of one image say, fused by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

Fusion = Literal["majority", "any", "all"]
Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1)."""

SAME = 0.5
"""Intersection over union from which two readers' boxes mean one thing."""


def agreed(votes: int, readers: int, fusion: Fusion) -> bool:
    """Whether `votes` of `readers` suffice; a majority is more than half of them.

    >>> agreed(1, 2, "majority"), agreed(2, 3, "majority"), agreed(1, 3, "any"), agreed(2, 3, "all")
    (False, True, True, False)
    """
    if fusion == "any":
        return votes > 0
    return votes == readers if fusion == "all" else 2 * votes > readers


def fused_boxes(boxes: Sequence[tuple[str, Box]], readers: int, fusion: Fusion) -> list[Box]:
    """One box for each thing that enough readers drew.

    Boxes are linked where their intersection over union is at least `SAME`; linked boxes are one
    thing, and its box has the mean of their corners. A reader counts once for a thing.

    Args:
        boxes: Reader and box, of one image and one class.
        readers: Who looked at the image, with or without a box.
        fusion: How many of them must have drawn it.
    """
    if not boxes:
        return []
    corners_N4 = np.array([box for _, box in boxes], np.float64)
    count, thing_N = connected_components(iou(corners_N4) >= SAME, directed=False)
    found = []
    for thing in range(count):
        members = np.flatnonzero(thing_N == thing).tolist()
        if agreed(len({boxes[i][0] for i in members}), readers, fusion):
            x0, y0, x1, y1 = (float(v) for v in corners_N4[members].mean(axis=0))
            found.append((x0, y0, x1, y1))
    return sorted(found)


def iou(corners_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes, (N,N)."""
    low_NN2 = np.maximum(corners_N4[:, None, :2], corners_N4[None, :, :2])
    high_NN2 = np.minimum(corners_N4[:, None, 2:], corners_N4[None, :, 2:])
    shared_NN: NDArray[np.float64] = np.clip(high_NN2 - low_NN2, 0, None).prod(axis=-1)
    area_N = (corners_N4[:, 2:] - corners_N4[:, :2]).prod(axis=-1)
    joint: NDArray[np.float64] = shared_NN / (area_N[:, None] + area_N[None] - shared_NN)
    return joint
