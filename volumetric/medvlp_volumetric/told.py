"""What tables tell of a volume and its own file does not: its scale and where its voxels lie.

Flags of the sample (`medvlp.data.flags`) carry it from indexing to whoever reads the volume:
``scale``, slope and intercept to Hounsfield units, and ``affine``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.series.hounsfield import body_share, count_hu, count_volume
from medvlp.archive.verdict import Reject
from medvlp.data.flags import flag_with, values_of

SCALE, AFFINE = "scale", "affine"
Affine = tuple[float, ...]
"""The first three rows, twelve numbers, of a matrix from (w, h, d, 1) in voxels to (right,
anterior, superior) in mm."""

_LEAST_BODY = 0.002
"""Share of voxels at air and at tissue without which no body is shown."""
_CLEARLY = 5.0
"""How many times more of a body one scale must show than the other."""
_STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is told of one volume."""

    scale: tuple[float, float] | None = None
    """Slope and intercept that are still to be applied; None where none are."""

    affine: Affine | None = None
    """In place of the file's own; None where that holds."""

    @classmethod
    def of(cls, flags: Iterable[str]) -> Told:
        """What a sample's flags carry.

        >>> Told.of(["no_text", "scale=1.0,-1024.0"]).scale
        (1.0, -1024.0)
        """
        known = tuple(flags)
        scale = values_of(SCALE, known)
        return cls(
            scale=None if scale is None else (scale[0], scale[1]), affine=values_of(AFFINE, known)
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags from which `of` makes the same."""
        parts = ((SCALE, self.scale), (AFFINE, self.affine))
        return tuple(flag_with(name, numbers) for name, numbers in parts if numbers is not None)

    @property
    def matrix(self) -> NDArray[np.float64] | None:
        """`affine` as 4x4."""
        if self.affine is None:
            return None
        return np.vstack([np.reshape(self.affine, (3, 4)), [0.0, 0.0, 0.0, 1.0]])


NOTHING = Told()


def affine_of(matrix: NDArray[np.float64]) -> Affine:
    """The numbers of a 4x4 matrix that `Told` keeps."""
    return tuple(matrix[:3].ravel().tolist())


def affine_of_dicom(
    spacing_mm: Sequence[float],
    position: Sequence[float] = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = _STRAIGHT,
) -> Affine:
    """The affine of slices that are stacked along their normal (DICOM PS3.3 C.7.6.2.1.1).

    Args:
        spacing_mm: Between columns, rows and slices.
        position: Of the first voxel (ImagePositionPatient).
        orientation: Direction of a row, then of a column (ImageOrientationPatient); by default
            towards the patient's left and back.

    Raises:
        Reject: ``bad_spacing`` or ``bad_orientation``.
    """
    steps = np.asarray(spacing_mm, np.float64)
    if steps.shape != (3,) or not np.isfinite(steps).all() or steps.min() <= 0:
        raise Reject("bad_spacing")
    row, column = np.asarray(orientation, np.float64).reshape(-1, 3)[:2]
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    # DICOM's first two directions point the other way.
    matrix = np.diag([-1.0, -1.0, 1.0]) @ np.c_[axes * steps, np.asarray(position, np.float64)]
    if not np.isfinite(matrix).all() or abs(np.linalg.det(axes)) < 0.9:
        raise Reject("bad_orientation")
    return affine_of(matrix)


def is_placeholder(affine: Affine) -> bool:
    """Whether an affine is what programs write that know none: 1 mm along every axis, from 0."""
    matrix = np.reshape(affine, (3, 4))
    return bool((np.abs(matrix[:, :3]) == np.eye(3)).all() and (matrix[:, 3] == 0).all())


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Millimetres between voxels along D, H and W."""
    w, h, d = np.linalg.norm(np.reshape(affine, (3, 4))[:, :3], axis=0).tolist()
    return d, h, w


def is_to_be_scaled(values_DHW: NDArray[np.float32], slope: float, intercept: float) -> bool:
    """Whether a table's slope and intercept are still to be applied, by what the values show.

    A body in air is looked for in the values as they are and in the scaled ones; what the set's
    publisher or a folder's name says counts for nothing.

    Args:
        values_DHW: As the file gives them.
        slope: As the table tells it.
        intercept: As the table tells it.

    Raises:
        Reject: Where neither shows a body, ``double_rescale`` if the values with the scale undone
            do, else ``not_hu``; ``scale_unclear`` where both do; ``zero_slope``.
    """
    if (slope, intercept) == (1.0, 0.0):
        return False
    if not slope:
        raise Reject("zero_slope")
    here = body_share(count_volume(values_DHW))
    scaled = _shown(values_DHW, slope, intercept)
    if max(here, scaled) < _LEAST_BODY:
        twice = _shown(values_DHW, 1 / slope, -intercept / slope) >= _LEAST_BODY
        raise Reject("double_rescale" if twice else "not_hu")
    if min(here, scaled) * _CLEARLY > max(here, scaled):
        raise Reject("scale_unclear", f"{here:.3f} as stored, {scaled:.3f} scaled")
    return scaled > here


def _shown(values_DHW: NDArray[np.float32], slope: float, intercept: float) -> float:
    """How much of the values, were they scaled, looks like a body in air."""
    counts = [count_hu(plane * np.float32(slope) + np.float32(intercept)) for plane in values_DHW]
    return body_share(np.sum(counts, axis=0))
