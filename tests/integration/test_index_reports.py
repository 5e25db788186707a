"""Structured Reports among the images, and a table beside them, through `medvlp index`."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    XRayRadiationDoseSRStorage,
)

from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest


def write(path, ds, storage, uid):
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = storage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def study(number):
    ds = Dataset()
    ds.PatientID, ds.PatientName = f"MRN{number}", "Doe^Jane"
    ds.StudyInstanceUID, ds.AccessionNumber = f"1.2.{number}", f"A{number}"
    return ds


def xray(path, number):
    ds = study(number)
    ds.Modality, ds.SeriesInstanceUID = "DX", f"1.2.{number}.1"
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    pixels = np.arange(256, dtype="<u2") + number
    ds.PixelData = pixels.tobytes()
    write(path, ds, DigitalXRayImageStorageForPresentation, f"1.2.{number}.1.1")


def structured(path, number, words, storage=BasicTextSRStorage, **values):
    ds = study(number)
    ds.Modality, ds.SeriesInstanceUID = "SR", f"1.2.{number}.2"
    ds.ValueType, ds.CompletionFlag, ds.VerificationFlag = "CONTAINER", "COMPLETE", "VERIFIED"
    name, told = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "1", "DCM", "Impression"
    told.RelationshipType, told.ValueType, told.TextValue = "CONTAINS", "TEXT", words
    told.ConceptNameCodeSequence = [name]
    ds.ContentSequence = [told]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    write(path, ds, storage, f"1.2.{number}.2.1")


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(1, 6):
        xray(folder / f"x{number}.dcm", number)
    structured(folder / "s1.dcm", 1, "Ms Doe is well.")
    structured(folder / "s2.dcm", 2, "Told in a table, too.")
    structured(folder / "s3.dcm", 3, "Not seen yet.", VerificationFlag="UNVERIFIED")
    structured(folder / "s4.dcm", 4, "Dose.", storage=XRayRadiationDoseSRStorage)
    structured(folder / "s5.dcm", 5, "Of another.", PatientID="MRN1")
    (folder / "ris.csv").write_text("accession,text\nA2,IMPRESSION: Clear.\n")
    return folder


def index(archive, tmp_path, *overrides):
    index_archive(archive, kind="dicom", out=tmp_path / "m", overrides=overrides)
    manifest = Manifest.open(tmp_path / "m")
    texts = manifest.texts.filter(level="report").select("sample", "text").rows()
    flags = dict(manifest.samples.select("sample", "flags").rows())
    told = {text: [f for f in flags[sample] if "report" in f] for sample, text in texts}
    codes = sorted(manifest.rejects["code"].to_list())
    return told, codes, sum("no_text" in f for f in flags.values())


def test_structured_reports_among_the_images(archive, tmp_path):
    told, codes, silent = index(archive, tmp_path, "reports=ris.csv")
    assert told == {
        "Impression: Ms ___ is well.": [],
        "IMPRESSION: Clear.": [],
        "Impression: Not seen yet.": ["preliminary_report"],
    }
    assert codes == ["no_pixels", "pair_conflict", "superseded_report"]
    assert silent == 2


def test_structured_reports_can_be_left_out(archive, tmp_path):
    told, codes, silent = index(
        archive, tmp_path, "reports=ris.csv", "options.structured_reports=false"
    )
    assert told == {"IMPRESSION: Clear.": []}
    assert (codes, silent) == (["no_pixels"] * 5, 4)
