"""Where a group's slices lie: ordered and spaced by position alone, or refused with a code.

Slice numbers, slice locations, slice thickness and the tag of the gantry's tilt are never
trusted: readers that do merge series, hide missing slices and invent spacings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.dicom.planes import Plane
from medvlp.archive.dicom.values import tag_name
from medvlp.archive.series.grouping import (
    COSINE_TOLERANCE,
    FARTHEST_MM,
    Group,
    Slice,
    heights,
    parallel,
)
from medvlp.archive.series.policy import INTERPOLATED, NO_REPAIR, RESAMPLED, Policy
from medvlp.archive.series.repair import Shear
from medvlp.archive.series.spacing import MAX_GAP_MM, SAME_PLACE_MM, Spacing, measure
from medvlp.archive.verdict import Ignore, Reject

TILT_TOLERANCE_DEG = 0.5
_MAX_TILT_DEG = 45.0
"""No gantry tilts so far; straightening would make a volume of air."""
_MIN_DRIFT_MM = 1.0
"""A smaller angle, too, is a tilt where the last slice lies this far and a pixel aside."""
_MAX_FILLED = 3
_UNEVEN = 1e-3
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """A group's pixel grid in DICOM's LPS millimetres."""

    row: Vector
    """Unit vector of increasing column index."""
    column: Vector
    """Unit vector of increasing row index."""
    spacing_mm: tuple[float, float]
    """Between rows and between columns."""

    @property
    def normal(self) -> Vector:
        """Unit vector across the slices."""
        return np.asarray(np.cross(self.row, self.column))


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What positions say about a group, whatever becomes of it."""

    slices: tuple[Slice, ...]
    """In ascending order along the normal."""
    axes: Axes
    spacing: Spacing | None
    """None where slices share places or there are fewer than two."""
    clashes: int
    """Slices in the place of a different one."""
    constant: bool
    """Whether every slice lies in one place."""
    step_mm: Vector | None
    """From one place to the next, where the spacing is even."""
    tilt_deg: float
    """Between that step and the normal."""
    drift_mm: float
    """Largest distance of a slice from the line through the first and the last one."""

    @property
    def tilted(self) -> bool:
        """Whether the slices lie on a line that is not along their normal."""
        if self.step_mm is None or self.spacing is None:
            return False
        aside = math.sin(math.radians(self.tilt_deg)) * float(np.linalg.norm(self.step_mm))
        far = aside * self.spacing.places[-1] > max(_MIN_DRIFT_MM, *self.axes.spacing_mm)
        return self.tilt_deg > TILT_TOLERANCE_DEG or far


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Slices in order from first to last along the normal, and where they lie."""

    slices: tuple[Slice, ...]
    places: tuple[int, ...]
    """Of each slice, from 0; places in between are filled from the slices beside them."""
    shape: tuple[int, int, int]
    """(D, H, W) of the volume."""
    affine: NDArray[np.float64]
    """(d, h, w, 1) to RAS mm, as in `Volume`."""
    shear: Shear | None = None
    """How slices are shifted in their planes, if they are."""
    repeated: tuple[Path, ...] = ()
    """Files left out because an identical slice is in."""
    flags: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along D, H and W."""
        d, h, w = (float(x) for x in np.linalg.norm(self.affine[:3, :3], axis=0))
        return d, h, w

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files in the order of their slices."""
        return tuple(dict.fromkeys(item.header.path for item in self.slices))


def survey(group: Group) -> Survey:
    """Measure a group; the slices must say where they lie.

    Raises:
        Reject: ``no_geometry``, ``bad_orientation``, ``bad_spacing``, ``mixed_orientation``.
    """
    axes = _axes(group.slices)
    height = heights(group.slices)
    order = np.argsort(height, kind="stable")
    slices = tuple(group.slices[i] for i in order)
    height = height[order]
    clashes = int((np.diff(height) < SAME_PLACE_MM).sum())
    constant = len(slices) > 1 and float(height[-1] - height[0]) < SAME_PLACE_MM
    spacing = measure(height) if len(slices) > 1 and not clashes else None
    positions = np.array([item.position for item in slices])
    step, tilt, drift = _line(positions, axes, spacing)
    return Survey(
        slices=slices,
        axes=axes,
        spacing=spacing,
        clashes=clashes,
        constant=constant,
        step_mm=step,
        tilt_deg=tilt,
        drift_mm=drift,
    )


def _axes(slices: tuple[Slice, ...]) -> Axes:
    first = slices[0].plane
    for item in slices:
        if not item.placed:
            raise _unplaced(item.plane)
        if not parallel(first, item.plane):
            raise Reject("mixed_orientation", tag_name("ImageOrientationPatient"))
    cosines = np.asarray(first.orientation, dtype=np.float64).reshape(2, 3)
    if not np.allclose(cosines @ cosines.T, np.eye(2), atol=COSINE_TOLERANCE):
        raise Reject("bad_orientation", tag_name("ImageOrientationPatient"))
    rows, columns = first.spacing or (0.0, 0.0)
    if rows <= 0 or columns <= 0:
        raise Reject("bad_spacing", tag_name("PixelSpacing"))
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    return Axes(row=cosines[0], column=cosines[1], spacing_mm=(rows, columns))


def _unplaced(plane: Plane) -> Reject:
    """Why a slice lies nowhere: nothing says so, or numbers beyond all measure do."""
    if None in (plane.position, plane.orientation, plane.spacing):
        return Reject("no_geometry", tag_name(_absent(plane)))
    if max(map(abs, plane.orientation or ())) > 1 + COSINE_TOLERANCE:
        return Reject("bad_orientation", tag_name("ImageOrientationPatient"))
    if max(map(abs, plane.position or ())) > FARTHEST_MM:
        return Reject("no_geometry", tag_name("ImagePositionPatient"))
    return Reject("bad_spacing", tag_name("PixelSpacing"))


def _absent(plane: Plane) -> str:
    """The first of the elements that say where a slice lies, and does not."""
    if plane.position is None:
        return "ImagePositionPatient"
    return "ImageOrientationPatient" if plane.orientation is None else "PixelSpacing"


def _line(
    positions: NDArray[np.float64], axes: Axes, spacing: Spacing | None
) -> tuple[Vector | None, float, float]:
    """The step from place to place, its angle to the normal, and how far slices lie off it."""
    if spacing is None or not spacing.places:
        return None, 0.0, 0.0
    places = np.array(spacing.places)
    step: Vector = (positions[-1] - positions[0]) / places[-1]
    along = float(np.dot(step, axes.normal))
    aside = float(np.linalg.norm(step - along * axes.normal))
    line = positions[0] + places[:, None] * step
    drift = float(np.linalg.norm(positions - line, axis=1).max())
    return step, math.degrees(math.atan2(aside, along)), drift


def lay_out(group: Group, policy: Policy = NO_REPAIR) -> Layout:
    """Order a group of `group_series` along its normal and find its affine.

    Raises:
        Reject: ``no_geometry``, ``bad_orientation``, ``bad_spacing``, ``colour``,
            ``too_few_slices``, ``constant_position``, ``duplicate_position``, ``spacing_gap``,
            ``irregular_spacing``, ``irregular_position``, ``gantry_tilt``, ``missing_rescale``.
        Ignore: ``localizer``, ``secondary_capture``.
    """
    check_kind(group)
    return settle(group, survey(group), policy)


def check_kind(group: Group) -> None:
    """Set aside what is no scan's slices.

    Raises:
        Reject: ``colour``.
        Ignore: ``localizer``, ``secondary_capture``.
    """
    if group.header.localizer:
        raise Ignore("localizer")
    if group.header.captured and not group.slices[0].placed:
        raise Ignore("secondary_capture")
    if any(item.header.colour for item in group.slices):
        raise Reject("colour", tag_name("PhotometricInterpretation"))


def settle(group: Group, found: Survey, policy: Policy) -> Layout:
    """A layout from a survey.

    Raises:
        Reject: As `lay_out`.
    """
    if len(found.slices) < 2:
        raise Reject("too_few_slices", "1 slice")
    if found.constant:
        raise Reject("constant_position", f"{len(found.slices)} slices")
    if found.spacing is None or found.step_mm is None:
        raise _uneven(found)
    flags = [*group.flags, *_check_spacing(found.spacing, policy)]
    if found.drift_mm > max(0.1 * found.spacing.gap_mm, 5 * SAME_PLACE_MM):
        raise Reject("irregular_position", f"{found.drift_mm:.2f} mm off the line")
    depth = found.spacing.places[-1] + 1
    shear = None
    if found.tilted:
        if policy.tilt == "error" or found.tilt_deg > _MAX_TILT_DEG:
            raise Reject("gantry_tilt", f"{found.tilt_deg:.1f} degrees")
        shear = _shear(found.axes, found.step_mm, depth)
        flags += ["tilt", RESAMPLED]
    flags += _rescales(found.slices)
    header = group.header
    shape = (depth, header.rows, header.columns)
    return Layout(
        slices=found.slices,
        places=found.spacing.places,
        shape=shape if shear is None else shear.shape(shape),
        affine=_affine(found.axes, found.slices[0].position, found.step_mm, shear),
        shear=shear,
        repeated=tuple(dict.fromkeys(item.header.path for item in group.repeated)),
        flags=tuple(flags),
    )


def _rescales(slices: tuple[Slice, ...]) -> tuple[str, ...]:
    """``mixed_rescale`` where slices have their own.

    Raises:
        Reject: ``missing_rescale``: some slices have one and others have lost theirs.
    """
    if len({(s.plane.slope, s.plane.intercept) for s in slices}) < 2:
        return ()
    lost = sum(not item.plane.rescaled for item in slices)
    if lost:
        where = f"{tag_name('RescaleSlope')} in {lost} of {len(slices)} slices"
        raise Reject("missing_rescale", where)
    return ("mixed_rescale",)


def _uneven(found: Survey) -> Reject:
    if found.clashes or found.spacing is None:
        return Reject("duplicate_position", f"{found.clashes} of {len(found.slices)} slices")
    gaps = found.spacing.gaps_mm
    return Reject("irregular_spacing", f"{min(gaps):.2f} to {max(gaps):.2f} mm")


def _check_spacing(spacing: Spacing, policy: Policy) -> list[str]:
    """Flags of an even spacing; refuses one with holes that the policy does not fill."""
    if spacing.gap_mm > MAX_GAP_MM:
        raise Reject("spacing_gap", f"{spacing.gap_mm:.2f} mm between slices")
    uneven = max(abs(gap - spacing.gap_mm) for gap in spacing.gaps_mm)
    if not spacing.missing:
        return ["uneven_spacing"] if uneven > _UNEVEN * spacing.gap_mm + SAME_PLACE_MM else []
    widest = max(b - a for a, b in pairwise(spacing.places)) - 1
    if policy.missing == "interpolate" and widest <= _MAX_FILLED:
        return ["spacing_gap", INTERPOLATED]
    raise Reject(
        "spacing_gap",
        f"{max(spacing.gaps_mm):.2f} mm in a series of {spacing.gap_mm:.2f} mm: "
        f"{len(spacing.missing)} slices missing ({_ranges(spacing.missing)})",
    )


def _ranges(places: tuple[int, ...]) -> str:
    """Places as ``3-5,9``, the first six runs of them."""
    runs = []
    for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        members = [place for _, place in run]
        runs.append(f"{members[0]}" if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(runs[:6]) + (",..." if len(runs) > 6 else "")


def _shear(axes: Axes, step_mm: Vector, depth: int) -> Shear:
    rows, columns = axes.spacing_mm
    return Shear.over(
        row_shift=float(np.dot(step_mm, axes.column)) / rows,
        column_shift=float(np.dot(step_mm, axes.row)) / columns,
        depth=depth,
    )


def _affine(
    axes: Axes, origin_mm: Vector, step_mm: Vector, shear: Shear | None
) -> NDArray[np.float64]:
    rows, columns = axes.spacing_mm
    if shear is not None:
        step_mm = np.dot(step_mm, axes.normal) * axes.normal
        origin_mm = origin_mm - shear.row_margin * rows * axes.column
        origin_mm = origin_mm - shear.column_margin * columns * axes.row
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ step_mm
    affine[:3, 1] = _LPS_TO_RAS @ axes.column * rows
    affine[:3, 2] = _LPS_TO_RAS @ axes.row * columns
    affine[:3, 3] = _LPS_TO_RAS @ origin_mm
    return affine
