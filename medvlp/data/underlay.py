"""What a map is laid over: a volume's own voxels, their place in the patient and on the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.data.placement import Placement

_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
"""Letters of the two ends of each axis of right-anterior-superior coordinates."""


@dataclass(frozen=True, kw_only=True)
class Underlay:
    """A volume as its files have it, to be looked at beneath a map.

    *Turned* means with the axes of the stored grid, permuted and flipped but never resampled:
    towards head, back and left in the CT domain.
    """

    values_DHW: NDArray[np.int16]
    """In the order and orientation in which the files hold them."""

    affine: NDArray[np.float64]
    """4x4, (d, h, w, 1) in voxels to (right, anterior, superior, 1) in mm, at voxel centres."""

    placement: Placement
    """How the volume lies on the stored grid."""

    window: tuple[float, float]
    """Values to show as black and as white."""

    @property
    def affine_whd(self) -> NDArray[np.float64]:
        """The affine of the transposed array (W, H, D), as NIfTI orders axes."""
        return np.asarray(self.affine[:, [2, 1, 0, 3]])

    @property
    def turned_affine(self) -> NDArray[np.float64]:
        """The affine of a turned array."""
        change = np.zeros((4, 4))
        change[3, 3] = 1
        for k, (axis, scale) in enumerate(
            zip(self.placement.axes, self.placement.scale, strict=True)
        ):
            change[axis, k] = np.sign(scale)
            change[axis, 3] = self.placement.native[axis] - 1 if scale < 0 else 0
        return np.asarray(self.affine @ change)

    @property
    def ends(self) -> tuple[tuple[str, str], ...]:
        """Of each turned axis, the letters of its near and far end (L, R, P, A, I, S).

        Where an axis is oblique, those of the direction that it is nearest to.
        """
        found = []
        for direction in self.turned_affine[:3, :3].T:
            nearest = int(np.abs(direction).argmax())
            low, high = _ENDS[nearest]
            found.append((low, high) if direction[nearest] > 0 else (high, low))
        return tuple(found)

    def turn(self, native: NDArray[Any]) -> NDArray[Any]:
        """An array of the volume's shape with the axes of the stored grid; a view."""
        flipped = tuple(k for k, scale in enumerate(self.placement.scale) if scale < 0)
        return np.flip(native.transpose(self.placement.axes), flipped)

    def number(self, index: int) -> int:
        """The number, from 1, of a turned slice along its axis as the files hold it."""
        depth = self.placement.native[self.placement.axes[0]]
        return depth - index if self.placement.scale[0] < 0 else index + 1

    def stored(self, index: int) -> int:
        """The slice of the stored array that shows a turned slice; it may lie beyond the array."""
        scale, offset = self.placement.scale[0], self.placement.offset[0]
        return int(np.floor(scale * (self.number(index) - 0.5) + offset))
