"""An archive in which everything that may name somebody carries a marker of its own."""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

NESTING = 6
_TEXT_VRS = {
    "AE": 0x00080055, "CS": 0x00080068, "LO": 0x00081030, "LT": 0x00104000,
    "PN": 0x00080090, "SH": 0x00081010, "ST": 0x00080081, "UC": 0x00189367, "UR": 0x00081190,
    "UT": 0x00880904,
}  # fmt: skip
_KEYWORDS = (
    "PatientID", "PatientName", "OtherPatientNames", "PatientAddress", "PatientMotherBirthName",
    "MedicalRecordLocator", "PatientComments", "InstitutionName", "InstitutionAddress",
    "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName", "StudyDescription",
    "SeriesDescription", "ProtocolName", "StationName", "AdditionalPatientHistory", "ImageComments",
    "RequestedProcedureDescription", "PatientBirthName", "EthnicGroup", "Occupation",
    "DeviceSerialNumber", "AccessionNumber", "StudyID", "PhysiciansOfRecord", "RequestingService",
)  # fmt: skip


@dataclass
class Markers:
    """Distinct made-up words, each planted once."""

    made: dict[str, str] = field(default_factory=dict)
    """Marker -> what kind of place it is in."""

    def new(self, place: str, short: bool = False) -> str:
        """A word that occurs nowhere else: letters alone, so that it may be a name as well."""
        number, letters = len(self.made) + 17, ""
        for _ in range(5):
            number, rest = divmod(number * 7919 % 11881376 if not letters else number, 26)
            letters += chr(65 + rest)
        word = f"Q{letters}X" if short else f"Zq{letters.lower()}xv{len(self.made):04}"
        while word in self.made:
            word += "K"
        self.made[word] = place
        return word

    def uid(self) -> str:
        """An identifier of digits."""
        value = f"1.2.826.0.1.{7_310_000_000 + len(self.made) * 104729}.{len(self.made)}"
        self.made[value] = "uid"
        return value


def dataset(marks: Markers, *, tall: bool = False) -> Dataset:
    """An X-ray header with markers in every place that may hold words."""
    ds = Dataset()
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, marks.uid())
    ds.FrameOfReferenceUID = marks.uid()
    ds.Modality, ds.BurnedInAnnotation, ds.PatientSex = "DX", "NO", "F"
    ds.PatientBirthDate, ds.StudyDate = "19410203", "20190817"
    for keyword in _KEYWORDS:
        setattr(ds, keyword, marks.new(f"element {keyword}", short=keyword == "AccessionNumber"))
    for vr, tag in _TEXT_VRS.items():
        short = vr in ("AE", "CS", "SH")
        ds.add_new(tag, vr, marks.new(f"VR {vr}", short=short))
    block = ds.private_block(0x0011, "MAKER", create=True)
    for k, vr in enumerate(("LO", "UN", "OB", "PN", "UT")):
        word = marks.new(f"private {vr}")
        block.add_new(k, vr, word.encode().ljust(20) if vr in ("UN", "OB") else word)
    nested, owner = ds, ds
    for level in range(NESTING):
        item = Dataset()
        item.PatientName = marks.new(f"sequence level {level}")
        item.ReferencedSOPInstanceUID = marks.uid()
        item.private_block(0x0013, "MAKER", create=True).add_new(1, "LO", marks.new("private item"))
        owner.add_new(0x00081115 if level % 2 else 0x00400275, "SQ", Sequence([item]))
        owner = item
    assert nested is ds
    word = marks.new("overlay").encode()
    ds.add_new(0x60000010, "US", 8)
    ds.add_new(0x60000011, "US", 8 * len(word))
    ds.add_new(0x60003000, "OW", word + b"\0" * (len(word) * 7))
    ds.add_new(0x60000022, "LO", marks.new("overlay description"))
    rows = 24 + 2 * tall
    ds.Rows, ds.Columns, ds.SamplesPerPixel = rows, 20, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    values = np.arange(rows * 20, dtype="<u2").reshape(rows, 20) % 4000
    ds.PixelData = (values + len(marks.made) % 90).astype("<u2").tobytes()
    return ds


def write(ds: Dataset, path: Path, marks: Markers) -> bytes:
    """Write a DICOM file whose preamble carries a marker; its bytes."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationVersionName = marks.new("file meta", short=True)
    ds.preamble = marks.new("preamble").encode().ljust(128, b"\0")
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def plant_dicom(root: Path, marks: Markers, good: int = 16, bad: int = 24) -> None:
    """Good files, files damaged in many ways, and reports that repeat their headers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _plant_dicom(root, marks, good, bad)


def _plant_dicom(root: Path, marks: Markers, good: int, bad: int) -> None:
    rows = []
    for k in range(good + bad):
        ds = dataset(marks)
        folder = root / marks.new("folder name") / marks.new("folder name")
        file = folder / f"{marks.new('file name')}.dcm"
        data = write(ds, file, marks)
        rows.append({"accession": str(ds.AccessionNumber), "text": _report(ds)})
        rows[-1]["unused"] = marks.new("unused column")
        if k >= good:
            file.write_bytes(_damaged(data, k))
    pl.DataFrame(rows).write_csv(root.parent / "reports.csv")
    (root / f"{marks.new('file name')}.txt").write_text(marks.new("stray text"))
    (root / marks.new("file name")).symlink_to(root / marks.new("link target"))


def _report(ds: Dataset) -> str:
    return (
        f"FINDINGS: {ds.PatientName} (ID {ds.PatientID}, accession {ds.AccessionNumber}, born "
        f"03.02.1941) was referred by Dr. {ds.ReferringPhysicianName} of {ds.InstitutionName}. "
        f"Heart normal. IMPRESSION: Seen 17 August 2019 by {ds.OperatorsName}; nodule of 1.2 cm."
    )


def _damaged(data: bytes, kind: int) -> bytes:
    """One of the ways in which a file can be bad."""
    at = 200 + (kind * 977) % (len(data) - 400)
    ways = (
        lambda: data[:at],
        lambda: data[: at // 4],
        lambda: data[:-1],
        lambda: data + b"tail" * 50,
        lambda: data[:at] + bytes((kind * 37 % 256,)) * 24 + data[at + 24 :],
        lambda: data.replace(b"DICM", b"XXXX", 1),
        lambda: data.replace(struct.pack("<HH", 0x28, 0x10), struct.pack("<HH", 0x28, 0x9999), 1),
        lambda: data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :],
    )
    return ways[kind % len(ways)]()


def plant_pictures(root: Path, marks: Markers, count: int = 60) -> Path:
    """PNG and JPEG with comments, NIfTI with descriptions, and the table that names them."""
    root.mkdir(parents=True)
    rows = []
    for k in range(count):
        name = marks.new("file name")
        values = np.arange(400, dtype=np.uint8).reshape(20, 20) + np.uint8(k)
        if k % 2:
            path = root / f"{name}.png"
            info = PngImagePlugin.PngInfo()
            info.add_text("Comment", marks.new("png comment"))
            info.add_itxt("Author", marks.new("png author"))
            Image.fromarray(values).save(path, pnginfo=info)
        else:
            path = root / f"{name}.jpg"
            exif = Image.Exif()
            exif[0x010E] = marks.new("jpeg exif")
            Image.fromarray(values).save(path, comment=marks.new("jpeg comment"), exif=exif)
        if k % 5 == 0:
            path.write_bytes(path.read_bytes()[: 150 + 3 * k])
        rows.append(
            {
                "path": path.name,
                "patient": marks.new("column patient"),
                "study": marks.new("column study"),
                "accession": marks.new("column accession"),
                "series": marks.new("column series"),
                "nobody_asked": marks.new("unused column"),
                "text": f"FINDINGS: Clear. Dr. {marks.new('name behind title')} agrees.",
            }
        )
    rows.append(dict.fromkeys(rows[0], None) | {"path": marks.new("missing file")})
    table = root / "table.csv"
    pl.DataFrame(rows).write_csv(table)
    return table


def plant_volumes(root: Path, marks: Markers, count: int = 10) -> None:
    """NIfTI volumes whose header fields carry markers; some are damaged."""
    root.mkdir(parents=True)
    for k in range(count):
        image = nib.Nifti1Image(np.zeros((8, 8, 6), np.int16), np.diag([2.0, 2.0, 3.0, 1.0]))
        image.header["descrip"] = marks.new("nifti descrip")
        image.header["intent_name"] = marks.new("nifti intent", short=True)[:15]
        image.header["db_name"] = marks.new("nifti db", short=True)[:17]
        image.header["aux_file"] = marks.new("nifti aux")
        comment = nib.nifti1.Nifti1Extension(6, marks.new("nifti extension").encode())
        image.header.extensions.append(comment)
        path = root / f"{marks.new('file name')}.nii"
        nib.save(image, path)
        if k % 2:
            path.write_bytes(path.read_bytes()[: 300 + 40 * k])


def leaks(marks: Markers, *places: Path) -> list[str]:
    """Markers that stand in a file, or in its name, in any of the places (Parquet unpacked)."""
    texts = []
    for place in places:
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for file in files:
            texts.append(str(file.relative_to(place.parent)).encode())
            if file.is_file():
                texts += _contents(file)
    everything = b"\n".join(texts).lower()
    found = [word for word in marks.made if word.lower().encode() in everything]
    return [f"{marks.made[word]}" for word in found]


def _contents(file: Path) -> list[bytes]:
    data = file.read_bytes()
    if file.suffix == ".parquet":
        frame = pl.read_parquet(file)
        return [data, frame.write_ndjson().encode()]
    if data[:2] == b"\x1f\x8b":
        return [zlib.decompress(data, 31)]
    return [data]
