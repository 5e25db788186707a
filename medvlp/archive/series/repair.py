"""Undoing a gantry's tilt and filling missing slices, linearly, on a grid that stays true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Shear:
    """Shifts that put slices on a line along their normal: so much further for each place.

    The slices stay in their own planes; rows and columns are added so that none is cut.
    """

    row_shift: float
    """Rows by which the next place's image moves."""
    column_shift: float
    row_margin: int
    """Rows added before the first one."""
    column_margin: int
    rows: int
    """Rows added in all."""
    columns: int

    @classmethod
    def over(cls, *, row_shift: float, column_shift: float, depth: int) -> Shear:
        """The shear over `depth` places."""
        rows, columns = (
            math.ceil(abs(shift) * (depth - 1) - 1e-6) for shift in (row_shift, column_shift)
        )
        return cls(
            row_shift=row_shift,
            column_shift=column_shift,
            row_margin=rows if row_shift < 0 else 0,
            column_margin=columns if column_shift < 0 else 0,
            rows=rows,
            columns=columns,
        )

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(D, H, W) after the shear of a volume with this shape before it."""
        return shape[0], shape[1] + self.rows, shape[2] + self.columns

    def apply(self, plane_HW: NDArray[np.float32], place: int, fill: float) -> NDArray[np.float32]:
        """The slice of a place on the new grid; what lies outside it is `fill`."""
        rows = place * self.row_shift + self.row_margin
        columns = place * self.column_shift + self.column_margin
        height, width = plane_HW.shape
        moved = _shift(plane_HW, rows, height + self.rows, fill)
        return _shift(moved.T, columns, width + self.columns, fill).T


def _shift(
    plane_NM: NDArray[np.float32], by: float, length: int, fill: float
) -> NDArray[np.float32]:
    """Move the rows by a fraction of rows: linear between two rows, exact for whole numbers."""
    whole = math.floor(by + 1e-6)
    part = max(0.0, by - whole)
    out = np.full((length, plane_NM.shape[1]), fill, dtype=np.float32)
    count = len(plane_NM)
    if part < 1e-6:
        out[whole : whole + count] = plane_NM
        return out
    # Row i of the result lies between rows i - whole - 1 and i - whole of the slice.
    between = np.float32(part) * plane_NM[:-1] + np.float32(1 - part) * plane_NM[1:]
    out[whole + 1 : whole + count] = between
    return out


def fill_missing(values_DHW: NDArray[np.float32], places: Sequence[int]) -> None:
    """Fill the planes that are no one's place, linearly from the planes on both sides."""
    for before, after in pairwise(places):
        for place in range(before + 1, after):
            part = np.float32((place - before) / (after - before))
            values_DHW[place] = (1 - part) * values_DHW[before] + part * values_DHW[after]
