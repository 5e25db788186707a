"""What we take from a DICOM header: typed, tolerant of stripped fields, strict about bad ones."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage

from medvlp.archive.marks import Marks, frame_marks, marks_of
from medvlp.archive.modality import conclude_modality
from medvlp.archive.verdict import Reject
from medvlp.data.paths import PathText

Vector = tuple[float, ...]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_AGE_UNIT_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_LATERAL_VIEWS = frozenset({"LATERAL", "LAT", "LL", "RL", "LLD", "RLD", "LLO", "RLO"})
_FLOAT32_SAFE = 1e30
_SCOUT = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"})
_SCREEN = frozenset({"SCREEN SAVE", "SCREENSAVE", "DOSE_INFO", "DOSE INFO", "DOSE REPORT"})


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
    marks: Marks = ()
    """What tells this frame from others in its place; see `medvlp.archive.marks`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One DICOM file's header. Identifiers are raw: only pseudonyms may leave the archive room."""

    path: PathText
    modality: str
    """Empty where the file has none."""
    transfer_syntax: str
    sop_class: str
    sop: str
    study: str
    series: str
    patient: str
    names: tuple[str, ...]
    """Words of the patient's name, to be removed where a report repeats them."""
    accession: str
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    planes: tuple[Plane, ...]
    """One a frame."""
    series_number: str
    """Tells series apart where their identifiers were removed."""
    body_part: str
    """As stated, in capitals."""
    padding: float | None
    """Stored value of pixels outside the scanned circle."""
    acquired: dt.date | None
    sex: str
    """M, F, O or empty."""
    age_years: float | None
    view: str
    """PA, AP, LATERAL or empty."""
    laterality: str
    scanner: str
    """Manufacturer and model only."""
    image_type: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def localizer(self) -> bool:
        """Whether this is a scout image, not part of a volume."""
        return not _SCOUT.isdisjoint(self.image_type)

    @property
    def captured(self) -> bool:
        """Whether this is a screen's picture (a dose sheet, a rendering), not a scan's slice."""
        screen = not _SCREEN.isdisjoint(self.image_type)
        return screen or self.sop_class.startswith(SecondaryCaptureImageStorage)

    @property
    def colour(self) -> bool:
        """Whether a pixel is anything but one grey value."""
        return self.samples != 1 or not self.photometric.startswith("MONOCHROME")


def tag_name(keyword: str) -> str:
    """``(gggg,eeee)`` of an attribute: what messages may say."""
    tag = Tag(keyword)
    return f"({tag.group:04X},{tag.element:04X})"


def _value(ds: Dataset, keyword: str) -> Any:
    """The attribute's value, or None where it is absent or empty; never a parser's message."""
    try:
        value = ds.get(keyword)
    except Exception:
        raise Reject("bad_value", tag_name(keyword)) from None
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def _text(ds: Dataset, keyword: str) -> str:
    value = _value(ds, keyword)
    return "" if value is None else str(value).strip()


def _uid(ds: Dataset, keyword: str) -> str:
    value = _text(ds, keyword)
    if value and (len(value) > 64 or not _UID.fullmatch(value)):
        raise Reject("bad_uid", tag_name(keyword))
    return value


def _integer(ds: Dataset, keyword: str, default: int | None, code: str) -> int:
    value = _value(ds, keyword)
    if value is None and default is not None:
        return default
    if not isinstance(value, int):
        raise Reject("vm" if hasattr(value, "__len__") else code, tag_name(keyword))
    return int(value)


def _numbers(ds: Dataset, keyword: str, count: int) -> Vector | None:
    value = _value(ds, keyword)
    if value is None:
        return None
    try:
        items = tuple(float(x) for x in (value if count > 1 else [value]))
    except (TypeError, ValueError):
        raise Reject("bad_number", tag_name(keyword)) from None
    if len(items) != count:
        raise Reject("vm", tag_name(keyword))
    return items


def _finite(ds: Dataset, keyword: str, count: int) -> Vector | None:
    items = _numbers(ds, keyword, count)
    if items is not None and not all(map(math.isfinite, items)):
        raise Reject("bad_number", tag_name(keyword))
    return items


def rescale_of(ds: Dataset) -> tuple[float, float]:
    """Modality rescale (slope, intercept); (1, 0) where the file has none.

    Raises:
        Reject: Not a number, not finite, so large that the result would not be, or a zero slope.
    """
    if "RescaleSlope" not in ds and "RescaleIntercept" not in ds:
        return 1.0, 0.0
    pair = []
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        items = _rescale_number(ds, keyword)
        if not math.isfinite(items) or abs(items) > _FLOAT32_SAFE:
            raise Reject("nonfinite_rescale", tag_name(keyword))
        pair.append(items)
    if pair[0] == 0:
        raise Reject("zero_slope", tag_name("RescaleSlope"))
    return pair[0], pair[1]


def _rescale_number(ds: Dataset, keyword: str) -> float:
    try:
        items = _numbers(ds, keyword, 1)
    except Reject:
        items = None
    if items is None:
        raise Reject("bad_number", tag_name(keyword))
    return items[0]


def _plane(ds: Dataset) -> Plane:
    slope, intercept = rescale_of(ds)
    spacing = _finite(ds, "PixelSpacing", 2) or _finite(ds, "ImagerPixelSpacing", 2)
    return Plane(
        position=_finite(ds, "ImagePositionPatient", 3),
        orientation=_finite(ds, "ImageOrientationPatient", 6),
        spacing=spacing,
        slope=slope,
        intercept=intercept,
        marks=marks_of(ds),
    )


def _group(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """A functional group's item: the frame's own, else the shared one (PS3.3 C.7.6.16)."""
    for owner in (frame, shared):
        sequence = _value(owner, keyword)
        if sequence is not None:
            return sequence[0]  # type: ignore[no-any-return]
    return Dataset()


def _planes(ds: Dataset, frames: int) -> tuple[Plane, ...]:
    per_frame = _value(ds, "PerFrameFunctionalGroupsSequence")
    if per_frame is None:
        return (_plane(ds),) * frames
    if len(per_frame) != frames:
        raise Reject("frame_count", tag_name("PerFrameFunctionalGroupsSequence"))
    shared = (_value(ds, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    planes = []
    for frame in per_frame:
        slope, intercept = rescale_of(_group(frame, shared, "PixelValueTransformationSequence"))
        planes.append(
            Plane(
                position=_finite(
                    _group(frame, shared, "PlanePositionSequence"), "ImagePositionPatient", 3
                ),
                orientation=_finite(
                    _group(frame, shared, "PlaneOrientationSequence"), "ImageOrientationPatient", 6
                ),
                spacing=_finite(_group(frame, shared, "PixelMeasuresSequence"), "PixelSpacing", 2),
                slope=slope,
                intercept=intercept,
                marks=frame_marks(ds, frame, shared),
            )
        )
    return tuple(planes)


def _date(ds: Dataset, *keywords: str) -> dt.date | None:
    for keyword in keywords:
        try:
            return dt.datetime.strptime(_text(ds, keyword)[:8], "%Y%m%d").date()
        except (ValueError, Reject):
            continue
    return None


def _age_years(ds: Dataset, acquired: dt.date | None) -> float | None:
    match = _AGE.fullmatch(_text(ds, "PatientAge"))
    if match:
        return int(match[1]) * _AGE_UNIT_YEARS[match[2]]
    born = _date(ds, "PatientBirthDate")
    if born is None or acquired is None or acquired < born:
        return None
    return (acquired - born).days / 365.25


def _optional(read: Callable[[], str]) -> str:
    """A field that describes but is not needed: unreadable counts as absent."""
    try:
        return read()
    except Reject:
        return ""


def _view(ds: Dataset) -> str:
    words = re.split(r"[\s_/-]+", _text(ds, "ViewPosition").upper())
    for word in words:
        if word in ("PA", "AP"):
            return word
        if word in _LATERAL_VIEWS:
            return "LATERAL"
    return ""


def _laterality(ds: Dataset) -> str:
    side = _text(ds, "ImageLaterality") or _text(ds, "Laterality")
    return side if side in ("L", "R", "B") else ""


def _scanner(ds: Dataset) -> str:
    return " ".join(filter(None, (_text(ds, "Manufacturer"), _text(ds, "ManufacturerModelName"))))


def _names(ds: Dataset) -> tuple[str, ...]:
    words = re.split(r"[\^=\s]+", _optional(lambda: _text(ds, "PatientName")))
    return tuple(word for word in words if word)


def _modality(ds: Dataset, sop_class: str, planes: tuple[Plane, ...]) -> tuple[str, bool]:
    """The modality, and whether it is stated."""
    stated = _optional(lambda: _text(ds, "Modality").upper())
    return stated or conclude_modality(ds, sop_class, planes[0].intercept), bool(stated)


def _padding(ds: Dataset, signed: bool) -> float | None:
    """PixelPaddingValue, also where a signed value was written as an unsigned one."""
    value = _optional(lambda: _text(ds, "PixelPaddingValue"))
    if not re.fullmatch(r"-?[0-9]{1,6}", value):
        return None
    stored = int(value)
    return float(stored - 2**16 if signed and stored >= 2**15 else stored)


def _image_type(ds: Dataset) -> tuple[str, ...]:
    value = _value(ds, "ImageType")
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item).upper() for item in value)


def _check_pixel_module(header: Header, high_bit: int) -> None:
    if header.rows < 1 or header.columns < 1 or header.frames < 1:
        raise Reject("bad_dims", f"{tag_name('Rows')} {tag_name('Columns')}")
    if header.bits_allocated not in (1, 8, 16, 32):
        raise Reject("bad_bits", tag_name("BitsAllocated"))
    if not 1 <= header.bits_stored <= header.bits_allocated:
        raise Reject("bad_bits", tag_name("BitsStored"))
    if high_bit != header.bits_stored - 1:
        raise Reject("high_bit", tag_name("HighBit"))
    if header.samples not in (1, 3) or not header.photometric:
        raise Reject("pixel_module", tag_name("SamplesPerPixel"))


def header_of(ds: Dataset, path: Path) -> Header:
    """The typed header of a parsed file that holds an image.

    Raises:
        Reject: A field that decides what the pixels mean is missing, malformed or contradictory.
    """
    frames = _integer(ds, "NumberOfFrames", 1, "bad_number")
    flags: tuple[str, ...] = ("zero_frames",) if frames == 0 else ()
    frames = 1 if frames == 0 else frames
    if frames < 1 or frames > 100_000:
        raise Reject("bad_dims", tag_name("NumberOfFrames"))
    acquired = _date(ds, "AcquisitionDate", "ContentDate", "StudyDate")
    bits_allocated = _integer(ds, "BitsAllocated", None, "pixel_module")
    bits_stored = _integer(ds, "BitsStored", bits_allocated, "bad_bits")
    representation = _integer(ds, "PixelRepresentation", 0, "pixel_module")
    if representation not in (0, 1):
        raise Reject("pixel_module", tag_name("PixelRepresentation"))
    sex = _optional(lambda: _text(ds, "PatientSex").upper())
    intent = _optional(lambda: _text(ds, "PresentationIntentType").upper())
    # Raw detector values look unlike any image that is read from.
    flags += ("for_processing",) if intent == "FOR PROCESSING" else ()
    sop_class = _uid(ds, "SOPClassUID")
    planes = _planes(ds, frames)
    modality, stated = _modality(ds, sop_class, planes)
    flags += () if stated or not modality else ("modality_inferred",)
    header = Header(
        path=path,
        modality=modality,
        transfer_syntax=str(ds.file_meta.get("TransferSyntaxUID", "")),
        sop_class=sop_class,
        sop=_uid(ds, "SOPInstanceUID"),
        study=_uid(ds, "StudyInstanceUID"),
        series=_uid(ds, "SeriesInstanceUID"),
        patient=_text(ds, "PatientID"),
        names=_names(ds),
        accession=_text(ds, "AccessionNumber"),
        rows=_integer(ds, "Rows", None, "pixel_module"),
        columns=_integer(ds, "Columns", None, "pixel_module"),
        frames=frames,
        samples=_integer(ds, "SamplesPerPixel", 1, "pixel_module"),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        signed=representation == 1,
        photometric=_text(ds, "PhotometricInterpretation").upper(),
        planes=planes,
        series_number=_optional(lambda: _text(ds, "SeriesNumber")),
        body_part=_optional(lambda: _text(ds, "BodyPartExamined").upper()),
        padding=_padding(ds, representation == 1),
        acquired=acquired,
        sex=sex if sex in ("M", "F", "O") else "",
        age_years=_age_years(ds, acquired),
        view=_optional(lambda: _view(ds)),
        laterality=_optional(lambda: _laterality(ds)),
        scanner=_optional(lambda: _scanner(ds)),
        image_type=_image_type(ds),
        flags=flags,
    )
    _check_pixel_module(header, _integer(ds, "HighBit", bits_stored - 1, "high_bit"))
    return header
