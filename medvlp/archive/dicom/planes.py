"""Where the frames of a DICOM file lie in the patient, and how their values are rescaled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom.dataset import Dataset

from medvlp.archive.dicom.values import Fields, Vector, tag_name
from medvlp.archive.series.marks import FrameMarks, Marks, marks_of
from medvlp.archive.verdict import Reject

FLOAT32_SAFE = 1e30
"""Greater numbers could leave what a float32 holds once they are multiplied."""
_COSINE_TOLERANCE = 1e-2
_EMPTY = Dataset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Where one frame lies in the patient (DICOM's LPS millimetres), and its rescale."""

    position: Vector | None
    """Centre of the first voxel, (x, y, z) in mm towards the patient's left, back and head."""
    orientation: Vector | None
    """Direction of increasing column index, then of increasing row index: six cosines."""
    spacing: Vector | None
    """(between rows, between columns) in mm."""
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: bool = False
    """Whether the file states its rescale."""

    marks: Marks = ()
    """What tells this frame from others in its place; see `medvlp.archive.series.marks`."""


def rescale_of(fields: Fields) -> tuple[float, float]:
    """Modality rescale (slope, intercept); (1, 0) where the file has none.

    Raises:
        Reject: Not one number, not finite, so large that the result would not be, or a zero slope.
    """
    if "RescaleSlope" not in fields and "RescaleIntercept" not in fields:
        return 1.0, 0.0
    pair = []
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        items = fields.numbers(keyword)
        if items is None or len(items) != 1:
            raise Reject("vm" if items else "bad_number", tag_name(keyword))
        if not math.isfinite(items[0]) or abs(items[0]) > FLOAT32_SAFE:
            raise Reject("nonfinite_rescale", tag_name(keyword))
        pair.append(items[0])
    # A slope that small makes every pixel equal once it is a float32.
    if abs(pair[0]) < 1 / FLOAT32_SAFE:
        raise Reject("zero_slope", tag_name("RescaleSlope"))
    return pair[0], pair[1]


def _plane(fields: Fields) -> Plane:
    slope, intercept = rescale_of(fields)
    rescaled = "RescaleSlope" in fields
    spacing = fields.finite("PixelSpacing", 2) or fields.finite("ImagerPixelSpacing", 2)
    return Plane(
        position=fields.finite("ImagePositionPatient", 3),
        orientation=fields.finite("ImageOrientationPatient", 6),
        spacing=spacing,
        slope=slope,
        intercept=intercept,
        rescaled=rescaled,
        marks=marks_of(fields),
    )


def _group(frame: Fields, shared: Fields, keyword: str) -> Fields:
    """A functional group's item: the frame's own, else the shared one (PS3.3 C.7.6.16)."""
    for owner in (frame, shared):
        items = owner.items(keyword)
        if items:
            return items[0]
    return Fields(_EMPTY, shared)


def planes_of(fields: Fields, frames: int) -> tuple[Plane, ...]:
    """Every frame's plane: the file's own, or that of its functional groups (PS3.3 C.7.6.16).

    Args:
        fields: The file's fields.
        frames: How many frames the header declares.

    Raises:
        Reject: ``frame_count`` where it describes another number of frames, and what `rescale_of`
            and `Fields` say of bad numbers.
    """
    per_frame = fields.items("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        return (_plane(fields),) * frames
    if len(per_frame) != frames:
        raise Reject("frame_count", tag_name("PerFrameFunctionalGroupsSequence"))
    shared = (*fields.items("SharedFunctionalGroupsSequence"), Fields(_EMPTY, fields))[0]
    marks = FrameMarks(fields, shared)
    return tuple(_frame_plane(frame, shared, marks) for frame in per_frame)


def _frame_plane(frame: Fields, shared: Fields, marks: FrameMarks) -> Plane:
    position = _group(frame, shared, "PlanePositionSequence")
    orientation = _group(frame, shared, "PlaneOrientationSequence")
    measures = _group(frame, shared, "PixelMeasuresSequence")
    rescale = _group(frame, shared, "PixelValueTransformationSequence")
    slope, intercept = rescale_of(rescale)
    return Plane(
        position=position.finite("ImagePositionPatient", 3),
        orientation=orientation.finite("ImageOrientationPatient", 6),
        spacing=measures.finite("PixelSpacing", 2),
        slope=slope,
        intercept=intercept,
        rescaled="RescaleSlope" in rescale,
        marks=marks.of(frame),
    )


def bad_geometry(plane: Plane) -> list[str]:
    """Flags for what no volume could be built from; a single picture does without."""
    flags = []
    if plane.spacing is not None and min(plane.spacing) <= 0:
        flags.append("bad_spacing")
    if plane.orientation is not None:
        row, column = plane.orientation[:3], plane.orientation[3:]
        skew = abs(sum(a * b for a, b in zip(row, column, strict=True)))
        stretch = max(abs(math.hypot(*axis) - 1) for axis in (row, column))
        if max(skew, stretch) > _COSINE_TOLERANCE:
            flags.append("bad_orientation")
    return flags
