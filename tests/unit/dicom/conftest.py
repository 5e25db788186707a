"""DICOM files made for a test: every element can be overridden or left out (None)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

PLAIN = {
    "SOPClassUID": CTImageStorage,
    "StudyInstanceUID": "1.2.826.1",
    "SeriesInstanceUID": "1.2.826.1.1",
    "Modality": "CT",
    "PatientID": "PAT-0042",
    "PatientName": "Canary^Nightingale",
    "AccessionNumber": "ACC7",
    "PatientSex": "F",
    "PatientAge": "045Y",
    "StudyDate": "20200229",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 1,
    "PixelSpacing": [0.5, 0.75],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "ImagePositionPatient": [-10, -20, 30],
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
}


def write_dicom(path: Path, pixels: np.ndarray | None = None, **elements: Any) -> Path:
    """Write a CT slice of 6 x 5 unless told otherwise; elements given as None are left out."""
    if pixels is None:
        pixels = np.arange(30, dtype=np.int16).reshape(6, 5)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.826.9"
    grey = elements.get("SamplesPerPixel", 1) == 1
    rows, columns = pixels.shape[-2:] if grey else pixels.shape[:2]
    values = {
        **PLAIN,
        "SOPInstanceUID": f"1.2.826.9.{crc32(bytes(path))}",
        "Rows": rows,
        "Columns": columns,
        **elements,
    }
    for name, value in values.items():
        if value is not None and name != "pixel_bytes":
            setattr(ds, name, value)
    data = elements.get("pixel_bytes", pixels.tobytes())
    if data is not None:
        ds.add_new(0x7FE00010, "OW", data)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def dicom(tmp_path: Path) -> Callable[..., Path]:
    """``dicom(name, pixels, **elements)`` writes one file."""

    def make(name: str = "a.dcm", pixels: np.ndarray | None = None, **elements: Any) -> Path:
        return write_dicom(tmp_path / name, pixels, **elements)

    return make


@pytest.fixture
def series(tmp_path: Path) -> Callable[..., list[Path]]:
    """``series(positions, per_slice={index: {...}}, **elements)`` writes one file a position."""

    def make(
        positions: Sequence[Sequence[float]],
        volume: np.ndarray | None = None,
        per_slice: dict[int, dict[str, Any]] | None = None,
        folder: str = "s",
        **elements: Any,
    ) -> list[Path]:
        if volume is None:
            rng = np.random.default_rng(0)
            volume = rng.integers(0, 2000, (len(positions), 6, 5)).astype(np.int16)
        return [
            write_dicom(
                # Names run against the positions: order must come from geometry.
                tmp_path / folder / f"{len(positions) - k:03d}.dcm",
                volume[k],
                **{
                    **elements,
                    "ImagePositionPatient": [f"{x:.8g}" for x in position],
                    "SOPInstanceUID": f"1.2.826.7.{crc32(folder.encode())}.{k + 1}",
                    **(per_slice or {}).get(k, {}),
                },
            )
            for k, position in enumerate(positions)
        ]

    return make


def _item(**elements: Any) -> Dataset:
    ds = Dataset()
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


@pytest.fixture
def enhanced(dicom: Callable[..., Path]) -> Callable[..., Path]:
    """``enhanced(positions, content)``: a multi-frame CT, each frame full of its own number.

    Frame k has the rescale slope k + 1 and the intercept -5; `content` gives each frame's items of
    the frame content sequence.
    """

    def make(
        positions: Sequence[Sequence[float]],
        content: Sequence[dict[str, Any]] | None = None,
        name: str = "enhanced.dcm",
    ) -> Path:
        count = len(positions)
        pixels = np.arange(count, dtype=np.int16)[:, None, None] * np.ones((1, 6, 5), np.int16)
        moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        absent = dict.fromkeys((*moved, "RescaleSlope", "RescaleIntercept"))
        storage = EnhancedCTImageStorage
        path = dicom(name, pixels, NumberOfFrames=count, SOPClassUID=storage, **absent)
        ds = pydicom.dcmread(path)
        orientation = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        measures = _item(PixelSpacing=[0.5, 0.75], SliceThickness=9)
        ds.SharedFunctionalGroupsSequence = [
            _item(PlaneOrientationSequence=[orientation], PixelMeasuresSequence=[measures])
        ]
        ds.DimensionIndexSequence = [
            _item(DimensionIndexPointer=pointer) for pointer in (0x00209128, 0x00209057)
        ]
        ds.PerFrameFunctionalGroupsSequence = [
            _item(
                PlanePositionSequence=[_item(ImagePositionPatient=list(position))],
                FrameContentSequence=[_item(**(content[k] if content else {}))],
                PixelValueTransformationSequence=[
                    _item(RescaleSlope=k + 1, RescaleIntercept=-5, RescaleType="HU")
                ],
            )
            for k, position in enumerate(positions)
        ]
        ds.save_as(path)
        return path

    return make
