"""What we take from a DICOM header: typed, tolerant of stripped fields, strict about bad ones."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from medvlp.archive.dicom.modality import conclude_modality
from medvlp.archive.dicom.planes import FLOAT32_SAFE, Plane, bad_geometry, planes_of
from medvlp.archive.dicom.values import Fields, Vector, tag_name
from medvlp.archive.privacy.known import known_identifiers
from medvlp.archive.verdict import Reject
from medvlp.data.paths import PathText
from medvlp.data.views import view_word

_AGE = re.compile(r"([0-9]{1,3})([DWMY])")
_AGE_UNIT_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_DATE = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})")
_WINDOW_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_MOST_FRAMES = 100_000
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
"""PresentationLUTShape that says the same (PS3.3 C.8.11.1)."""
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_SCOUT = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"})
_SCREEN = frozenset({"SCREEN SAVE", "SCREENSAVE", "DOSE_INFO", "DOSE INFO", "DOSE REPORT"})


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
    known: tuple[str, ...]  # identifiers; see `medvlp.archive.privacy.known`
    accession: str
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    planar: bool
    """Whether colours are stored one plane after the other."""
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
    burned_in: str
    conversion: str
    window: tuple[float, float] | None
    """(centre, width) of the first display window, if it is one."""
    window_function: str
    """LINEAR, LINEAR_EXACT or SIGMOID."""
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
    def spacing_mm(self) -> Vector | None:
        """(between rows, between columns) of the first frame, unless pixels cannot be so large."""
        spacing = self.planes[0].spacing
        return None if spacing is None or min(spacing) <= 0 else spacing

    @property
    def colour(self) -> bool:
        """Whether a pixel is anything but one grey value."""
        return self.samples != 1 or not self.photometric.startswith("MONOCHROME")


def _date(fields: Fields, *keywords: str) -> dt.date | None:
    """The first of the dates; what is no date is flagged and passed over."""
    for keyword in keywords:
        words = fields.text(keyword)
        match = _DATE.match(words)
        try:
            if match:
                return dt.date(int(match[1]), int(match[2]), int(match[3]))
        except ValueError:
            pass
        if words:
            fields.flags["bad_date"] = None
    return None


def _age_years(fields: Fields, acquired: dt.date | None) -> float | None:
    words = fields.text("PatientAge").upper()
    match = _AGE.fullmatch(words)
    if match:
        return int(match[1]) * _AGE_UNIT_YEARS[match[2]]
    if words:
        fields.flags["bad_age"] = None
    born = _date(fields, "PatientBirthDate")
    if born is None or acquired is None or acquired < born:
        return None
    return (acquired - born).days / 365.25


def _view(fields: Fields) -> str:
    return view_word(fields.text("ViewPosition"))


def _laterality(fields: Fields) -> str:
    side = fields.text("ImageLaterality") or fields.text("Laterality")
    return side if side in ("L", "R", "B") else ""


def _scanner(fields: Fields) -> str:
    words = (fields.text("Manufacturer"), fields.text("ManufacturerModelName"))
    return " ".join(filter(None, words))


def _modality(fields: Fields, sop_class: str, planes: tuple[Plane, ...]) -> str:
    """The modality, stated or concluded."""
    stated = fields.text("Modality").upper()
    if stated:
        return stated
    modality = conclude_modality(fields.dataset, sop_class, planes[0].intercept)
    if modality:
        fields.flags["modality_inferred"] = None
    return modality


def _padding(fields: Fields, signed: bool) -> float | None:
    """PixelPaddingValue, also where a signed value was written as an unsigned one."""
    try:
        stored = fields.integer("PixelPaddingValue", None, "bad_number")
    except Reject:
        return None
    return float(stored - 2**16 if signed and stored >= 2**15 else stored)


def _image_type(fields: Fields) -> tuple[str, ...]:
    words = fields.text("ImageType").upper()
    return tuple(word.strip() for word in words.split("\\")) if words else ()


def _window(fields: Fields) -> tuple[float, float] | None:
    """The first window; one that shows nothing is flagged and left out."""
    try:
        centers, widths = fields.numbers("WindowCenter"), fields.numbers("WindowWidth")
    except Reject:
        centers = widths = (math.nan,)
    if centers is None or widths is None:
        return None
    center, width = centers[0], widths[0]
    narrowest = 1.0 if _window_function(fields) == "LINEAR" else 1e-30
    if abs(center) < FLOAT32_SAFE and narrowest <= width < FLOAT32_SAFE:
        return center, width
    fields.flags["bad_window"] = None
    return None


def _window_function(fields: Fields) -> str:
    stated = fields.text("VOILUTFunction").upper() or "LINEAR"
    if stated in _WINDOW_FUNCTIONS:
        return stated
    fields.flags["bad_window"] = None
    return "LINEAR"


def _check_pixel_module(header: Header, high_bit: int) -> None:
    if header.rows < 1 or header.columns < 1:
        raise Reject("bad_dims", f"{tag_name('Rows')} {tag_name('Columns')}")
    if header.bits_allocated not in (1, 8, 16, 32):
        raise Reject("bad_bits", tag_name("BitsAllocated"))
    if not 1 <= header.bits_stored <= header.bits_allocated:
        raise Reject("bad_bits", tag_name("BitsStored"))
    if high_bit != header.bits_stored - 1:
        raise Reject("high_bit", tag_name("HighBit"))
    if header.samples not in (1, 3):
        raise Reject("pixel_module", tag_name("SamplesPerPixel"))
    if header.photometric not in (_GREY if header.samples == 1 else _COLOUR):
        raise Reject("pixel_module", tag_name("PhotometricInterpretation"))


def _frames(fields: Fields) -> int:
    frames = fields.integer("NumberOfFrames", 1, "bad_number")
    if frames == 0:
        fields.flags["zero_frames"] = None
    if frames < 0:
        raise Reject("bad_dims", tag_name("NumberOfFrames"))
    if frames > _MOST_FRAMES:
        raise Reject("declared_exceeds_bytes", tag_name("NumberOfFrames"))
    return max(1, frames)


def _choice(fields: Fields, keyword: str, default: int | None) -> bool:
    """An element that is 0 or 1; one without a default must be there."""
    value = fields.integer(keyword, default, "pixel_module")
    if value not in (0, 1):
        raise Reject("pixel_module", tag_name(keyword))
    return value == 1


def _remarks(header: Header, fields: Fields) -> tuple[str, ...]:
    """Flags of the header as a whole."""
    narrow = header.bits_stored < header.bits_allocated
    shape = fields.text("PresentationLUTShape").upper()
    flags = {
        # Raw detector values look unlike any image that is read from.
        "for_processing": fields.text("PresentationIntentType").upper() == "FOR PROCESSING",
        "lut_shape": _SHAPES.get(header.photometric, shape) != shape != "",
        "monochrome1": header.photometric == "MONOCHROME1",
        "sign_extended": header.signed and narrow,
        "ybr_converted": header.photometric.startswith("YBR"),
    }
    known = (*fields.flags, *bad_geometry(header.planes[0]))
    return tuple(dict.fromkeys((*known, *(flag for flag, holds in flags.items() if holds))))


def header_of(ds: Dataset, path: Path) -> Header:
    """The typed header of a parsed file that holds an image.

    Raises:
        Reject: A field that decides what the pixels mean is missing, malformed or contradictory.
    """
    fields = Fields(ds)
    frames = _frames(fields)
    acquired = _date(fields, "AcquisitionDate", "ContentDate", "StudyDate")
    bits_allocated = fields.integer("BitsAllocated", None, "pixel_module")
    bits_stored = fields.integer("BitsStored", None, "bad_bits")
    signed = _choice(fields, "PixelRepresentation", None)
    sex = fields.text("PatientSex").upper()
    sop_class = fields.uid("SOPClassUID")
    planes = planes_of(fields, frames)
    header = Header(
        path=path,
        modality=_modality(fields, sop_class, planes),
        transfer_syntax=str(ds.file_meta.get("TransferSyntaxUID", "")),
        sop_class=sop_class,
        sop=fields.uid("SOPInstanceUID"),
        study=fields.uid("StudyInstanceUID"),
        series=fields.uid("SeriesInstanceUID"),
        patient=fields.text("PatientID"),
        known=known_identifiers(fields),
        accession=fields.text("AccessionNumber"),
        rows=fields.integer("Rows", None, "pixel_module"),
        columns=fields.integer("Columns", None, "pixel_module"),
        frames=frames,
        samples=fields.integer("SamplesPerPixel", 1, "pixel_module"),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        signed=signed,
        photometric=fields.text("PhotometricInterpretation").upper(),
        planar=_choice(fields, "PlanarConfiguration", 0),
        planes=planes,
        series_number=fields.text("SeriesNumber"),
        body_part=fields.text("BodyPartExamined").upper(),
        padding=_padding(fields, signed),
        acquired=acquired,
        sex=sex if sex in ("M", "F", "O") else "",
        age_years=_age_years(fields, acquired),
        view=_view(fields),
        laterality=_laterality(fields),
        scanner=_scanner(fields),
        image_type=_image_type(fields),
        burned_in=fields.text("BurnedInAnnotation").upper(),
        conversion=fields.text("ConversionType").upper(),
        window=_window(fields),
        window_function=_window_function(fields),
    )
    _check_pixel_module(header, fields.integer("HighBit", bits_stored - 1, "high_bit"))
    return replace(header, flags=_remarks(header, fields))
