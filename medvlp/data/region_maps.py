"""Where the regions of an item lie in its augmented image, cell by cell.

Regions are kept as one map a sample on the stored grid: the number of the column, from 1 on, that
each pixel belongs to. What the grid cuts is left out of the map, so that what it holds is in view.

Shape letters: R regions, P cells.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.data.cache import ArrayCache, Read
from medvlp.data.flags import with_values
from medvlp.data.items import Item
from medvlp.data.placement import BoxRegion, MaskRegion, Placed, Region, ShapeRegion
from medvlp.data.preprocess import MovesRegions, Span
from medvlp.data.region_texts import RegionConfig
from medvlp.digest import digest_file, digest_plain

Map = NDArray[np.uint16]

_RULE = 1
"""Counts changes of how maps are made; entries of other numbers are not read."""


class MapCache(ArrayCache):
    """`ArrayCache` for maps of regions, whose entries also depend on the masks' own bytes.

    Args:
        share: `RegionConfig.in_view`.
        cache: The cache of the images, by whose contract regions are laid; maps lie beside them.
    """

    def __init__(self, share: float, cache: ArrayCache) -> None:
        super().__init__(cache.folder, cache.contract, cache.form)
        self._share = share
        self._keys: dict[str, str] = {}
        self._digests: dict[Path, str] = {}

    def key(self, item: Item) -> str:
        """The name of the item's map."""
        if item.key not in self._keys:
            drawn = [[column, self._told(region)] for column, region in item.regions]
            how = [_RULE, self.contract, self._share, with_values(item.flags), drawn]
            self._keys[item.key] = f"{item.sha256}-{digest_plain(how)[:32]}"
        return self._keys[item.key]

    def _told(self, region: Region) -> Any:
        match region:
            case BoxRegion():
                return list(region.corners)
            case ShapeRegion():
                return [region.kind, *region.geometry]
            case MaskRegion():
                return [region.value, *map(self._digest, region.paths)]

    def _digest(self, path: Path) -> str:
        """Of a file's bytes; one file may hold many regions."""
        if path not in self._digests:
            self._digests[path] = digest_file(path)
        return self._digests[path]


class RegionMaps:
    """Maps of items, and what a batch holds of them.

    Args:
        config: The regions.
        preprocess: The contract's, by which they are laid and moved.
        cell: Pixels of a cell along each axis of the stored grid.
        cache: Maps that were made before; None makes each anew.
    """

    def __init__(
        self,
        config: RegionConfig,
        preprocess: MovesRegions,
        cell: Sequence[int],
        cache: MapCache | None,
    ) -> None:
        self.config = config
        self.preprocess = preprocess
        self.cell = tuple(cell)
        self.cache = cache

    def cover(
        self, item: Item, shape: Sequence[int], drawn_K: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """The share of each cell that each region in view covers, (R,*cells).

        Args:
            item: The item.
            shape: Of its stored array, whole cells along each axis.
            drawn_K: The image's augmentation, if any.

        Raises:
            InputError: A region does not fit the image.
            OSError: A mask's file cannot be read.
        """
        count = len(self.config.names)
        if not item.regions:
            cells = (n // m for n, m in zip(shape, self.cell, strict=True))
            return np.zeros((count, *cells), np.float32)
        drawn = self.map(item)
        cover = cell_cover(drawn, count, self.cell)
        if drawn_K is not None:
            whole_R = cover.reshape(count, -1).sum(1)
            cover = cell_cover(self.preprocess.moved(drawn, drawn_K), count, self.cell)
            cut_R = cover.reshape(count, -1).sum(1) < self.config.in_view * whole_R * (1 - 1e-6)
            cover[cut_R] = 0
        return cover

    def map(self, item: Item) -> Map:
        """The item's map on the stored grid."""
        read = self.reader(item)
        if self.cache is None:
            return read(item.source_paths, item.span, item.flags)
        return self.cache.get(item, read)

    def reader(self, item: Item) -> Read:
        """What makes the item's map, where the cache has none."""
        return functools.partial(self._read, item)

    def _read(
        self, item: Item, paths: Sequence[Path], span: Span | None, flags: Sequence[str]
    ) -> Map:
        placed = self.preprocess.regions(paths, flags, [region for _, region in item.regions])
        return region_map(placed, [column for column, _ in item.regions], self.config.in_view)


def region_map(placed: Placed, columns: Sequence[int], in_view: float) -> Map:
    """The column, from 1 on, that each pixel belongs to; 0 for none.

    Args:
        placed: Regions on the grid.
        columns: The column of each; several may form one.
        in_view: The share of a column's extent that must lie on the grid, or it is left out.
    """
    column_R = np.asarray(columns, np.int64)
    found = np.zeros(placed.placement.grid, np.uint16)
    # Backwards, so that of two columns in one place the first one stays.
    for column in sorted(set(columns), reverse=True):
        own_R = column_R == column
        seen, size = placed.seen_R[own_R].sum(), placed.size_R[own_R].sum()
        if size > 0 and seen >= in_view * size * (1 - 1e-6):
            found[placed.masks[own_R].any(0)] = column + 1
    return found


def cell_cover(drawn: Map, count: int, cell: Sequence[int]) -> NDArray[np.float32]:
    """The share of each cell's pixels that each column has, (R,*cells).

    Args:
        drawn: A map, whole cells along each axis.
        count: R.
        cell: Pixels of a cell along each axis.

    >>> cell_cover(np.array([[1, 1, 0, 2], [1, 0, 0, 2]], np.uint16), 2, (2, 2)).tolist()
    [[[0.75, 0.0]], [[0.0, 0.5]]]
    """
    cells = tuple(n // m for n, m in zip(drawn.shape, cell, strict=True))
    cover = np.zeros((count, *cells), np.float32)
    within = math.prod(cells[1:])
    for i in range(cells[0]):  # A layer of cells at a time: counting takes eight bytes a pixel.
        layer = drawn[i * cell[0] : (i + 1) * cell[0]]
        at = np.nonzero(layer)
        number = np.zeros(len(at[0]), np.int64)
        for axis, n, m in zip(at[1:], cells[1:], cell[1:], strict=True):
            number = number * n + axis // m
        counts = np.bincount(number * count + layer[at] - 1, minlength=within * count)
        cover[:, i] = counts.reshape(within, count).T.reshape(count, *cells[1:])
    cover /= math.prod(cell)
    return cover
