"""Where an image's own pixels lie on the stored grid: boxes and masks by the image's geometry.

Every preprocessing contract turns, flips, scales and shifts along the axes, so that one scale and
one offset an axis say all. Coordinates are edges: pixel i covers [i, i+1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.data.regions import region_mask
from medvlp.errors import InputError

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxRegion:
    """A box in the image's own pixels, as the manifest has it."""

    corners: tuple[float, ...]
    """(x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1), far edges exclusive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRegion:
    """A mask in a file of its own, on the image's own pixels."""

    paths: tuple[Path, ...]
    value: float | None = None
    """The region's number where the file is a label map; else all that is not 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeRegion:
    """An ellipse, a polygon or runs in a picture's own pixels; see `medvlp.data.regions`."""

    kind: str
    geometry: tuple[float, ...]


Region = BoxRegion | MaskRegion | ShapeRegion


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the array that was read lies on the stored grid.

    Stored axis k shows axis ``axes[k]`` of the array; edge x there is edge
    ``scale[k] * x + offset[k]`` on the grid. A negative scale is a flip.
    """

    native: tuple[int, ...]
    """Shape of the array as the domain reads it."""

    grid: tuple[int, ...]
    """Shape of the stored array."""

    axes: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def spacing(self, native_mm: Sequence[float]) -> tuple[float, ...]:
        """Millimetres between the grid's pixels, from those between the image's own."""
        return tuple(
            native_mm[axis] / abs(scale) for axis, scale in zip(self.axes, self.scale, strict=True)
        )

    def mirrored(self) -> Placement:
        """Where the image lies on the grid when the grid is mirrored along its last axis."""
        scale, offset = self.scale[-1], self.offset[-1]
        return replace(
            self,
            scale=(*self.scale[:-1], -scale),
            offset=(*self.offset[:-1], self.grid[-1] - offset),
        )

    def edges(self, low: Sequence[float], high: Sequence[float]) -> NDArray[np.float64]:
        """(2,K): a box's near and far edges on the grid, in the order of the stored axes."""
        moved = [
            sorted((s * low[a] + o, s * high[a] + o))
            for a, s, o in zip(self.axes, self.scale, self.offset, strict=True)
        ]
        return np.array(moved).T

    def box(self, corners: Sequence[float]) -> NDArray[np.float64]:
        """`BoxRegion.corners` in the grid's pixels, in the same order x, y(, z).

        It may reach beyond the grid where the preprocessing cuts the image.

        Raises:
            InputError: A box of another number of dimensions.
        """
        half = len(corners) // 2
        if half != len(self.grid):
            raise InputError(
                f"a region has {half} dimensions, its image {len(self.grid)}",
                remedy="correct the table of regions and index again",
            )
        return self.edges(corners[:half][::-1], corners[half:][::-1])[:, ::-1].ravel()

    def image(self) -> tuple[tuple[int, int], ...]:
        """The part of the grid that shows the image: (first, past the last) pixel of each axis."""
        low, high = self.edges((0,) * len(self.native), self.native)
        return tuple(
            (max(0, math.floor(a + 1e-9)), min(n, math.ceil(b - 1e-9)))
            for a, b, n in zip(low, high, self.grid, strict=True)
        )

    def lay(self, region: BoxRegion | ShapeRegion) -> Laid:
        """A box or a drawn shape on the grid.

        Raises:
            InputError: The image is no picture, or the region does not fit it.
        """
        if isinstance(region, BoxRegion):
            return self._lay_box(region.corners)
        if len(self.native) != 2:
            raise InputError(
                f"a region of kind {region.kind} in an image of {len(self.native)} dimensions",
                remedy="draw it in a picture, or give a mask",
            )
        try:
            return self.lay_mask(region_mask(region.kind, region.geometry, self.native))
        except ValueError as error:
            raise InputError(
                f"a region does not fit its image: {error}",
                remedy="correct the table of regions and index again",
            ) from error

    def _lay_box(self, corners: Sequence[float]) -> Laid:
        box = self.box(corners)
        low, high = box[: len(self.grid)][::-1], box[len(self.grid) :][::-1]
        covered = np.ones(())
        for n, a, b in zip(self.grid, low, high, strict=True):
            at = np.arange(n)
            share = np.clip(np.minimum(at + 1, b) - np.maximum(at, a), 0, None)
            covered = covered[..., None] * share
        return Laid(mask=_half(covered), seen=float(covered.sum()), size=float(np.prod(high - low)))

    def lay_mask(self, native: Bools) -> Laid:
        """A mask of the image's own pixels on the grid.

        A pixel of the grid belongs to it if at least half of its area does. What would vanish
        at the grid's resolution keeps the pixel that it covers best.

        Raises:
            InputError: The mask has another shape than the image.
        """
        if native.shape != self.native:
            raise InputError(
                f"a mask has shape {native.shape}, its image {self.native}",
                remedy="leave the mask out, or draw it on the image that was indexed",
            )
        mask = np.zeros(self.grid, dtype=bool)
        # Most masks fill a small part of their image: nothing else is computed.
        extent = [_extent(native, axis) for axis in range(native.ndim)]
        covered = native[tuple(slice(*ends) for ends in extent)].transpose(self.axes).astype(float)
        size = float(covered.sum() * np.abs(self.scale).prod())
        window = []
        for k, axis in enumerate(self.axes):
            share = _shares(self.native[axis], self.grid[k], self.scale[k], self.offset[k])
            share = share[:, slice(*extent[axis])]
            window.append(slice(*_extent(share > 0, 0)))
            covered = np.moveaxis(np.tensordot(share[window[k]], covered, axes=(1, k)), 0, k)
        mask[tuple(window)] = _half(covered)
        return Laid(mask=mask, seen=float(covered.sum()), size=size)

    def spread(self, cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map at the image's own pixels.

        Args:
            cells: The map on a coarser grid of as many axes, whose cells share the stored grid
                out evenly.

        Returns:
            Values of shape `native`: linear between the cells' centres, level beyond the
            outermost, and NaN at pixels whose centre lies outside the stored grid.
        """
        spread, shown = cells.astype(np.float32), np.ones((), dtype=bool)
        # The last axis first: the array is small while most of the sums are made.
        for k in reversed(range(len(self.grid))):
            centres = np.arange(self.native[self.axes[k]]) + 0.5
            at = (self.scale[k] * centres + self.offset[k]) / self.grid[k]
            weights = _between(at * cells.shape[k] - 0.5, cells.shape[k])
            spread = np.moveaxis(np.tensordot(weights, spread, axes=(1, k)), 0, k)
            inside = (at >= 0) & (at <= 1)
            shown = inside.reshape(-1, *(1,) * shown.ndim) & shown
        spread = np.where(shown, spread, np.float32(np.nan))
        return spread.transpose(np.argsort(self.axes))


@dataclass(frozen=True, kw_only=True)
class Laid:
    """One region on a grid."""

    mask: Bools
    """(*grid)"""

    seen: float
    """Its extent within the grid, in the grid's pixels, fractions included."""

    size: float
    """Its whole extent, what lies beyond the grid included."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Regions on the stored grid."""

    masks: Bools
    """(R,*grid), one a region."""

    placement: Placement
    seen_R: NDArray[np.float64]
    """`Laid.seen` of each region."""

    size_R: NDArray[np.float64]
    """`Laid.size` of each region."""


def place(
    placement: Placement,
    regions: Sequence[Region],
    read: Callable[[tuple[Path, ...]], NDArray[Any]],
) -> Placed:
    """Bring regions onto the grid.

    Args:
        placement: Of the image.
        regions: Boxes, shapes and masks.
        read: A mask's files -> its values, in the axes of the image's own array; each file is
            read once.

    Raises:
        InputError: A region that does not fit its image.
    """
    masks = np.zeros((len(regions), *placement.grid), dtype=bool)
    seen_R, size_R = np.zeros((2, len(regions)))
    for i, laid in _laid(placement, regions, read):
        masks[i], seen_R[i], size_R[i] = laid.mask, laid.seen, laid.size
    return Placed(masks=masks, placement=placement, seen_R=seen_R, size_R=size_R)


def _laid(
    placement: Placement,
    regions: Sequence[Region],
    read: Callable[[tuple[Path, ...]], NDArray[Any]],
) -> Iterator[tuple[int, Laid]]:
    """Each region's number and where it lies; of the masks' files, one is open at a time."""
    by_file: dict[tuple[Path, ...], list[tuple[int, MaskRegion]]] = {}
    for i, region in enumerate(regions):
        if isinstance(region, MaskRegion):
            by_file.setdefault(region.paths, []).append((i, region))
        else:
            yield i, placement.lay(region)
    for paths, found in by_file.items():
        values = read(paths)
        for i, region in found:
            inside = values != 0 if region.value is None else values == region.value
            yield i, placement.lay_mask(inside)


def _extent(inside: Bools, axis: int) -> tuple[int, int]:
    """The first index along an axis at which anything is True, and one past the last."""
    hit = np.flatnonzero(inside.any(tuple(k for k in range(inside.ndim) if k != axis)))
    return (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, 0)


def _half(covered: NDArray[np.float64]) -> Bools:
    # Sums of shares are not exact: half a pixel may come out as 0.4999....
    mask: Bools = covered >= 0.5 - 1e-9
    if not mask.any() and covered.max(initial=0.0) > 1e-9:
        mask.flat[int(np.argmax(covered))] = True
    return mask


def _between(at: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """(N, count): the weights of cells at places among them; cell i has its centre at i."""
    within = at.clip(0, count - 1)[:, None]
    weights = (1 - np.abs(within - np.arange(count))).clip(0)
    return np.asarray(weights, np.float32)


def _shares(source: int, target: int, scale: float, offset: float) -> NDArray[np.float64]:
    """(target, source): which share of each pixel of the grid each of the image's covers."""
    edge = scale * np.arange(source + 1) + offset
    low, high = np.minimum(edge[:-1], edge[1:]), np.maximum(edge[:-1], edge[1:])
    at = np.arange(target)[:, None]
    share: NDArray[np.float64] = np.minimum(at + 1, high) - np.maximum(at, low)
    return share.clip(0)
