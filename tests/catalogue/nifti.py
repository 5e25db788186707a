"""NIfTI files written byte by byte, so that every field can lie."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SINGLE = b"n+1\0"
AFFINE = np.array([[0.8, 0, 0, -9], [0, 0.8, 0, -8], [0, 0, 2, 7], [0, 0, 0, 1]], float)

# Name -> (offset, format) of NIfTI-1 fields, after the standard's nifti1.h.
_FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl_slope": (112, "f"),
    "scl_inter": (116, "f"), "xyzt_units": (123, "B"), "qform_code": (252, "h"),
    "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"),
    "srow": (280, "12f"), "magic": (344, "4s"),
}  # fmt: skip
_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}


def body(shape: tuple[int, int, int] = (12, 10, 8)) -> NDArray[np.int16]:
    """Values like a body's in Hounsfield units, no two slices equal: (w, h, d)."""
    w, h, d = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return (-1000 + (w * 131 + h * 17 + d * 239) % 2200).astype(np.int16)


def fields_of(values: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> dict[str, Any]:
    """The fields of a sound header: sform alone, millimetres, nothing scaled."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    return {
        "sizeof_hdr": 348,
        "dim": (values.ndim, *values.shape, *[1] * (7 - values.ndim)),
        "datatype": _CODES[values.dtype.str[1:]],
        "bitpix": 8 * values.dtype.itemsize,
        "pixdim": (1.0, *steps, 0, 0, 0, 0),
        "vox_offset": 352.0,
        "scl_slope": 1.0,
        "xyzt_units": 2,
        "sform_code": 1,
        "srow": tuple(affine[:3].ravel()),
        "magic": SINGLE,
    }


def header(fields: Mapping[str, Any], order: str = "<") -> bytes:
    """The 348 bytes."""
    block = bytearray(348)
    for name, value in fields.items():
        offset, form = _FIELDS[name]
        parts = value if isinstance(value, tuple) else (value,)
        struct.pack_into(order + form, block, offset, *parts)
    return bytes(block)


def nifti(
    values: NDArray[Any] | None = None,
    *,
    order: str = "<",
    between: bytes = bytes(4),
    **changes: Any,
) -> bytes:
    """A NIfTI-1 file of `body` or `values`, with some fields changed."""
    array = body() if values is None else values
    data = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    fields = {**fields_of(array), "vox_offset": float(348 + len(between)), **changes}
    return header(fields, order) + between + data


def packed(data: bytes) -> bytes:
    """As gzip, without a date, so that the same bytes come out."""
    return gzip.compress(data, mtime=0)


def oracle(values: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """What a reader must give for `nifti`: (d, h, w)."""
    array = body() if values is None else values
    return array.transpose(2, 1, 0).astype(np.float32)
