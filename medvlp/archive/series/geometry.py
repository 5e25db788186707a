"""Volumes that carry their place in the patient: an array and its affine, never one alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

CANONICAL = "LPS"
"""Axis codes of (W, H, D): W grows to the patient's left, H to the back, D to the head."""

_REVERSE = np.eye(4)[[2, 1, 0, 3]]  # (d,h,w,1) <-> (w,h,d,1)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a volume's voxels come from, and what was done to them."""

    reader: str = ""
    """The library that decoded the files."""

    files: tuple[Path, ...] = ()
    """In the order of the slices as they were stacked."""

    slices: tuple[tuple[int, int] | None, ...] = ()
    """For each slice as it was stacked: its file in `files` and its frame there; None where a
    missing slice was filled in."""

    steps: tuple[str, ...] = ()
    """What was done, in order, such as ``rescaled`` and ``tilt_resampled``."""

    policies: tuple[tuple[str, str], ...] = ()
    """Policy names and values under which it was read."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A scalar volume with its position in space, from DICOM or NIfTI."""

    hu_DHW: NDArray[np.float32]
    """Hounsfield units for CT, rescaled values otherwise."""

    affine: NDArray[np.float64]
    """4x4, (d, h, w, 1) in voxels to (right, anterior, superior, 1) in mm, at voxel centres."""

    units: Literal["HU", ""] = "HU"
    """Empty where the values are not Hounsfield units."""

    flags: tuple[str, ...] = ()
    provenance: Provenance = Provenance()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along D, H and W."""
        d, h, w = (float(x) for x in np.linalg.norm(self.affine[:3, :3], axis=0))
        return d, h, w

    @property
    def affine_whd(self) -> NDArray[np.float64]:
        """The affine of the transposed array (W, H, D), as NIfTI and nibabel order axes."""
        return np.asarray(self.affine @ _REVERSE)

    @property
    def axcodes(self) -> str:
        """Where the axes (W, H, D) point, as nibabel names it; ``LPS`` when canonical."""
        return "".join(str(code) for code in orientations.aff2axcodes(self.affine_whd))

    def turned(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """How `canonical` moves the axes: of each new axis, which it was and whether it is flipped.

        >>> Volume(hu_DHW=np.zeros((2, 3, 4), np.float32), affine=np.eye(4)).turned()
        ((2, 1, 0), (False, True, True))
        """
        now = orientations.io_orientation(self.affine_whd)
        wanted = orientations.axcodes2ornt(tuple(CANONICAL))
        change = orientations.ornt_transform(now, wanted)
        axes, flipped = [0, 0, 0], [False, False, False]
        for old, (new, sign) in enumerate(change):
            axes[2 - int(new)], flipped[2 - int(new)] = 2 - old, bool(sign < 0)
        return tuple(axes), tuple(flipped)

    @classmethod
    def from_whd(
        cls,
        values_WHD: NDArray[np.float32],
        affine: NDArray[np.float64],
        flags: tuple[str, ...] = (),
        provenance: Provenance = Provenance(),
    ) -> Volume:
        """From an array and affine in NIfTI's axis order."""
        return cls(
            hu_DHW=values_WHD.transpose(2, 1, 0),
            affine=affine @ _REVERSE,
            units="" if "not_hu" in flags else "HU",
            flags=flags,
            provenance=provenance,
        )

    def canonical(self) -> Volume:
        """The same volume with its axes permuted and flipped, never resampled, to `CANONICAL`.

        Where its axes are flipped only, the array is a view of this one.

        >>> values = np.zeros((2, 3, 4), np.float32)
        >>> Volume(hu_DHW=values, affine=np.eye(4)).canonical().axcodes
        'LPS'
        """
        now = orientations.io_orientation(self.affine_whd)
        wanted = orientations.axcodes2ornt(tuple(CANONICAL))
        change = orientations.ornt_transform(now, wanted)
        values_WHD = self.hu_DHW.transpose(2, 1, 0)
        moved = orientations.apply_orientation(values_WHD, change)
        undo = orientations.inv_ornt_aff(change, values_WHD.shape)
        hu_DHW = moved.transpose(2, 1, 0)
        # Planes of a turned volume would be gathered from all over the memory.
        turned = not np.array_equal(now[:, 0], wanted[:, 0])
        return replace(
            self,
            hu_DHW=np.ascontiguousarray(hu_DHW) if turned else hu_DHW,
            affine=self.affine_whd @ undo @ _REVERSE,
            provenance=replace(
                self.provenance, steps=(*self.provenance.steps, f"oriented_{CANONICAL}")
            ),
        )
