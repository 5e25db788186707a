"""The boxes, shapes and masks that manifests hold, by sample and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from medvlp.data.manifest import Manifest
from medvlp.data.placement import BoxRegion, MaskRegion, Region, ShapeRegion
from medvlp.data.regions import PICTURE_KINDS


class DrawnRegions:
    """Where things are drawn.

    Args:
        manifests: Where they are written down.
        names: The names that are wanted.
        boxes: Whether a box counts, filled, where a name has no mask file in a sample.
    """

    def __init__(self, manifests: Sequence[Manifest], names: Sequence[str], *, boxes: bool) -> None:
        self._boxes = boxes
        self._regions: dict[str, dict[str, list[Region]]] = {}
        for manifest in manifests:
            rows = manifest.regions.filter(
                pl.col("name").is_in(list(names)) & pl.col("kind").is_in([*PICTURE_KINDS, "mask"])
            )
            for row in rows.iter_rows(named=True):
                by_name = self._regions.setdefault(row["sample"], {})
                by_name.setdefault(row["name"], []).append(_region(manifest, row))

    def of(self, sample: str, name: str) -> list[Region]:
        """A name's masks in a sample; if it has none, its shapes and, if boxes count, its boxes."""
        found = self._regions.get(sample, {}).get(name, [])
        masks: list[Region] = [region for region in found if isinstance(region, MaskRegion)]
        return masks or [r for r in found if self._boxes or not isinstance(r, BoxRegion)]


def _region(manifest: Manifest, row: Mapping[str, Any]) -> Region:
    geometry = tuple(row["geometry"] or ())
    if row["kind"] == "mask":
        value = geometry[0] if geometry else None
        return MaskRegion(paths=manifest.paths(row["ref"]), value=value)
    if row["kind"] == "box":
        return BoxRegion(corners=geometry)
    return ShapeRegion(kind=row["kind"], geometry=geometry)
