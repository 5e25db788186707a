"""Whether slices lie at even steps: the median gap, the places without a slice, the odd gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAME_PLACE_MM = 0.01
"""Two slices closer than this are in one place."""
GAP_TOLERANCE = 0.02
"""A gap may differ from a multiple of the median by this fraction, and `SAME_PLACE_MM`."""
MAX_GAP_MM = 30.0
"""No volume is sampled this coarsely: such slices are single views, not neighbours."""
_MOST_PLACES = 65_536
"""No scan has so many slices, present and missing."""
_BLOCK = 3
"""So many equal gaps in a row at an end are another spacing, not as many lost slices."""


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """Where slices lie on a grid of even steps along their normal."""

    kind: Literal["regular", "missing", "irregular"]
    gap_mm: float
    """The median gap: the step of the grid."""

    gaps_mm: tuple[float, ...]
    """From each slice to the next."""

    places: tuple[int, ...]
    """The place of each slice on the grid, the first at 0; empty if irregular."""

    @property
    def missing(self) -> tuple[int, ...]:
        """Places without a slice."""
        return tuple(sorted(set(range(self.places[-1])) - {*self.places})) if self.places else ()

    @property
    def odd(self) -> tuple[int, ...]:
        """Slices after which the gap is not the median gap."""
        return tuple(
            i for i, gap in enumerate(self.gaps_mm) if abs(gap - self.gap_mm) > self._slack
        )

    @property
    def _slack(self) -> float:
        return GAP_TOLERANCE * self.gap_mm + SAME_PLACE_MM


def measure(heights_mm: Sequence[float] | NDArray[np.float64]) -> Spacing:
    """The spacing of at least two slices, of which no two share a place.

    Args:
        heights_mm: Ascending positions along the normal.

    >>> measure([0, 5, 10, 20]).missing
    (3,)
    >>> measure([0, 5, 10, 13]).kind
    'irregular'
    """
    gaps = np.diff(np.asarray(heights_mm, dtype=np.float64))
    # The lower median: with (5, 10) the wider gap is the odd one.
    median = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    steps = np.maximum(np.rint(gaps / median), 1)
    off = np.abs(gaps - steps * median)
    whole = bool((off <= GAP_TOLERANCE * steps * median + SAME_PLACE_MM).all())
    if not whole or _changes(steps) or steps.sum() > _MOST_PLACES:
        kind: Literal["regular", "missing", "irregular"] = "irregular"
    else:
        kind = "missing" if steps.max() > 1 else "regular"
    places = () if kind == "irregular" else (0, *(int(n) for n in np.cumsum(steps)))
    return Spacing(kind=kind, gap_mm=median, gaps_mm=tuple(float(g) for g in gaps), places=places)


def _changes(steps: NDArray[np.float64]) -> bool:
    """Whether the series is scanned at another spacing from some slice to its end."""
    return len(steps) > _BLOCK and any(
        end[0] > 1 and bool((end == end[0]).all()) for end in (steps[:_BLOCK], steps[-_BLOCK:])
    )
