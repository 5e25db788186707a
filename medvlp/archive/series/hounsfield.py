"""Whether a CT series' values are Hounsfield units: from histograms taken while files are read.

Air lies at -1000 HU, fat near -100, soft tissue from 0 to 80. A rescale applied twice, or never,
moves all three; an 8-bit picture of a window has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BIN_HU = 20
_LOW_HU = -3100
_HIGH_HU = 3100
HU_EDGES: tuple[int, ...] = tuple(range(_LOW_HU, _HIGH_HU + 1, _BIN_HU))
"""Edges of the histogram's bins; one more bin lies below them and one above."""

PADDING_BELOW_HU = -1900.0
"""No tissue and no noise: what scanners write outside the scanned circle."""
OUTSIDE_HU = -1024.0
"""What padding becomes: the lowest value of a 12-bit CT scale."""
_BRIGHTEST_HU = 3071.0
"""The highest value of that scale: what is declared as padding above it is no tissue."""

_AIR = (-1080, -920)
_SOFT = (-20, 120)
_FAT = (-160, -40)
_TISSUE = (-200, 200)
_TWICE_SHARE = 0.02
_TWICE_RATIO = 5.0
_NO_TISSUE = 0.01
_RESCALED = -500.0
"""The intercept of whoever rescales to Hounsfield units lies below this."""
_PEAK_SHARE = 0.002
_ODD = 0.8
_ALIKE = 0.4
_COARSE = 5
_EIGHT_BIT = 255.0
_EVERY = 4
_SHORT = 32


@dataclass(frozen=True, kw_only=True)
class Values:
    """What one file's pixels say: its part of a series' histogram."""

    low: float
    high: float
    counts: tuple[int, ...]
    """Over `HU_EDGES`."""


@dataclass(frozen=True, kw_only=True)
class HuReport:
    """What a series' values say about their scale."""

    code: str
    """``double_rescale`` or ``not_hu`` where they cannot be believed, else empty."""
    flags: tuple[str, ...]
    low: float
    high: float
    air_peak_hu: float | None
    tissue_peak_hu: float | None
    padding_fraction: float
    constant_slices: tuple[int, ...]
    counts: tuple[int, ...]
    """Of all voxels, over `HU_EDGES`."""
    odd_slices: tuple[int, ...]
    """Slices unlike both neighbours, which are like each other: decoded another way."""


def count_hu(
    values: NDArray[np.floating[Any]], weights: NDArray[np.integer[Any]] | None = None
) -> tuple[int, ...]:
    """The histogram of finite values over `HU_EDGES`, with one bin below and one above.

    Args:
        values: In HU, of any shape.
        weights: How often each value occurs; once if not given.
    """
    bins = np.floor((values.ravel() - _LOW_HU) * (1 / _BIN_HU))
    index = np.clip(bins, -1, len(HU_EDGES) - 1).astype(np.intp) + 1
    counts = np.bincount(index, weights, minlength=len(HU_EDGES) + 1)
    return tuple(counts.astype(np.int64).tolist())


def count_volume(hu_DHW: NDArray[np.float32]) -> tuple[int, ...]:
    """The histogram over `HU_EDGES` of a whole volume, plane by plane."""
    planes = (count_hu(plane) for plane in hu_DHW)
    return tuple(sum(column) for column in zip(*planes, strict=True))


def some_of(shape: Sequence[int]) -> tuple[slice, ...]:
    """Which voxels are enough to doubt a scale: every fourth along an axis, more of a short one."""
    return tuple(slice(None, None, min(_EVERY, max(1, n // _SHORT))) for n in shape)


def count_stored(stored: NDArray[Any], slope: float, intercept: float) -> tuple[int, ...]:
    """The histogram over `HU_EDGES` of whole stored values, once they are rescaled."""
    if stored.dtype.itemsize > 2:
        return count_hu(stored.astype(np.float64) * slope + intercept)
    # Few levels and many pixels: count levels first.
    native = stored.astype(stored.dtype.newbyteorder("="), order="C", copy=False)
    unsigned = native.view(native.dtype.str.replace("i", "u"))
    levels = np.bincount(unsigned.ravel())
    found = np.flatnonzero(levels)
    values = found.astype(unsigned.dtype).view(native.dtype).astype(np.float64)
    return count_hu(values * slope + intercept, levels[found])


def judge_hu(slices: Sequence[Values], intercepts: Sequence[float], bits_stored: int) -> HuReport:
    """Judge a series' values.

    Args:
        slices: What each slice's pixels say, in order.
        intercepts: The slices' rescale intercepts.
        bits_stored: Of a pixel.
    """
    table_NB = np.array([item.counts for item in slices], dtype=np.int64)
    total_B = table_NB.sum(axis=0)
    low = min(item.low for item in slices)
    high = max(item.high for item in slices)
    constant = tuple(i for i, item in enumerate(slices) if item.low == item.high)
    odd = _odd_slices(table_NB)
    padding = _share(total_B, (_LOW_HU - _BIN_HU, int(PADDING_BELOW_HU)))
    code = _code(total_B, low, high, intercepts, bits_stored)
    scanned_B = _scanned(total_B)
    absent = absent_peaks(total_B)
    flags = {
        "no_air_peak": "no_air_peak" in absent,
        "no_tissue_peak": "no_tissue_peak" in absent,
        "padding_clamped": low < PADDING_BELOW_HU,
        "no_information": bool(constant) and len(constant) == len(slices) and low == high,
        "constant_slices": bool(constant),
        "odd_slice": bool(odd),
    }
    return HuReport(
        code=code,
        flags=tuple(name for name, raised in flags.items() if raised),
        low=low,
        high=high,
        air_peak_hu=_peak(scanned_B, _AIR),
        tissue_peak_hu=_peak(scanned_B, _TISSUE),
        padding_fraction=padding,
        constant_slices=constant,
        counts=tuple(total_B.tolist()),
        odd_slices=odd,
    )


def absent_peaks(counts: Sequence[int] | NDArray[np.int64]) -> tuple[str, ...]:
    """``no_air_peak`` and ``no_tissue_peak``, where few values of a histogram lie there.

    Args:
        counts: Over `HU_EDGES`; padding does not count.
    """
    scanned_B = _scanned(np.asarray(counts, dtype=np.int64))
    air = _share(scanned_B, _AIR)
    tissue = _share(scanned_B, _SOFT) + _share(scanned_B, _FAT)
    there = {"no_air_peak": air, "no_tissue_peak": tissue}
    return tuple(name for name, share in there.items() if share < _PEAK_SHARE)


def _scanned(total_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """The histogram without padding."""
    return np.where(_centres() < PADDING_BELOW_HU, 0, total_B)


def _centres() -> NDArray[np.float64]:
    first = _LOW_HU - _BIN_HU / 2
    return np.asarray(first + _BIN_HU * np.arange(len(HU_EDGES) + 1), dtype=np.float64)


def _share(total_B: NDArray[np.int64], window: tuple[float, float]) -> float:
    """The fraction of voxels in a window of HU."""
    centres = _centres()
    inside = (centres > window[0]) & (centres < window[1])
    return float(total_B[inside].sum() / max(1, total_B.sum()))


def _peak(total_B: NDArray[np.int64], window: tuple[float, float]) -> float | None:
    """The fullest bin's centre in a window, if it stands out at all."""
    centres = _centres()
    inside = np.flatnonzero((centres > window[0]) & (centres < window[1]))
    best = inside[int(np.argmax(total_B[inside]))]
    return float(centres[best]) if total_B[best] > _PEAK_SHARE * total_B.sum() else None


def _code(
    total_B: NDArray[np.int64],
    low: float,
    high: float,
    intercepts: Sequence[float],
    bits_stored: int,
) -> str:
    if low < high and (bits_stored <= 8 or (low >= 0 and high <= _EIGHT_BIT)):
        return "not_hu"
    never = max(body_share(total_B, 1000.0), body_share(total_B, 1024.0))
    if low >= 0 and min(intercepts) > _RESCALED and never >= max(_TWICE_SHARE, body_share(total_B)):
        return "not_hu"
    return scale_code(total_B, intercepts)


def scale_code(counts: Sequence[int] | NDArray[np.int64], intercepts: Sequence[float] = ()) -> str:
    """``double_rescale`` where a histogram shows a body only on a scale that is moved, else empty.

    Args:
        counts: Over `HU_EDGES`.
        intercepts: Further intercepts that may have been applied twice, beside -1000 and -1024.
    """
    total_B = np.asarray(counts, dtype=np.int64)
    shifts = {-1000.0, -1024.0, *(shift for shift in intercepts if shift < _RESCALED)}
    twice = max(body_share(total_B, shift) for shift in shifts)
    here = body_share(total_B)
    tissue = _share(total_B, _SOFT) + _share(total_B, _FAT)
    # A small body in a scan with padding looks a little like a moved one, but keeps its tissue.
    moved = twice >= max(_TWICE_SHARE, _TWICE_RATIO * here) and tissue < _NO_TISSUE
    return "double_rescale" if moved else ""


def body_share(counts: Sequence[int] | NDArray[np.int64], shift: float = 0.0) -> float:
    """How much of a histogram looks like a body in air, were the scale moved by `shift`.

    Args:
        counts: Over `HU_EDGES`.
        shift: In HU.

    Returns:
        The lesser of two fractions of all voxels: at air, and at fat and soft tissue.
    """
    total_B = np.asarray(counts, dtype=np.int64)
    air = _share(total_B, (_AIR[0] + shift, _AIR[1] + shift))
    tissue = _share(total_B, (_SOFT[0] + shift, _SOFT[1] + shift))
    fat = _share(total_B, (_FAT[0] + shift, _FAT[1] + shift))
    return min(air, tissue + fat)


def _odd_slices(table_NB: NDArray[np.int64]) -> tuple[int, ...]:
    """Slices whose histogram is unlike both neighbours' while those are like each other."""
    if len(table_NB) < 3:
        return ()
    bins = table_NB.shape[1] // _COARSE * _COARSE
    coarse = table_NB[:, :bins].reshape(len(table_NB), -1, _COARSE).sum(axis=2)
    share = coarse / np.maximum(1, coarse.sum(axis=1, keepdims=True))
    near = np.abs(np.diff(share, axis=0)).sum(axis=1) / 2
    across = np.abs(share[2:] - share[:-2]).sum(axis=1) / 2
    odd = (np.minimum(near[:-1], near[1:]) > _ODD) & (across < _ALIKE)
    return tuple(int(i) + 1 for i in np.flatnonzero(odd))


def is_outside(padding_hu: float) -> bool:
    """Whether a stated padding is no value that a voxel of the patient could have."""
    return padding_hu < OUTSIDE_HU or padding_hu > _BRIGHTEST_HU


def clamp_padding(values_HW: NDArray[np.float32], padding_hu: float | None) -> bool:
    """Set a CT slice's padding to `OUTSIDE_HU`, in place; whether there was any.

    Args:
        values_HW: In HU.
        padding_hu: What the header says padding is, in HU.
    """
    outside = values_HW < PADDING_BELOW_HU
    if padding_hu is not None and is_outside(padding_hu):
        outside |= values_HW == np.float32(padding_hu)
    if not outside.any():
        return False
    values_HW[outside] = OUTSIDE_HU
    return True
