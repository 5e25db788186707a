"""NIfTI files written: an array and its affine as bytes."""

from __future__ import annotations

import gzip
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


def nifti_bytes(values_WHD: NDArray[Any], affine_whd: NDArray[np.float64]) -> bytes:
    """A volume as a ``.nii.gz`` file; the same values give the same bytes.

    Args:
        values_WHD: The voxels in NIfTI's order of axes.
        affine_whd: 4x4, (w, h, d, 1) in voxels to (right, anterior, superior, 1) in mm; it may be
            sheared.
    """
    image = nib.Nifti1Image(values_WHD, affine_whd)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
