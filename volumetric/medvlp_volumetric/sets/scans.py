"""The readings that published CT sets share: one volume, or one mask, and what its file tells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvlp.archive.measure import Measured
from medvlp.archive.series.geometry import Volume
from medvlp.archive.stage.child import Limits
from medvlp.archive.stage.reading import Reading
from medvlp.archive.verdict import Ignore, Reject
from medvlp.domain import Ref
from medvlp_volumetric.arrays import is_array, read_array
from medvlp_volumetric.grid import same_grid
from medvlp_volumetric.nifti import read_nifti, refuse_not_hu, stated_affine
from medvlp_volumetric.told import (
    NOTHING,
    Affine,
    Told,
    affine_of,
    affine_of_dicom,
    is_placeholder,
    is_to_be_scaled,
    spacing_of,
)
from medvlp_volumetric.values import is_label_map, levels_of, measured_volume, value_flags

LABEL = "Reading volumes"

_DRAWN = re.compile(r"(?:.*_)?(?:seg|segmentations?|masks?)(?:_.*)?", re.IGNORECASE)
"""A folder of masks, whose files are called as the volumes."""

_LIMITS = Limits(memory_mb=16384)
"""Volumes are read whole: one of 2**30 voxels takes 4 GiB as float32, and masks are made of it."""

_UNTOLD = Told(affine=affine_of_dicom((1.0, 1.0, 1.0)))
_ALIKE = 0.01
"""Relative difference up to which two tellings of a voxel's size agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a set's reader learns from one volume."""

    measured: Measured
    affine: Affine | None
    """As the file tells it; None where it tells none that could be used."""

    scaled: bool
    """Whether the table's scale has to be applied; then it was, before anything was measured."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        d, h, w = self.measured.probe.shape
        return d, h, w


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFacts:
    """What a set's reader learns from one mask."""

    shape: tuple[int, int, int]
    """Slices, rows and columns."""

    affine: Affine
    values: tuple[int, ...]
    """All that occur, 0 left out."""


def is_drawn(root: Path, path: Path) -> bool:
    """Whether a file lies in a folder of masks below the root."""
    return any(_DRAWN.fullmatch(part) for part in path.relative_to(root).parts[:-1])


def reading_scans(slope: float = 1.0, intercept: float = 0.0) -> Reading[Scan]:
    """The reading of a volume.

    Args:
        slope: What a table of the set says that values are multiplied by.
        intercept: What it says is added then.
    """
    return Reading(
        read=Ref("medvlp_volumetric.sets.scans:examine_scan"),
        result=Scan,
        version=1,
        limits=_LIMITS,
        settings={"slope": slope, "intercept": intercept},
    )


def examine_scan(paths: Sequence[Path], *, slope: float, intercept: float) -> Scan:
    """Read one volume whole, and decide by its values whether it is scaled already.

    Raises:
        Reject: The file is bad, or see `is_to_be_scaled`.
        Ignore: ``label_map``: a mask.
    """
    (path,) = paths
    affine, volume = _as_stored(path)
    if is_label_map(volume.hu_DHW):
        raise Ignore("label_map")
    scaled = is_to_be_scaled(volume.hu_DHW, slope, intercept)
    if scaled:
        volume = _scaled(volume, slope, intercept)
    return Scan(measured=measured_volume(paths, volume), affine=affine, scaled=scaled)


def _as_stored(path: Path) -> tuple[Affine | None, Volume]:
    """A volume with nothing of any table applied, and the affine that its file tells."""
    if is_array(path):
        return None, read_array(path, NOTHING)
    affine = stated_affine(path)
    return affine, read_nifti(path, _UNTOLD if affine is None else NOTHING)


def _scaled(volume: Volume, slope: float, intercept: float) -> Volume:
    for plane in volume.hu_DHW:
        plane[:] = plane * np.float64(slope) + intercept
    kept = (flag for flag in volume.flags if flag != "not_hu")
    flags = (*kept, *value_flags(volume.hu_DHW))
    return replace(volume, units="" if "not_hu" in flags else "HU", flags=flags)


def scan_columns(
    scan: Scan,
    flags: Iterable[str] = (),
    *,
    scale: tuple[float, float] | None = None,
    affine: Affine | None = None,
) -> dict[str, Any]:
    """Arguments of `Intake.accept`, with what the set's tables tell of the volume.

    The file's own geometry holds, unless it has none or a placeholder.

    Args:
        scan: The volume.
        flags: Further ones.
        scale: The slope and intercept with which it was read.
        affine: Where the tables say that its voxels lie.

    Raises:
        Reject: ``not_hu``, ``double_rescale``, or ``no_geometry`` where nobody tells any.
    """
    seen = scan.measured.probe.flags
    refuse_not_hu(seen)
    own = scan.affine
    if own is None and affine is None:
        raise Reject("no_geometry")
    if affine is not None and own is not None and not is_placeholder(own):
        agree = np.allclose(spacing_of(own), spacing_of(affine), rtol=_ALIKE)
        seen = seen if agree else (*seen, "table_spacing_disagrees")
        affine = None
    told = Told(scale=scale if scan.scaled else None, affine=affine)
    columns = scan.measured.columns
    columns["flags"] = (*seen, *told.flags, *flags)
    place = own if affine is None else affine
    columns["spacing_mm"] = None if place is None else spacing_of(place)
    return columns


READING_MASKS = Reading(
    read=Ref("medvlp_volumetric.sets.scans:examine_mask"),
    result=MaskFacts,
    version=1,
    limits=_LIMITS,
)


def examine_mask(paths: Sequence[Path]) -> MaskFacts:
    """Read one mask or label map whole.

    Raises:
        Reject: The file is bad, or ``not_a_mask``.
    """
    (path,) = paths
    volume = read_nifti(path)
    if not is_label_map(volume.hu_DHW):
        raise Reject("not_a_mask")
    d, h, w = volume.hu_DHW.shape
    return MaskFacts(
        shape=(d, h, w),
        affine=affine_of(volume.affine_whd),
        values=tuple(value for value in levels_of(volume.hu_DHW) if value),
    )


def check_grid(mask: MaskFacts, scan: Scan) -> None:
    """Compare a mask's voxels with those of its volume.

    Raises:
        Reject: ``mask_off_grid``.
    """
    theirs, own = Told(affine=mask.affine).matrix, Told(affine=scan.affine).matrix
    if theirs is None or own is None:
        raise Reject("no_geometry")
    if not same_grid(mask.shape[::-1], theirs, scan.shape[::-1], own):
        raise Reject("mask_off_grid", f"{mask.shape} beside {scan.shape}")
