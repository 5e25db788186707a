"""NIfTI files of phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.series.nifti import nifti_bytes


def write_nifti(
    path: Path, values_DHW: NDArray[Any], spacing_mm: tuple[float, ...],
    origin_mm: tuple[float, float, float],
) -> None:  # fmt: skip
    """Write a volume as ``.nii.gz``; the same values give the same bytes.

    Args:
        path: The new file.
        values_DHW: Slices from foot to head, rows from front to back, columns from the patient's
            right to left.
        spacing_mm: Of slices, rows and columns.
        origin_mm: Position (x, y, z) of the first voxel in DICOM's patient coordinates, whose x
            and y NIfTI turns round.
    """
    depth, row, column = spacing_mm
    affine = np.diag([-column, -row, depth, 1.0])
    affine[:3, 3] = (-origin_mm[0], -origin_mm[1], origin_mm[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(values_DHW.transpose(2, 1, 0), affine))
