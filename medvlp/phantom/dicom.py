"""DICOM files of phantoms: one X-ray a file, or a CT series written from one encoded template."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from medvlp.phantom.patients import Patient

_MARK = 10**38
_SLOT = 16
"""Bytes of a decimal string, the longest that DICOM allows."""


def header(patient: Patient, modality: str, **elements: Any) -> Dataset:
    """The patient, study and equipment elements that all phantom files carry."""
    ds = Dataset()
    day = patient.acquired.strftime("%Y%m%d")
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.ContentTime = "120000"
    ds.Modality = modality
    ds.Manufacturer = patient.maker
    ds.ManufacturerModelName = patient.model
    ds.InstitutionName = patient.site
    ds.ReferringPhysicianName = ""
    ds.PatientName = patient.name
    ds.PatientID = patient.id
    ds.PatientBirthDate = ""
    ds.PatientSex = patient.sex
    ds.PatientAge = f"{patient.age:03d}Y"
    ds.BodyPartExamined = "CHEST"
    ds.StudyID = "1"
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


def write_radiograph(
    path: Path, pixels_HW: NDArray[np.uint16], patient: Patient, *, modality: str,
    inverted: bool, window: tuple[int, int] | None, spacing_mm: float, **elements: Any,
) -> None:  # fmt: skip
    """Write an X-ray of 12 bits in 16.

    Args:
        path: The new file.
        pixels_HW: Bright where the body is dense, whatever `inverted` says.
        patient: Whose header.
        modality: ``DX`` or ``CR``.
        inverted: Store as MONOCHROME1.
        window: Centre and width of the VOI window for `pixels_HW`, if the file has one.
        spacing_mm: Of rows and of columns.
        elements: Further elements by keyword, such as ``ViewPosition="PA"``.
    """
    ds = header(patient, modality, **elements)
    cr = modality == "CR"
    ds.SOPClassUID = (
        ComputedRadiographyImageStorage if cr else DigitalXRayImageStorageForPresentation
    )
    stored = 4095 - pixels_HW if inverted else pixels_HW
    _image(ds, stored.astype("<u2"), signed=False, bits=12)
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.ImagerPixelSpacing = [f"{spacing_mm:.4f}"] * 2
    ds.PatientOrientation = ["L", "F"]
    if window is not None:
        centre, width = window
        ds.WindowCenter = 4095 - centre if inverted else centre
        ds.WindowWidth = width
    if not cr:
        ds.PixelIntensityRelationship = "LOG"
        ds.PixelIntensityRelationshipSign = -1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
        ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
        ds.ImageLaterality = "U"
        ds.BurnedInAnnotation = "NO"
        ds.LossyImageCompression = "00"
    path.write_bytes(_encode(ds))


def write_ct_series(
    folder: Path, stored_DHW: NDArray[np.int16], patient: Patient, *, spacing_mm: tuple[float, ...],
    origin_mm: tuple[float, float, float], intercept: int, first_uid: int, order: NDArray[np.intp],
    reverse_numbers: bool, **elements: Any,
) -> None:  # fmt: skip
    """Write an axial CT series, one file a slice.

    Args:
        folder: New folder for ``0000.dcm``, ``0001.dcm`` ...
        stored_DHW: Stored values: HU = value + `intercept`; slices from foot to head, rows from
            front to back, columns from the patient's right to left.
        patient: Whose header.
        spacing_mm: Of slices, rows and columns.
        origin_mm: Position (x, y, z) of the first voxel, in DICOM's patient coordinates.
        intercept: Rescale intercept; the slope is 1.
        first_uid: Number of the first slice's UID; the others follow.
        order: Slice index -> file number: file names say nothing about positions.
        reverse_numbers: InstanceNumber falls from foot to head.
        elements: Further elements by keyword.
    """
    depth = len(stored_DHW)
    pieces = _template(stored_DHW[0], patient, spacing_mm, intercept, elements)
    folder.mkdir(parents=True)
    pixels = np.ascontiguousarray(stored_DHW, dtype="<i2")
    x, y = (f"{value:<{_SLOT}.6f}" for value in origin_mm[:2])
    for k in range(depth):
        z = origin_mm[2] + k * spacing_mm[0]
        number = depth - k if reverse_numbers else k + 1
        values = {
            "uid": f"2.25.{first_uid + k}",
            "number": f"{number:<6d}",
            "position": f"{x}\\{y}\\{z:<{_SLOT}.6f}",
            "location": f"{z:<{_SLOT}.6f}",
        }
        parts = [p if isinstance(p, bytes) else values[p].encode() for p in pieces]
        path = folder / f"{order[k]:04d}.dcm"
        path.write_bytes(b"".join(parts) + pixels[k].tobytes())


def _template(
    slice_HW: NDArray[np.int16], patient: Patient, spacing_mm: tuple[float, ...], intercept: int,
    elements: dict[str, Any],
) -> list[Any]:  # fmt: skip
    """An encoded slice cut at what differs between slices: bytes, or the name of a value.

    Every such value has a fixed length, so that the encoded lengths around it stay true.
    """
    depth_mm, row_mm, column_mm = (f"{value:.6f}" for value in spacing_mm)
    ds = header(patient, "CT", **elements)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"2.25.{_MARK}"
    ds.InstanceNumber = "777777"
    ds.ImagePositionPatient = ["1111111111111111", "2222222222222222", "3333333333333333"]
    ds.SliceLocation = "4444444444444444"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PatientPosition = "HFS"
    ds.PixelSpacing = [row_mm, column_mm]
    ds.SliceThickness = ds.SpacingBetweenSlices = depth_mm
    ds.KVP = 120
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = intercept, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    _image(ds, slice_HW.astype("<i2"), signed=True, bits=16)
    ds.PhotometricInterpretation = "MONOCHROME2"
    text = _encode(ds)
    text = text[: len(text) - slice_HW.nbytes]
    marks = {
        "uid": f"2.25.{_MARK}".encode(),
        "number": b"777777",
        "position": b"1111111111111111\\2222222222222222\\3333333333333333",
        "location": b"4444444444444444",
    }
    pieces: list[Any] = [text]
    for name, mark in marks.items():
        pieces = [cut for piece in pieces for cut in _cut(piece, mark, name)]
    return pieces


def _cut(piece: Any, mark: bytes, name: str) -> list[Any]:
    if not isinstance(piece, bytes):
        return [piece]
    cuts: list[Any] = []
    for part in piece.split(mark):
        cuts += [name, part]
    return cuts[1:]


def _image(ds: Dataset, pixels_HW: NDArray[Any], *, signed: bool, bits: int) -> None:
    ds.SamplesPerPixel = 1
    ds.Rows, ds.Columns = pixels_HW.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(signed)
    # Last among the elements, so that a series' template ends where the pixels begin.
    ds.add_new(0x7FE00010, "OW", pixels_HW.tobytes())


def _encode(ds: Dataset) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
