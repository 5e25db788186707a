"""Folders of DICOM series whose truth is known: real ones, and others made from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

Fill = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A folder of files, and what is true of it."""

    name: str
    truth: str
    """Spacings between slices in mm, one a volume, or a code; several joined by ``+``."""
    repaired: str
    """The same with missing slices interpolated and tilt resampled."""
    fill: Fill | None = None
    """Writes the files; None where the name is a folder of the shared data."""


def real(name: str, truth: str, repaired: str = "") -> Case:
    return Case(f"dicom2nifti-awkward/{name}", truth, repaired or truth)


def dicom_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".dcm", ""))


def copies(paths: Sequence[Path], prefix: str = "") -> Fill:
    """Writes files as they are."""

    def fill(folder: Path) -> None:
        for path in paths:
            shutil.copyfile(path, folder / f"{prefix}{path.name}")

    return fill


def both(*fills: Fill) -> Fill:
    """Writes one after the other."""

    def fill(folder: Path) -> None:
        for one in fills:
            one(folder)

    return fill


def changed(paths: Sequence[Path], change: Callable[[Dataset], None], prefix: str = "") -> Fill:
    """Writes files with some elements changed, uncompressed."""

    def fill(folder: Path) -> None:
        for path in paths:
            ds = pydicom.dcmread(path)
            if ds.file_meta.TransferSyntaxUID.is_encapsulated:
                ds.decompress()
            change(ds)
            ds.save_as(folder / f"{prefix}{path.name}")

    return fill


def brighter(ds: Dataset) -> None:
    ds.PixelData = (ds.pixel_array + 1).astype(ds.pixel_array.dtype).tobytes()


def second_phase(ds: Dataset) -> None:
    brighter(ds)
    ds.AcquisitionNumber = 77


def lying(ds: Dataset) -> None:
    ds.SliceThickness, ds.SliceLocation, ds.InstanceNumber = 9, 0, 1


def nameless(ds: Dataset) -> None:
    for name in ("SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID", "Modality"):
        if name in ds:
            delattr(ds, name)


def enhanced(paths: Sequence[Path], times: int = 1) -> Fill:
    """Writes slices as one enhanced multi-frame file; later time points are brighter by 1."""

    def fill(folder: Path) -> None:
        enhance(paths, folder, times)

    return fill


def synthesised(data: Path) -> tuple[Case, ...]:
    """Duplicates, holes and mixtures of the real TotalSegmentator series and pydicom's CT5N."""
    whole = dicom_files(data / "ct-totalseg/example_ct_dicom")
    chest = dicom_files(data / "ct-cip/ct-64Dicom")
    head = dicom_files(pydicom_folder("98892001/CT5N"))
    clash, stray = "duplicate_position", "2.000+too_few_slices"
    rival = changed(whole[5:6], brighter, "other-")
    other_scan = changed(whole[5:6], second_phase, "other-")
    phase = changed(whole, second_phase, "other-")
    named = (
        ("one slice twice", "2.000", "2.000", both(copies(whole), copies(whole[5:6], "again-"))),
        ("the series twice", "2.000", "2.000", both(copies(whole), copies(whole, "again-"))),
        ("one slice lost", "spacing_gap", "2.000", copies([*whole[:9], *whole[10:]])),
        ("two slices lost", "spacing_gap", "2.000", copies([*whole[:9], *whole[11:]])),
        ("another slice in one place", clash, clash, both(copies(whole), rival)),
        ("a stray slice of another scan", stray, stray, both(copies(whole), other_scan)),
        ("two phases in one series", "2.000+2.000", "2.000+2.000", both(copies(whole), phase)),
        (
            "two unrelated series in one folder",
            "2.000+3.987",
            "2.000+3.987",
            both(copies(whole), copies(chest, "chest-")),
        ),
        ("thickness, location and number lie", "2.000", "2.000", changed(whole, lying)),
        ("without modality and identifiers", "2.500", "2.500", changed(head, nameless)),
        ("enhanced multi-frame", "2.500", "2.500", enhanced(head)),
        ("enhanced, two time points", "2.500+2.500", "2.500+2.500", enhanced(head, times=2)),
    )
    return tuple(Case(f"made: {name}", *rest) for name, *rest in named)


def pydicom_folder(name: str) -> Path:
    """A folder of pydicom's own test files."""
    return Path(pydicom.__file__).parent / "data/test_files/dicomdirtests" / name


def enhance(paths: Sequence[Path], folder: Path, times: int = 1) -> None:
    """The slices as one enhanced multi-frame file; later time points are brighter by 1."""
    slices = [pydicom.dcmread(path) for path in paths]
    ds, frames = pydicom.dcmread(paths[0]), []
    for time_point in range(times):
        for item in slices:
            position, content, frame = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = item.ImagePositionPatient
            content.TemporalPositionIndex = time_point + 1
            frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
            frames.append(frame)
    shared, orientation, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = ds.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = ds.PixelSpacing, 9
    rescale.RescaleSlope, rescale.RescaleIntercept = ds.RescaleSlope, ds.RescaleIntercept
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [rescale]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, name)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.SOPClassUID, ds.NumberOfFrames = pydicom.uid.EnhancedCTImageStorage, len(frames)
    planes = [item.pixel_array + t for t in range(times) for item in slices]
    ds.PixelData = np.stack(planes).astype(slices[0].pixel_array.dtype).tobytes()
    ds.save_as(folder / "enhanced.dcm")


def cases(data: Path) -> tuple[Case, ...]:
    own = {
        "CT5N": ("98892001", "2.500", "2.500"),
        "CT2N": ("98892001", "localizer", "localizer"),
        "CT2": ("77654033", "spacing_gap", "spacing_gap"),
    }

    return (
        real("failing/sliceincrement/001", "spacing_gap", "5.000"),
        real("failing/sliceincrement/002", "spacing_gap", "0.750"),
        real("failing/gantrytilting/001", "gantry_tilt", "4.851"),
        real("failing/notavolume/001", "constant_position"),
        real("failing/sliceorientation/001", "3.300+4.400"),
        real("failing/slicecount/001", "1.000"),
        real("ge/anatomical/001_single_slice", "too_few_slices"),
        real("generic/anatomical/002_non_isotropic", "0.500"),
        real("generic/compressed/001", "1.000"),
        real("generic/compressed_j2k/001", "1.000"),
        real("generic/compressed_jpeg/001", "1.000"),
        real("generic/compressed_jpegls/001", "1.000"),
        real("generic/compressed_rle/001", "1.000"),
        real("generic/rgb/001", "colour"),
        real("hyperfine/anatomical/001", "5.000"),
        real("philips_enhanced/anatomical/001", "1.200"),
        real("siemens_multiframe/anatomical/001", "0.900"),
        *(
            Case(
                f"pydicom {name}",
                truth,
                repaired,
                copies(dicom_files(pydicom_folder(f"{folder}/{name}"))),
            )
            for name, (folder, truth, repaired) in own.items()
        ),
        Case("ct-totalseg/example_ct_dicom", "2.000", "2.000"),
        Case("ct-cip/ct-64Dicom", "3.987", "3.987"),
        *synthesised(data),
    )
