"""A first look at a CT series' size and air: is it a volume of the body part it claims to be?"""

from __future__ import annotations

import numpy as np

from medvlp.archive.series.bodypart import Facts, shows
from medvlp.archive.series.hounsfield import HU_EDGES

_MIN_EXTENT_MM = 40.0
_LUNG_HU = (-940, -600)
_BODY_ABOVE_HU = -200
_LEAST_LUNG = 0.05
"""Lung to other tissue: a chest has a third or more, a head or a leg next to none."""
_MOST_LUNG_IN_HEAD = 0.3
_MOST_LUNG_IN_ABDOMEN = 0.4
"""An upper abdomen with the bases of both lungs has 0.3, real chests 0.48 and more."""


def check_volume(facts: Facts) -> tuple[str, ...]:
    """Flags of a series that hardly shows what it claims.

    ``small_extent``: less than 4 cm along an axis. ``no_lung_air``: a chest without lungs.
    ``lung_in_head``, ``lung_in_abdomen``: a head or an abdomen with as much lung as a chest.
    """
    extent = min(n * mm for n, mm in zip(facts.shape, facts.spacing_mm, strict=True))
    flags = ["small_extent"] if extent < _MIN_EXTENT_MM else []
    lung = _between(facts.counts, *_LUNG_HU)
    body = _between(facts.counts, _BODY_ABOVE_HU, HU_EDGES[-1])
    ratio = lung / max(1, body)
    chest = shows(facts.body_part, "CHEST")
    if chest and ratio < _LEAST_LUNG:
        flags.append("no_lung_air")
    if shows(facts.body_part, "HEAD") and ratio > _MOST_LUNG_IN_HEAD:
        flags.append("lung_in_head")
    if shows(facts.body_part, "ABDOMEN") and not chest and ratio > _MOST_LUNG_IN_ABDOMEN:
        flags.append("lung_in_abdomen")
    return tuple(flags)


def _between(counts: tuple[int, ...], low: int, high: int) -> int:
    inside = np.asarray(counts[1:-1])
    starts = np.asarray(HU_EDGES[:-1])
    return int(inside[(starts >= low) & (starts < high)].sum())
