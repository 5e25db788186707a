"""Miniatures of CT volumes: a body in air, written as the published sets write theirs."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE_WHD = (20, 18, 12)


def body(seed: int, shape_whd=SHAPE_WHD) -> np.ndarray:
    """(W,H,D) int16 HU: noisy air, a block of soft tissue with fat, lung and bone, no symmetry."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(-1000, 6, shape_whd)
    w, h, d = shape_whd
    hu[3 : w - 2, 4 : h - 3] = rng.normal(45, 6, (w - 5, h - 7, d))
    hu[3:5, 4 : h - 3] = -100
    hu[7:10, 7:10] = -850
    hu[w - 5, h - 5] = 700
    hu[w - 4, 5, : d // 3] = 300
    return np.rint(hu).astype(np.int16)


def affine(spacing_xyz=(0.8, 0.8, 2.5), position=(-40.0, -35.0, 10.0)) -> np.ndarray:
    """Of columns to the left, rows to the back, slices to the head, at a DICOM position."""
    dx, dy, dz = spacing_xyz
    x, y, z = position
    return np.array([[-dx, 0, 0, -x], [0, -dy, 0, -y], [0, 0, dz, z], [0, 0, 0, 1]])


def nifti(path: Path, values_whd: np.ndarray, affine_4x4: np.ndarray | None = None) -> Path:
    """A NIfTI file; without an affine, the one that programs write that know none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = np.eye(4) if affine_4x4 is None else affine_4x4
    nib.save(nib.Nifti1Image(values_whd, place), path)
    return path


def without_geometry(path: Path) -> Path:
    """Overwrite an uncompressed file's sform with numbers that are none, as some files have it."""
    data = bytearray(path.read_bytes())
    data[252:256] = np.array([0, 1], "<i2").tobytes()
    data[280:328] = np.full(12, np.nan, "<f4").tobytes()
    path.write_bytes(bytes(data))
    return path


def marked_body(shape_whd=(20, 20, 20)) -> np.ndarray:
    """Air with a bright mark on the patient's left, at the back, near the head (RAS axes)."""
    values = np.full(shape_whd, -1000, dtype=np.int16)
    values[2:18, 2:18, 2:18] = 40
    values[3:7, 3:7, 13:17] = 1000  # small R, small A, large S: left, back, head
    return values


def saved(path: Path, values_whd: np.ndarray, affine_4x4: np.ndarray | None = None) -> Path:
    """A NIfTI file in an existing folder; without an affine, of voxels of 2 mm along RAS."""
    place = np.diag([2.0, 2, 2, 1]) if affine_4x4 is None else affine_4x4
    nib.save(nib.Nifti1Image(values_whd, place), path)
    return path
