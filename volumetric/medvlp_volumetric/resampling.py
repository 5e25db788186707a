"""A volume onto a grid: resampled over its extent, cut or filled, and rounded, plane by plane.

No second volume is ever held, nor is a plane made that the grid leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

LOWEST, HIGHEST = -(2**15), 2**15 - 1


def resample(
    hu_DHW: NDArray[np.float32], shape: Sequence[int], *, antialias: bool = True
) -> NDArray[np.float32]:
    """Resample onto another grid over the same extent, axis by axis aligned.

    Linear between voxel centres; with `antialias`, an axis that shrinks by two or more is first
    averaged over whole voxels, so that fine structure does not alias.
    """
    return np.stack(list(_planes(hu_DHW, shape, range(shape[0]), antialias)))


def onto_grid(
    hu_DHW: NDArray[np.float32],
    resampled: Sequence[int],
    shape: Sequence[int],
    start: Sequence[int],
    fill: float,
    lowest: int = LOWEST,
    *,
    antialias: bool = True,
) -> NDArray[np.int16]:
    """`resample`, then a window of it in whole HU.

    Args:
        hu_DHW: The volume.
        resampled: The shape to which it is resampled.
        shape: That of the window.
        start: Where the window begins in the resampled volume, as `middle` or `about` say.
        fill: HU of what of the window lies outside.
        lowest: The least value that is stored.
        antialias: As for `resample`.
    """
    spans = [(max(0, at), min(n, at + m)) for n, m, at in zip(resampled, shape, start, strict=True)]
    rows, columns = (slice(first, last) for first, last in spans[1:])
    out = np.full(tuple(shape), round(min(max(fill, lowest), HIGHEST)), dtype=np.int16)
    into = out[
        tuple(slice(first - at, last - at) for (first, last), at in zip(spans, start, strict=True))
    ]
    for kept, plane in zip(
        into, _planes(hu_DHW, resampled, range(*spans[0]), antialias), strict=True
    ):
        whole = np.rint(plane[rows, columns])
        kept[:] = np.clip(whole, lowest, HIGHEST, out=whole)
    return out


def middle(resampled: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Where a window about the middle begins along each axis; negative where it is filled.

    >>> middle((5, 5), (3, 8))
    (1, -1)
    """
    return tuple(
        (n - m) // 2 if n >= m else -((m - n) // 2) for n, m in zip(resampled, shape, strict=True)
    )


def about(
    share: Sequence[float], resampled: Sequence[int], shape: Sequence[int]
) -> tuple[int, ...]:
    """Where a window about a point begins.

    The window never leaves the volume for more than it must: a larger volume fills it, and of a
    smaller one nothing is cut off.

    Args:
        share: The point, as a share of the volume's extent along each axis.
        resampled: As for `onto_grid`.
        shape: As for `onto_grid`.

    >>> about((0.5, 0.9, 0.2), (10, 10, 10), (4, 4, 12))
    (3, 6, -2)
    """
    return tuple(
        min(max(round(part * n - m / 2), min(0, n - m)), max(0, n - m))
        for part, n, m in zip(share, resampled, shape, strict=True)
    )


def _planes(
    hu_DHW: NDArray[np.float32], shape: Sequence[int], wanted: Iterable[int], antialias: bool
) -> Iterator[NDArray[np.float32]]:
    """Planes of the resampled volume; they may be the volume's own and are not to be changed."""
    size, target = hu_DHW.shape[1:], tuple(shape[1:])
    averaged = tuple(_averaged(n, m, antialias) for n, m in zip(size, target, strict=True))
    for k in wanted:
        plane_HW = _blend(hu_DHW, _taps(len(hu_DHW), shape[0], k, antialias))
        image = torch.from_numpy(plane_HW)[None, None]
        if averaged != size:
            image = F.interpolate(image, averaged, mode="area")
        if averaged != target:
            image = F.interpolate(image, target, mode="bilinear", align_corners=False)
        yield image[0, 0].numpy()


def _averaged(size: int, target: int, antialias: bool) -> int:
    """How many voxels an axis has once whole voxels are averaged."""
    return size // (size // target) if antialias and size >= 2 * target else size


def _taps(size: int, target: int, k: int, antialias: bool) -> dict[int, float]:
    """Which planes make plane `k`, and the share of each."""
    averaged = _averaged(size, target, antialias)
    at = min(max((k + 0.5) * averaged / target - 0.5, 0.0), averaged - 1.0)
    low = int(at)
    taps: dict[int, float] = {}
    for index, share in ((low, 1 - (at - low)), (low + 1, at - low)):
        if share <= 0:
            continue
        first, last = index * size // averaged, -(-(index + 1) * size // averaged)
        for plane in range(first, last):
            taps[plane] = taps.get(plane, 0.0) + share / (last - first)
    return taps


def _blend(hu_DHW: NDArray[np.float32], taps: dict[int, float]) -> NDArray[np.float32]:
    (first, share), *others = taps.items()
    if not others:
        alone: NDArray[np.float32] = np.require(hu_DHW[first], np.float32, ("C", "W"))
        return alone
    blend: NDArray[np.float32] = np.multiply(hu_DHW[first], np.float32(share), order="C")
    scaled = np.empty_like(blend)
    for plane, share in others:
        blend += np.multiply(hu_DHW[plane], np.float32(share), out=scaled)
    return blend
