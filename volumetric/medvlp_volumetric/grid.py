"""Whether two volumes have the same voxels, in whatever orientation each is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

_SAME_PLACE_MM = 0.01

Matrix = NDArray[np.float64]


def same_grid(
    shape_a: Sequence[int], affine_a: Matrix, shape_b: Sequence[int], affine_b: Matrix
) -> bool:
    """Whether two grids have their voxels in the same places of the patient.

    Args:
        shape_a: Voxels along each axis.
        affine_a: 4x4, from voxels along these axes to mm.
        shape_b: Of the other grid.
        affine_b: Of the other grid.
    """
    (size_a, place_a), (size_b, place_b) = _turned(shape_a, affine_a), _turned(shape_b, affine_b)
    return size_a == size_b and bool(np.abs(place_a - place_b).max() <= _SAME_PLACE_MM)


def _turned(shape: Sequence[int], affine: Matrix) -> tuple[tuple[int, ...], Matrix]:
    """Size and affine with the axes towards right, front and head."""
    now = orientations.io_orientation(affine)
    size = [0, 0, 0]
    for old, (new, _) in enumerate(now):
        size[int(new)] = int(shape[old])
    return tuple(size), np.asarray(affine @ orientations.inv_ornt_aff(now, tuple(shape)))
