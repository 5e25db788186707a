"""One cached array as a file: ``.npy`` to be mapped, or ``.b2nd`` compressed in small blocks.

Both carry a CRC-32 of everything before it in their last four bytes. Neither can run code: a
``.npy`` of objects is refused, and of a ``.b2nd`` only shape, type and blocks are read, never the
metadata in which other programs keep expressions.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import blosc2
import numpy as np
from numpy.typing import NDArray

from medvlp.data.whole_files import CRC, checksum, is_sound
from medvlp.errors import InputError

Format = Literal["auto", "npy", "blosc2"]
"""``npy``: plain, mapped into memory, fastest when it is warm. ``blosc2``: LZ4HC with bitshuffle,
less than half the size for CT. ``auto``: blosc2 for volumes of two-byte integers (CT), npy for the
rest, which is small or does not shrink."""

SUFFIXES = {"npy": ".npy", "blosc2": ".b2nd"}
"""The ending of each format's files."""

_CHUNK = (64, 128, 128)
_BLOCK = (16, 64, 64)
"""Along the last three axes. A crop of 128³ reads blocks of 2.2 times its size on average and few
chunks; larger blocks waste more, smaller ones compress worse."""

_LEVEL = 5


class Entry(Protocol):
    """A sound entry, open for reading."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's shape."""

    def crop(self, window: tuple[slice, ...]) -> NDArray[Any]:
        """A part of the array, the caller's own copy."""


class Mapped:
    """A plain array in a mapped file."""

    def __init__(self, data: memoryview) -> None:
        head = BytesIO(data[: 1 << 16])
        version = np.lib.format.read_magic(head)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, kind = read(head)
        if kind.hasobject or fortran:
            raise ValueError("no plain array in C order")
        self._array: NDArray[Any] = np.frombuffer(
            data, kind, count=prod(shape), offset=head.tell()
        ).reshape(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's shape."""
        return self._array.shape

    def crop(self, window: tuple[slice, ...]) -> NDArray[Any]:
        """Copy a part."""
        return np.array(self._array[window])


class Packed:
    """A compressed array in a mapped file."""

    def __init__(self, data: memoryview, threads: int) -> None:
        # Not `blosc2.open`, which builds whatever object the file's metadata describe.
        self._array = blosc2.ndarray_from_cframe(data)
        if self._array.dtype.hasobject:
            raise ValueError("no plain array")
        self._array.schunk.dparams = blosc2.DParams(nthreads=threads)

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's shape."""
        return tuple(self._array.shape)

    def crop(self, window: tuple[slice, ...]) -> NDArray[Any]:
        """Decompress the blocks that a part touches."""
        values: NDArray[Any] = np.asarray(self._array[window])
        return values


def open_entry(path: Path, threads: int = 1) -> Entry | None:
    """Map a file and check its bytes once; None if it is missing or damaged.

    Args:
        path: The entry's file.
        threads: Threads that decompress; reading processes have one each.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if not is_sound(data):
            return None
        body = data[:-CRC]
        return Packed(body, threads) if path.suffix == ".b2nd" else Mapped(body)
    except (OSError, ValueError, RuntimeError):
        return None


def write_entry(folder: Path, key: str, array: NDArray[Any], wanted: Format) -> Path:
    """Write an array whole or not at all, and return its file."""
    chosen = form_of(array, wanted)
    path = folder / f"{key}{SUFFIXES[chosen]}"
    plain = np.asarray(array, order="C")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            data = _packed(plain) if chosen == "blosc2" else _plain(plain)
            file.write(data)
            file.write(checksum(memoryview(data)))
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    return path


def form_of(array: NDArray[Any], wanted: Format) -> Literal["npy", "blosc2"]:
    """The format in which an array is written."""
    if wanted != "auto":
        return wanted
    volume = array.ndim >= 3 and array.dtype.kind in "iu" and array.dtype.itemsize == 2
    return "blosc2" if volume else "npy"


def whole(shape: Sequence[int]) -> tuple[slice, ...]:
    """The window that is the whole array."""
    return tuple(slice(0, n) for n in shape)


def window_of(shape: Sequence[int], start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """The window of `size` that begins at `start`.

    Raises:
        InputError: It does not lie within the array, or has another number of axes.
    """
    inside = len(start) == len(size) == len(shape) and all(
        a >= 0 and n > 0 and a + n <= m for a, n, m in zip(start, size, shape, strict=True)
    )
    if not inside:
        raise InputError(
            f"a window of {tuple(size)} at {tuple(start)} does not lie within {tuple(shape)}",
            remedy="choose a smaller window, or store a larger array",
        )
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))


def _plain(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _packed(array: NDArray[Any]) -> bytes:
    lead = (1,) * max(0, array.ndim - 3)
    axes = min(3, array.ndim)
    shapes = [
        (*lead, *(min(n, m) for n, m in zip(array.shape[-axes:], limit[-axes:], strict=True)))
        for limit in (_CHUNK, _BLOCK)
    ]
    packed = blosc2.asarray(
        array,
        chunks=shapes[0],
        blocks=shapes[1],
        cparams=blosc2.CParams(
            codec=blosc2.Codec.LZ4HC,
            clevel=_LEVEL,
            filters=[blosc2.Filter.BITSHUFFLE],
            filters_meta=[0],
            typesize=array.dtype.itemsize,
            nthreads=1,
        ),
    )
    frame: bytes = packed.to_cframe()
    return frame
