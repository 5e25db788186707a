"""Volumes that are bare arrays or stacks of pictures: neither tells where its voxels lie."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from medvlp.archive.containers import members
from medvlp.archive.pictures import read_grey
from medvlp.archive.series.geometry import Provenance, Volume
from medvlp.archive.verdict import Reject
from medvlp_volumetric.told import Told
from medvlp_volumetric.values import value_flags

ARRAYS = (".npz", ".npy")

_LARGEST = 1 << 32
_MOST_VOXELS = 2**30
_LONGEST_HEADER = 10_000
_KINDS = "iuf"
_ANYWHERE = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Columns towards the left, rows towards the back, slices towards the head, 1 mm apart."""


def is_array(path: Path) -> bool:
    """Whether the name says that it is an array of numpy's."""
    return path.suffix.lower() in ARRAYS


def read_array(path: Path, told: Told) -> Volume:
    """The array in a ``.npy`` file, or in the one member of a ``.npz`` file, as a volume.

    Args:
        path: The file; its array is (D,H,W), after leading axes of length one.
        told: Scale and affine; without an affine, see `_ANYWHERE`.

    Raises:
        Reject: ``not_an_array``, ``bad_datatype``, ``not_3d``, ``bad_dims``,
            ``declared_exceeds_bytes``, ``truncated_pixels``, ``nonfinite_pixels``, or what is
            wrong with a ``.npz`` file.
    """
    values_DHW = _values(_data(path)).astype(np.float32)
    return _volume(values_DHW, told, Provenance(reader="numpy", files=(path,)))


def read_stack(paths: Sequence[Path], told: Told) -> Volume:
    """Pictures, one a slice in this order, as a volume of their grey levels.

    Raises:
        Reject: ``mixed_sizes``, or what is wrong with a picture.
    """
    return stacked(paths, [read_grey(path).values for path in paths], told)


def stacked(paths: Sequence[Path], slices: Sequence[NDArray[np.float32]], told: Told) -> Volume:
    """`read_stack` of pictures whose (H,W) grey levels were read before."""
    if len({values.shape for values in slices}) > 1:
        raise Reject("mixed_sizes")
    return _volume(np.stack(slices), told, Provenance(reader="pillow", files=tuple(paths)))


def _volume(values_DHW: NDArray[np.float32], told: Told, history: Provenance) -> Volume:
    if not np.isfinite(values_DHW).all():
        raise Reject("nonfinite_pixels")
    if told.scale is not None:
        values_DHW = values_DHW * np.float32(told.scale[0]) + np.float32(told.scale[1])
    affine = _ANYWHERE if told.matrix is None else told.matrix
    flags = value_flags(values_DHW)
    return Volume.from_whd(values_DHW.transpose(2, 1, 0), affine, flags, history)


def _data(path: Path) -> bytes:
    """The bytes of the array, in numpy's own format."""
    if path.suffix.lower() == ".npz":
        found = list(members(path, largest=_LARGEST))
        if len(found) != 1 or found[0].data is None:
            raise Reject("not_an_array", f"{len(found)} members")
        return found[0].data
    try:
        if path.stat().st_size > _LARGEST:
            raise Reject("file_too_large")
        return path.read_bytes()
    except OSError:
        raise Reject("unreadable") from None


def _values(data: bytes) -> NDArray[Any]:
    """(D,H,W) of real numbers; an array of objects, which could run code, is refused unread."""
    file = io.BytesIO(data)
    try:
        version = npy_format.read_magic(file)
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(file, _LONGEST_HEADER)
    except (ValueError, KeyError, OSError):
        raise Reject("not_an_array" if data else "empty") from None
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise Reject("bad_datatype", dtype.str[:8])
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 3:
        raise Reject("not_3d", f"{len(shape)} axes")
    if min(shape) < 2:
        raise Reject("too_few_slices" if min(shape) == 1 else "bad_dims")
    count = int(np.prod(shape, dtype=np.int64))
    if count > _MOST_VOXELS:
        raise Reject("declared_exceeds_bytes", f"{count} voxels")
    if len(data) - file.tell() < count * dtype.itemsize:
        raise Reject("truncated_pixels")
    flat = np.frombuffer(data, dtype, count, file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")
