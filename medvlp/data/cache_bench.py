"""How fast this machine's disk and processor give cached arrays back, format by format."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvlp.data.cache_entry import open_entry, whole, write_entry

_ROUNDS = 5
_CLOSE = 0.9
"""A plain format that is not faster by a tenth does not pay for twice the disk."""

Form = Literal["npy", "blosc2"]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Medians of one format."""

    form: Form
    size: float
    """Bytes in the file, as a share of those in memory."""

    write_ms: float
    first_ms: float
    """The first reading of a process, from the disk, with the check of all bytes."""

    full_ms: float
    """Later readings, from memory."""

    crop_ms: float
    """Half of every axis, from memory."""


def bench_formats(arrays: Sequence[NDArray[Any]], folder: Path) -> list[Speed]:
    """Measure both formats on some arrays, in files that are removed again.

    Args:
        arrays: What is stored: a few typical samples.
        folder: Where, on the disk that shall hold the cache.
    """
    forms: tuple[Form, Form] = ("npy", "blosc2")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".bench-") as inside:
        rounds = [
            [_once(array, form, Path(inside)) for form in forms]
            for _ in range(_ROUNDS)
            for array in arrays
        ]
    return [_median(form, [done[k] for done in rounds]) for k, form in enumerate(forms)]


def recommend(speeds: Iterable[Speed]) -> tuple[Form, str]:
    """The format to choose, and why: what a data set larger than the memory reads faster."""
    by = {speed.form: speed for speed in speeds}
    plain, packed = by["npy"], by["blosc2"]
    if plain.first_ms < _CLOSE * packed.first_ms:
        return "npy", f"it reads in {plain.first_ms / packed.first_ms:.2f} of the time of blosc2"
    if packed.size < _CLOSE * plain.size:
        return "blosc2", f"it takes {packed.size:.2f} of the disk and reads no slower from it"
    return "npy", "compression saves nothing here"


def _once(array: NDArray[Any], form: Form, folder: Path) -> Speed:
    since = time.perf_counter()
    path = write_entry(folder, "entry", array, form)
    write_ms = 1000 * (time.perf_counter() - since)
    _forget_pages(path)
    since = time.perf_counter()
    entry = open_entry(path)
    assert entry is not None
    entry.crop(whole(entry.shape))
    first_ms = 1000 * (time.perf_counter() - since)
    quarter = tuple(slice(n // 4, n // 4 + max(1, n // 2)) for n in entry.shape)
    return Speed(
        form=form,
        size=path.stat().st_size / max(1, array.nbytes),
        write_ms=write_ms,
        first_ms=first_ms,
        full_ms=_milliseconds(lambda: entry.crop(whole(entry.shape))),
        crop_ms=_milliseconds(lambda: entry.crop(quarter)),
    )


def _milliseconds(read: Callable[[], object]) -> float:
    since = time.perf_counter()
    read()
    return 1000 * (time.perf_counter() - since)


def _forget_pages(path: Path) -> None:
    """Have the system drop what it keeps of a file in memory, where it can be asked to."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _median(form: Form, done: Sequence[Speed]) -> Speed:
    def middle(name: str) -> float:
        return float(np.round(statistics.median(getattr(one, name) for one in done), 4))

    return Speed(
        form=form,
        size=middle("size"),
        write_ms=middle("write_ms"),
        first_ms=middle("first_ms"),
        full_ms=middle("full_ms"),
        crop_ms=middle("crop_ms"),
    )
