"""Regions of the manifest on a model's own grid, for whatever is judged by where it points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.archive.verdict import Verdict
from medvlp.data.dataset import reason
from medvlp.data.drawn_regions import DrawnRegions
from medvlp.data.items import Item
from medvlp.data.manifest import Manifest
from medvlp.data.placement import BoxRegion
from medvlp.data.preprocess import Preprocess
from medvlp.errors import InputError

Bools = NDArray[np.bool_]

MASK_KINDS = ("mask", "ellipse", "polygon", "runs")
"""Kinds of region that outline a thing; a box only holds it."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What is known of where things lie in one sample, on the grid of one contract."""

    masks: Bools
    """(K,*grid), one a name; empty where the name is absent or not known."""

    known_K: Bools
    """Whether the name's region is known: drawn, or known to be absent."""

    boxes: Mapping[str, tuple[tuple[float, ...], ...]]
    """Name -> its boxes in the grid's pixels, (x0, y0, x1, y1) or with z, far edges exclusive;
    they may reach beyond the grid."""

    spacing_mm: tuple[float, ...] | None
    """Between the grid's pixels, in the order of its axes; None where the archive tells none."""

    image: tuple[tuple[int, int], ...]
    """The part of the grid that shows the image: (first, past the last) pixel of each axis."""


class Regions:
    """The boxes, shapes and masks of some manifests, by sample and name.

    A region of a name is *known* in a sample where one is drawn, or where the sample's label of
    that name is 0: then it is empty. Where neither holds, nobody looked, and it is not known.

    Args:
        manifests: Where they are written down.
        names: K names of regions.
        boxes: Whether a box counts as a mask, filled, where a name has no mask file in a sample.
    """

    def __init__(self, manifests: Sequence[Manifest], names: Sequence[str], *, boxes: bool) -> None:
        self.names = tuple(names)
        self._drawn = DrawnRegions(manifests, self.names, boxes=boxes)
        self._absent: dict[str, set[str]] = {}
        self._spacing: dict[str, tuple[float, ...] | None] = {}
        for manifest in manifests:
            self._take(manifest)

    def _take(self, manifest: Manifest) -> None:
        wanted = pl.col("name").is_in(self.names)
        absent = manifest.labels.filter(wanted & (pl.col("value") == 0))
        for sample, name in absent.select("sample", "name").iter_rows():
            self._absent.setdefault(sample, set()).add(name)
        for sample, spacing in manifest.samples.select("sample", "spacing_mm").iter_rows():
            self._spacing[sample] = None if spacing is None else tuple(spacing)

    def drawn(self, sample: str) -> Bools:
        """(K,) whether a region of each name is drawn in a sample."""
        return np.array([bool(self._drawn.of(sample, name)) for name in self.names])

    def known(self, sample: str) -> Bools:
        """(K,) whether each name's region is known in a sample."""
        absent = self._absent.get(sample, set())
        return np.logical_or(self.drawn(sample), [name in absent for name in self.names])

    def among(self, items: Iterable[Item]) -> list[Item]:
        """The items of which at least one region is known."""
        return [item for item in items if self.known(item.sample).any()]

    def reference(self, item: Item, preprocess: Preprocess) -> Reference:
        """What is known of an item, on the grid of a preprocessing contract.

        Raises:
            InputError: A region does not fit its image, or its file cannot be read any more.
        """
        drawn = [(k, r) for k, n in enumerate(self.names) for r in self._drawn.of(item.sample, n)]
        try:
            placed = preprocess.regions(item.source_paths, item.flags, [r for _, r in drawn])
        except InputError as error:
            raise InputError(
                f"sample {item.sample}: {error.message}", remedy=error.remedy
            ) from error
        except (Verdict, OSError) as error:
            raise InputError(
                f"a region of sample {item.sample} cannot be read ({reason(error)})",
                remedy="restore its files, or index the archive again without them",
            ) from error
        masks = np.zeros((len(self.names), *placed.placement.grid), dtype=bool)
        boxes: dict[str, list[tuple[float, ...]]] = {}
        for (k, region), mask in zip(drawn, placed.masks, strict=True):
            masks[k] |= mask
            if isinstance(region, BoxRegion):
                corners = placed.placement.box(region.corners).tolist()
                boxes.setdefault(self.names[k], []).append(tuple(corners))
        native = self._spacing.get(item.sample)
        return Reference(
            masks=masks,
            known_K=self.known(item.sample),
            boxes={name: tuple(found) for name, found in boxes.items()},
            spacing_mm=None if native is None else placed.placement.spacing(native),
            image=placed.placement.image(),
        )


def known_regions(manifests: Sequence[Manifest], kinds: Sequence[str]) -> list[str]:
    """Names of regions of some kinds, such as ``box`` and ``mask``."""
    return sorted(
        {n for m in manifests for n in m.regions.filter(pl.col("kind").is_in(kinds))["name"]}
    )
