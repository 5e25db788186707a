"""NIfTI volumes: read with their affine, checked before they are believed."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medvlp.archive.geometry import Volume
from medvlp.archive.probe import Probe
from medvlp.archive.verdict import Reject

SUFFIXES = (".nii", ".nii.gz")
_MAX_VOXELS = 2**31
_MIN_AXIS_MM = 1e-3

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(SUFFIXES)


def _open(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Any = nib.load(path)
    except Exception:
        raise Reject("not_nifti") from None
    shape = image.shape
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3:
        raise Reject("not_3d", f"{len(shape)} axes")
    if min(shape) < 2:
        raise Reject("too_few_slices", f"{min(shape)} along the shortest axis")
    if np.prod(shape, dtype=np.int64) > _MAX_VOXELS:
        raise Reject("declared_exceeds_bytes")
    _check_affine(np.asarray(image.affine, dtype=np.float64))
    return image


def _check_affine(affine: NDArray[np.float64]) -> None:
    if not np.isfinite(affine).all():
        raise Reject("bad_affine", "not finite")
    axes = np.linalg.norm(affine[:3, :3], axis=0)
    if axes.min() < _MIN_AXIS_MM:
        raise Reject("bad_affine", "an axis of no length")
    cosines = affine[:3, :3] / axes
    if abs(np.linalg.det(cosines)) < 0.9:
        raise Reject("bad_affine", "axes not perpendicular")


def probe_nifti(path: Path) -> Probe:
    """Shape (D,H,W) and spacing of the array as `read_nifti` gives it, from the header.

    Raises:
        Reject: Not NIfTI, not three-dimensional, or a bad affine.
    """
    image = _open(path)
    w, h, d = image.shape[:3]
    dx, dy, dz = (float(x) for x in np.linalg.norm(image.affine[:3, :3], axis=0))
    return Probe(shape=(d, h, w), spacing_mm=(dz, dy, dx), reader="nibabel")


def read_nifti(path: Path) -> Volume:
    """A volume in the orientation it is stored in, its rescale applied.

    Flags: ``not_hu`` where the values cannot be Hounsfield units.

    Raises:
        Reject: Not NIfTI, cut off, not three-dimensional, not finite, or a bad affine.
    """
    image = _open(path)
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError:
        raise Reject("memory") from None
    except Exception:
        raise Reject("truncated_pixels") from None
    values_WHD = values.reshape(values.shape[:3])
    if not np.isfinite(values_WHD).all():
        raise Reject("nonfinite_pixels")
    flags = () if looks_like_hu(values_WHD) else ("not_hu",)
    return Volume.from_whd(values_WHD, np.asarray(image.affine, dtype=np.float64), flags)


def looks_like_hu(values: NDArray[np.float32]) -> bool:
    """Whether the values can be Hounsfield units: as dark as fat or air, and as bright as bone."""
    return float(values.min()) <= -100 and float(values.max()) >= 100
