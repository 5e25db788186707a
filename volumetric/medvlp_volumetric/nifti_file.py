"""What a NIfTI file may say: its header checked field by field before anything is allocated.

After the NIfTI-1 and NIfTI-2 standards (nifti.nimh.nih.gov). A field that only one reading of the
standard can save is put right and flagged; a field that decides where or how large a voxel is and
makes no sense is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medvlp.archive.inflate import FLOOR, LARGEST_RATIO, GzipReader, budget
from medvlp.archive.verdict import Reject

_MAX_VOXELS = 2**30
_MAX_OFFSET = 2**24
_SHORTEST_MM, _LONGEST_MM = 1e-3, 100.0
_MUCH = 64
"""Declaring this many times what is there is no cut-off file but a lie."""

_GREY_TYPES = frozenset({2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280})
"""Codes of one real number a voxel; not colours, complex numbers, bits or 128-bit numbers."""

_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_SINGLE = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}
_PAIR = {348: b"ni1\0", 540: b"ni2\0\r\n\x1a\n"}
_EXTENDER = 4


class Stream(Protocol):
    """What voxels are read from, forward only."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""


@dataclass(frozen=True, kw_only=True)
class NiftiHeader:
    """What a sound header says of a three-dimensional grey volume."""

    shape_WHD: tuple[int, int, int]
    dtype: np.dtype[Any]
    """As stored, byte order included."""

    offset: int
    """Where the voxels begin."""

    scale: tuple[float, float] | None
    """Slope and intercept, None for values as they are stored."""

    affine: NDArray[np.float64]
    """4x4, (w, h, d, 1) in voxels to (right, anterior, superior, 1) in mm."""

    flags: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels."""
        w, h, d = self.shape_WHD
        return w * h * d * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class NiftiFile:
    """An open file: its header, and a stream that stands at its first voxel."""

    header: NiftiHeader
    stream: Stream
    size: int
    """Bytes of the file."""

    packed: bool
    """Whether they are gzip's."""

    def check_size(self) -> None:
        """Compare what the header declares with the bytes that are there.

        Raises:
            Reject: ``truncated_pixels``, ``declared_exceeds_bytes`` or ``inflate_ratio``.
        """
        expected = self.header.offset + self.header.nbytes
        if self.packed:
            if expected > LARGEST_RATIO * self.size:
                raise Reject("declared_exceeds_bytes", f"{self.size} compressed bytes")
            if expected > budget(self.size):
                raise Reject("inflate_ratio", f"{expected // self.size} times its size")
        elif expected > self.size:
            lie = self.header.nbytes > _MUCH * max(self.size - self.header.offset, 1)
            code = "declared_exceeds_bytes" if lie else "truncated_pixels"
            raise Reject(code, f"{self.size} of {expected} bytes")

    def check_end(self) -> tuple[str, ...]:
        """After the last voxel: what follows, and a compressed file's checksum.

        Returns:
            Flags: ``trailing_bytes``.

        Raises:
            Reject: ``inflate``, ``inflate_ratio``, or ``length_mismatch``: further whole volumes.
        """
        extra = self.size - self.header.offset - self.header.nbytes
        if self.packed:
            extra = 0
            while data := self.stream.read(1 << 20):
                extra += len(data)
                if extra > FLOOR:
                    raise Reject("inflate_ratio", "far more than declared")
        if extra and extra % self.header.nbytes == 0:
            raise Reject("length_mismatch", f"{extra // self.header.nbytes} volumes too many")
        garbage = isinstance(self.stream, GzipReader) and self.stream.trailing
        return ("trailing_bytes",) if extra or garbage else ()


@contextmanager
def open_nifti(path: Path, affine: NDArray[np.float64] | None = None) -> Iterator[NiftiFile]:
    """A NIfTI file whose header can be believed.

    Whether the file is compressed is told by its bytes; a name that says otherwise is flagged
    ``wrong_suffix``.

    Args:
        path: The file.
        affine: As `NiftiHeader.affine`, from whoever knows it better than the header, whose own is
            then not looked at.

    Raises:
        Reject: What is wrong with the header.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: Stream = GzipReader(file, size) if packed else file
            header = _header(stream, path, packed, affine)
            yield NiftiFile(header=header, stream=stream, size=size, packed=packed)
    except OSError:
        raise Reject("unreadable") from None


def _header(
    stream: Stream, path: Path, packed: bool, told: NDArray[np.float64] | None
) -> NiftiHeader:
    fields = _fields(stream)
    shape = _shape(fields)
    dtype, dtype_flags = _dtype(fields)
    affine, affine_flags = _affine(fields, shape) if told is None else (told, ())
    scale, scale_flags = _scale(fields)
    offset = _offset(fields)
    between = stream.read(offset - int(fields["sizeof_hdr"]))
    named_gz = path.name.lower().endswith(".gz")
    flags = (
        *(("wrong_suffix",) if named_gz != packed else ()),
        *(() if _extensions_fit(between, fields.endianness) else ("bad_extension",)),
        *dtype_flags,
        *affine_flags,
        *scale_flags,
    )
    return NiftiHeader(
        shape_WHD=shape, dtype=dtype, offset=offset, scale=scale, affine=affine, flags=flags
    )


def _fields(stream: Stream) -> Any:
    """The header's fields by name, in the machine's byte order."""
    block = stream.read(348)
    if not block:
        raise Reject("empty")
    for order in "<>":
        (size,) = struct.unpack(order + "i", block[:4].ljust(4, b"\0"))
        if size in _SINGLE:
            break
    else:
        raise Reject("not_nifti")
    block += stream.read(size - 348)
    if len(block) < size:
        raise Reject("truncated_header")
    magic = block[344:348] if size == 348 else block[4:12]
    if magic == _PAIR[size]:
        raise Reject("nifti_pair")
    if magic != _SINGLE[size]:
        raise Reject("not_nifti" if magic.strip(b"\0") else "analyze")
    kind: Any = nib.Nifti1Header if size == 348 else nib.Nifti2Header
    return kind(block, endianness=order, check=False)


def _extensions_fit(data: bytes, order: str) -> bool:
    """Whether the extensions before the voxels are as long as they say; nobody reads them."""
    if len(data) < _EXTENDER or not data[0]:
        return True
    place = _EXTENDER
    while place < len(data):
        (size,) = struct.unpack(order + "i", data[place : place + 4].ljust(4, b"\0"))
        if size < 16 or size % 16 or place + size > len(data):
            return False
        place += size
    return True


def _shape(fields: Any) -> tuple[int, int, int]:
    dim = [int(n) for n in fields["dim"]]
    count = dim[0]
    if not 1 <= count <= 7:
        raise Reject("bad_dims", f"{count} axes")
    sizes = dim[1 : count + 1]
    if min(sizes) < 1:
        raise Reject("bad_dims", "an axis of no length")
    if count < 3 or max(sizes[3:], default=1) > 1:
        raise Reject("not_3d", f"{count} axes")
    w, h, d = sizes[:3]
    if w * h * d > _MAX_VOXELS:
        raise Reject("declared_exceeds_bytes", f"{w * h * d} voxels")
    if min(w, h, d) < 2:
        raise Reject("too_few_slices", f"{min(w, h, d)} along the shortest axis")
    return w, h, d


def _dtype(fields: Any) -> tuple[np.dtype[Any], tuple[str, ...]]:
    code = int(fields["datatype"])
    if code not in _GREY_TYPES:
        raise Reject("bad_datatype", f"code {code}")
    dtype: np.dtype[Any] = np.dtype(fields.get_data_dtype())
    wrong = int(fields["bitpix"]) != 8 * dtype.itemsize
    return dtype, ("wrong_bitpix",) if wrong else ()


def _offset(fields: Any) -> int:
    offset = float(fields["vox_offset"])
    least = int(fields["sizeof_hdr"]) + 4
    if not (least <= offset <= _MAX_OFFSET and offset.is_integer()):
        raise Reject("bad_offset")
    return int(offset)


def _scale(fields: Any) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0:
        # The standard's way to say that nothing is scaled.
        return None, ("rescale_ignored",) if intercept else ()
    if not np.isfinite([slope, intercept]).all():
        raise Reject("nonfinite_rescale")
    return (None, ()) if (slope, intercept) == (1, 0) else ((slope, intercept), ())


def _affine(
    fields: Any, shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    pixdim = np.asarray(fields["pixdim"], np.float64)[1:4]
    if not np.isfinite(pixdim).all() or pixdim.min() <= 0:
        raise Reject("bad_spacing")
    found = [m for m in (_sform(fields), _qform(fields)) if m is not None]
    if not found:
        raise Reject("no_geometry")
    if not all(np.isfinite(affine).all() for affine in found):
        raise Reject("bad_affine", "not finite")
    unit = int(fields["xyzt_units"]) & 7
    if unit not in _UNITS_MM:
        raise Reject("bad_units", f"code {unit}")
    to_mm = np.diag([_UNITS_MM[unit]] * 3 + [1.0])
    affines = [to_mm @ affine for affine in found]
    for affine in affines:
        _check_affine(affine)
    lengths = np.linalg.norm(affines[0][:3, :3], axis=0)
    remarks = {
        "units_converted": _UNITS_MM[unit] != 1,
        "sform_qform_disagree": _apart(affines[0], affines[-1], shape),
        "spacing_disagree": not np.allclose(lengths, pixdim * _UNITS_MM[unit], rtol=0.01),
    }
    return affines[0], tuple(flag for flag, holds in remarks.items() if holds)


def _sform(fields: Any) -> NDArray[np.float64] | None:
    if int(fields["sform_code"]) <= 0:
        return None
    return np.asarray(fields.get_sform(), np.float64)


def _qform(fields: Any) -> NDArray[np.float64] | None:
    if int(fields["qform_code"]) <= 0:
        return None
    try:
        return np.asarray(fields.get_qform(), np.float64)
    except Exception:
        raise Reject("bad_affine", "no rotation in the quaternion") from None


def _check_affine(affine: NDArray[np.float64]) -> None:
    axes = np.linalg.norm(affine[:3, :3], axis=0)
    if axes.min() < _SHORTEST_MM:
        raise Reject("bad_affine", "an axis of no length")
    if axes.max() > _LONGEST_MM:
        raise Reject("bad_spacing", "voxels of more than 100 mm")
    if abs(np.linalg.det(affine[:3, :3] / axes)) < 0.9:
        raise Reject("bad_affine", "axes not perpendicular")


def _apart(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether two affines place a corner of the volume half a voxel apart or more."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    gap = (a - b) @ np.c_[corners, np.ones(8)].T
    edge = np.linalg.norm(a[:3, :3], axis=0).min()
    return bool(np.linalg.norm(gap[:3], axis=0).max() > edge / 2)
