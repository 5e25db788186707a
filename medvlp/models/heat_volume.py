"""A map over the volume that it is of, with the axes turned.

*Turned* (`medvlp.data.underlay`): D towards the head, H to the back, W to the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from medvlp.archive.view import to_bytes
from medvlp.data.underlay import Underlay

Floats = NDArray[np.float32]

_OPACITY = 0.45
_COLOURS = "inferno"


def blend(picture: NDArray[np.uint8], unit_HW: Floats) -> NDArray[np.uint8]:
    """A map over a picture, (H,W,3): where the map is 0 or NaN, the picture stays as it is.

    Args:
        picture: (H,W,3).
        unit_HW: The map in [0,1].
    """
    unit_HW = np.nan_to_num(unit_HW, nan=0)
    colour_HWC = mpl.colormaps[_COLOURS](unit_HW)[..., :3] * 255
    weight_HW1 = _OPACITY * unit_HW[..., None]
    mixed_HWC = (1 - weight_HW1) * picture + weight_HW1 * colour_HWC
    result: NDArray[np.uint8] = mixed_HWC.round().astype(np.uint8)
    return result


def _middlemost(index_N: NDArray[np.intp], size: int) -> int:
    """Of some places along an axis, one nearest to its middle."""
    return int(index_N[np.abs(index_N - (size - 1) / 2).argmin()])


@dataclass(frozen=True, kw_only=True)
class HeatVolume:
    """A map over its volume, with the axes turned."""

    underlay: Underlay
    values_DHW: NDArray[np.int16]
    heat_DHW: Floats
    """Cosines; NaN where the model does not see."""

    cells: tuple[int, ...]
    """Shape of the map as the model gave it."""

    window: tuple[float, float]

    @classmethod
    def of(
        cls,
        underlay: Underlay,
        native: Floats,
        cells: tuple[int, ...],
        window: tuple[float, float] | None,
    ) -> HeatVolume:
        """From a map on the volume's own voxels, in the order of its files."""
        return cls(
            underlay=underlay,
            values_DHW=underlay.turn(underlay.values_DHW),
            heat_DHW=underlay.turn(native),
            cells=cells,
            window=window or underlay.window,
        )

    @cached_property
    def peaks(self) -> Floats:
        """Each slice's highest cosine; NaN of slices that the model does not see."""
        return np.asarray(np.fmax.reduce(self.heat_DHW, axis=(1, 2)))

    @cached_property
    def summit(self) -> tuple[int, int, int]:
        """The voxel of the highest cosine; of equal ones one nearest to the volume's middle.

        The map is level beyond the centres of its outermost cells.
        """
        depth, rows, columns = self.heat_DHW.shape
        high = self.range[1]
        index = _middlemost(np.flatnonzero(self.peaks >= high), depth)
        row_N, column_N = np.nonzero(self.heat_DHW[index] >= high)
        row = _middlemost(row_N, rows)
        return index, row, _middlemost(column_N[row_N == row], columns)

    @property
    def apart(self) -> int:
        """Slices that are nearer to each other than this show the same: half a cell's depth."""
        return max(2, round(self.cell_mm[0] / self.spacing_mm[0] / 2))

    @cached_property
    def range(self) -> tuple[float, float]:
        """Lowest and highest cosine."""
        return float(np.nanmin(self.heat_DHW)), float(np.nanmax(self.heat_DHW))

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Between voxels along D, H and W."""
        return tuple(float(x) for x in np.linalg.norm(self.underlay.turned_affine[:3, :3], axis=0))

    @property
    def cell_mm(self) -> tuple[float, ...]:
        """The size of the map's cells along D, H and W."""
        scales = self.underlay.placement.scale
        return tuple(
            mm / abs(scale) * size / cells
            for mm, scale, size, cells in zip(
                self.spacing_mm, scales, self.underlay.placement.grid, self.cells, strict=True
            )
        )

    def place(self, voxel: Sequence[float]) -> NDArray[np.float64]:
        """Where a voxel lies, in mm to the right, the front and the head."""
        return np.asarray(self.underlay.turned_affine @ (*voxel, 1.0))[:3]

    def head_mm(self, index: float) -> float:
        """How far towards the head the middle of a slice lies."""
        _, rows, columns = self.values_DHW.shape
        return float(self.place((index, (rows - 1) / 2, (columns - 1) / 2))[2])

    def slice(self, index: int) -> NDArray[np.uint8]:
        """A slice with the map over it, (H,W,3)."""
        return self._colours(to_bytes(self.values_DHW[index], *self.window), self.heat_DHW[index])

    def projection(self) -> NDArray[np.uint8]:
        """The mean along H, dimmed, with the map's highest values over it, (D,W,3)."""
        mean_DW = self.values_DHW.mean(axis=1, dtype=np.float32)
        low, high = np.percentile(mean_DW, (1, 99))
        grey_DW = to_bytes(mean_DW, float(low), float(low + 1.5 * (high - low)))
        return self._colours(grey_DW, np.fmax.reduce(self.heat_DHW, axis=1))

    def _colours(self, grey: NDArray[np.uint8], heat: Floats) -> NDArray[np.uint8]:
        low, high = self.range
        picture = np.repeat(grey[..., None], 3, axis=2)
        return blend(picture, (heat - low) / max(high - low, 1e-12))
