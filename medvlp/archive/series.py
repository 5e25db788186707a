"""DICOM slices to volumes: grouped, ordered and spaced by position alone, or refused with a code.

Slice numbers, slice locations and slice thickness are never trusted: readers that do merge
series, hide missing slices and invent spacings.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.dicom import pixel_digest, read_header, read_planes
from medvlp.archive.geometry import Volume
from medvlp.archive.header import Header, Plane, tag_name
from medvlp.archive.marks import MARKS
from medvlp.archive.verdict import Ignore, Reject

SAME_PLACE_MM = 0.01
"""Two slices closer than this are in one place."""
GAP_TOLERANCE = 0.02
"""A gap may differ from the median gap by this fraction, plus `SAME_PLACE_MM` of rounding."""
MAX_GAP_MM = 30.0
"""No volume is sampled this coarsely: such slices are single views, not neighbours."""
TILT_TOLERANCE_DEG = 0.5
_COSINE_TOLERANCE = 1e-3
_SPACING_TOLERANCE_MM = 1e-4
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Slice:
    """One frame of one file."""

    header: Header
    frame: int

    @property
    def plane(self) -> Plane:
        """Its place and rescale."""
        return self.header.planes[self.frame]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Slices in order from first to last along the normal, and where they lie."""

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]
    """(d, h, w, 1) to RAS mm, as in `Volume`."""
    spacing_mm: tuple[float, float, float]
    repeated: tuple[Path, ...] = ()
    """Files left out because an identical slice is in."""
    flags: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        header = self.slices[0].header
        return len(self.slices), header.rows, header.columns

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files in the order of their slices."""
        return tuple(dict.fromkeys(item.header.path for item in self.slices))


def group_series(headers: Iterable[Header]) -> list[tuple[Header, ...]]:
    """Headers that belong to one volume: one patient, series, matrix, orientation and spacing.

    Localizers form groups of their own, and so do multi-frame files and, where slices of several
    acquisitions share their places, each acquisition. Stripped identifiers are tolerated: without
    a series identifier, files of one folder belong together.
    """
    buckets: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for header in headers:
        where = header.series or str(header.path.parent)
        alone = str(header.path) if header.frames > 1 else ""
        kind = (header.rows, header.columns, header.localizer, header.captured)
        buckets[header.patient, header.study, where, *kind, alone].append(header)
    clusters = (cluster for bucket in buckets.values() for cluster in _by_orientation(bucket))
    return [group for cluster in clusters for group in _by_acquisition(cluster)]


def _by_orientation(headers: list[Header]) -> list[list[Header]]:
    clusters: list[list[Header]] = []
    for header in headers:
        for cluster in clusters:
            if _parallel(cluster[0].planes[0], header.planes[0]):
                cluster.append(header)
                break
        else:
            clusters.append([header])
    return clusters


def _parallel(a: Plane, b: Plane) -> bool:
    return _close(a.orientation, b.orientation, _COSINE_TOLERANCE) and _close(
        a.spacing, b.spacing, _SPACING_TOLERANCE_MM
    )


def _close(a: Sequence[float] | None, b: Sequence[float] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def _by_acquisition(headers: list[Header]) -> list[tuple[Header, ...]]:
    """Split acquisitions that cover the same places with different pixels."""
    whole = [tuple(headers)]
    acquisitions: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        acquisitions[header.planes[0].marks[MARKS.index("acquisition")]].append(header)
    places = {h.path: _place(h.planes[0]) for h in headers}
    if len(acquisitions) == 1 or None in places.values() or len(set(places.values())) == 1:
        return whole
    crowded = [place for place, count in Counter(places.values()).items() if count > 1]
    if not crowded:
        return whole
    rivals = [h.path for h in headers if places[h.path] == crowded[0]]
    if len({pixel_digest(path) for path in rivals}) == 1:
        return whole
    return [tuple(group) for group in acquisitions.values()]


def _place(plane: Plane) -> tuple[int, ...] | None:
    if plane.position is None:
        return None
    return tuple(round(x / SAME_PLACE_MM) for x in plane.position)


def lay_out(group: Sequence[Header]) -> Layout:
    """Order a group of `group_series` along its normal and find its affine.

    Raises:
        Reject: ``no_geometry``, ``bad_orientation``, ``bad_spacing``, ``colour``,
            ``too_few_slices``, ``constant_position``, ``duplicate_position``, ``spacing_gap``,
            ``irregular_spacing``, ``irregular_position``, ``gantry_tilt``.
        Ignore: ``localizer``, ``secondary_capture``.
    """
    if group[0].localizer:
        raise Ignore("localizer")
    if group[0].captured and group[0].planes[0].position is None:
        raise Ignore("secondary_capture")
    if any(header.colour for header in group):
        raise Reject("colour", tag_name("PhotometricInterpretation"))
    slices = [Slice(header, frame) for header in group for frame in range(header.frames)]
    row, column, spacing = _axes(slices)
    if len(slices) < 2:
        raise Reject("too_few_slices", "1 slice")
    normal = np.cross(row, column)
    height = {id(item): float(np.dot(_position(item), normal)) for item in slices}
    slices.sort(key=lambda item: height[id(item)])
    if height[id(slices[-1])] - height[id(slices[0])] < SAME_PLACE_MM:
        raise Reject("constant_position", f"{len(slices)} slices")
    slices, repeated = _distinct(slices, height)
    gap = _regular_gap(np.array([height[id(item)] for item in slices]))
    step = _straight_step(np.array([_position(item) for item in slices]), normal, gap)
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ step
    affine[:3, 1] = _LPS_TO_RAS @ column * spacing[0]
    affine[:3, 2] = _LPS_TO_RAS @ row * spacing[1]
    affine[:3, 3] = _LPS_TO_RAS @ _position(slices[0])
    return Layout(
        slices=tuple(slices),
        affine=affine,
        spacing_mm=(float(np.linalg.norm(step)), spacing[0], spacing[1]),
        repeated=tuple(repeated),
        flags=("repeated_slice",) if repeated else (),
    )


def _position(item: Slice) -> NDArray[np.float64]:
    return np.asarray(item.plane.position, dtype=np.float64)


def _axes(
    slices: Sequence[Slice],
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]:
    """Unit vectors along a row and along a column, and spacing between rows and columns."""
    first = slices[0].plane
    for item in slices:
        plane = item.plane
        if plane.position is None or plane.orientation is None or plane.spacing is None:
            raise Reject("no_geometry", tag_name("ImagePositionPatient"))
        if not _parallel(first, plane):
            raise Reject("mixed_orientation", tag_name("ImageOrientationPatient"))
    axes = np.asarray(first.orientation, dtype=np.float64).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=_COSINE_TOLERANCE):
        raise Reject("bad_orientation", tag_name("ImageOrientationPatient"))
    rows, columns = first.spacing or (0.0, 0.0)
    if rows <= 0 or columns <= 0:
        raise Reject("bad_spacing", tag_name("PixelSpacing"))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return axes[0], axes[1], (rows, columns)


def _distinct(slices: list[Slice], height: dict[int, float]) -> tuple[list[Slice], list[Path]]:
    """Drop a slice that repeats its neighbour's pixels; refuse two that disagree."""
    kept = [slices[0]]
    repeated: list[Path] = []
    clashes = 0
    for item in slices[1:]:
        if height[id(item)] - height[id(kept[-1])] >= SAME_PLACE_MM:
            kept.append(item)
        elif _same_pixels(item, kept[-1]):
            repeated.append(item.header.path)
        else:
            clashes += 1
    if clashes:
        raise Reject("duplicate_position", f"{clashes} of {len(slices)} slices")
    return kept, repeated


def _same_pixels(a: Slice, b: Slice) -> bool:
    if a.header.frames > 1:
        return False
    return pixel_digest(a.header.path) == pixel_digest(b.header.path)


def _regular_gap(heights: NDArray[np.float64]) -> float:
    """The median gap, if all gaps agree with it."""
    gaps = np.diff(heights)
    # The lower median: with (5, 10) the wider gap is the odd one.
    median = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    if median > MAX_GAP_MM:
        raise Reject("spacing_gap", f"{median:.2f} mm between slices")
    odd = np.flatnonzero(np.abs(gaps - median) > GAP_TOLERANCE * median + SAME_PLACE_MM)
    if len(odd) == 0:
        return median
    widest = float(gaps[odd].max())
    missing = sum(round(float(gap) / median) - 1 for gap in gaps[odd])
    whole = all(
        round(float(gap) / median) >= 2 and abs(gap / median - round(float(gap) / median)) < 0.1
        for gap in gaps[odd]
    )
    if whole:
        message = f"{widest:.2f} mm in a series of {median:.2f} mm: {missing} slices missing"
        raise Reject("spacing_gap", message)
    raise Reject("irregular_spacing", f"{gaps.min():.2f} to {gaps.max():.2f} mm")


def _straight_step(
    positions: NDArray[np.float64], normal: NDArray[np.float64], gap: float
) -> NDArray[np.float64]:
    """The vector from one slice to the next, if they lie on a line along the normal."""
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    along = float(np.dot(step, normal))
    aside = float(np.linalg.norm(step - along * normal))
    angle = math.degrees(math.atan2(aside, along))
    if angle > TILT_TOLERANCE_DEG:
        raise Reject("gantry_tilt", f"{angle:.1f} degrees")
    line = positions[0] + np.arange(len(positions))[:, None] * step
    drift = float(np.linalg.norm(positions - line, axis=1).max())
    if drift > max(0.1 * gap, 5 * SAME_PLACE_MM):
        raise Reject("irregular_position", f"{drift:.2f} mm off the line")
    return step


def load(layout: Layout) -> Volume:
    """Decode a layout's files, each once, each slice with its own rescale.

    Raises:
        Reject: A file is bad.
    """
    values_DHW = np.empty(layout.shape, dtype=np.float32)
    frames: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for index, item in enumerate(layout.slices):
        frames[item.header.path].append((index, item.frame))
    for path, places in frames.items():
        planes = read_planes(path)
        for index, frame in places:
            values_DHW[index] = planes[frame]
    return Volume(hu_DHW=values_DHW, affine=layout.affine, flags=layout.flags)


def read_headers(paths: Iterable[Path]) -> list[Header]:
    """Headers of the image files among `paths`; files without an image are left out.

    Raises:
        Reject: A file is bad.
    """
    headers = []
    for path in paths:
        try:
            headers.append(read_header(path))
        except Ignore:
            continue
    return headers


def read_series(paths: Sequence[Path]) -> Volume:
    """The one volume in `paths`, in its own orientation; localizers beside it are left out.

    Raises:
        Reject: A file is bad, the slices make no sound volume (codes as in `lay_out`), or there
            are several volumes (``mixed_series``).
        Ignore: There is no image, or only localizers.
    """
    groups = group_series(read_headers(paths))
    volumes = [group for group in groups if not group[0].localizer]
    if not groups:
        raise Ignore("no_pixels")
    if len(volumes) > 1:
        raise Reject("mixed_series", f"{len(volumes)} groups")
    volume = load(lay_out((volumes or groups)[0]))
    if len(volumes) < len(groups):
        volume = replace(volume, flags=(*volume.flags, "localizer_removed"))
    return volume
