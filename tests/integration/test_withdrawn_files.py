"""After a withdrawal the private folder holds no byte of what was read of the patient's files."""

import json
import sqlite3
import zlib
from contextlib import closing

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from medvlp.archive.index import index_archive
from medvlp.archive.privacy.rewrite import rekey
from medvlp.data.manifest import Manifest
from medvlp.data.verify import verify_manifest
from medvlp.errors import InputError
from medvlp.forget import check_forgotten, forget

NUMBER, NAME, ACCESSION, WORDS = "QZ7714410", "Zyxwander", "QACC551", "qindication"
MARKERS = (NUMBER, NAME, ACCESSION, WORDS)


def xray(path, number, *, patient, name, accession):
    ds = Dataset()
    ds.PatientID, ds.PatientName, ds.AccessionNumber = patient, f"{name}^Ann", accession
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{number}", f"1.2.{number}.1"
    ds.Modality = "DX"
    ds.Rows = ds.Columns = 24
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = np.random.default_rng(number).integers(0, 4096, (24, 24)).astype("<u2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    storage = DigitalXRayImageStorageForPresentation
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = storage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}.1.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def report(number, text, patient):
    return {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "identifier": [{"type": {"coding": [{"code": "ACSN"}]}, "value": number}],
        "subject": {"identifier": {"value": patient}},
        "code": {"text": "Chest"},
        "presentedForm": [],
        "conclusion": text,
    }


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "in"
    told = tmp_path / "told"
    told.mkdir()
    for i in range(5):
        xray(root / f"{i}" / "a.dcm", i + 1, patient=f"MRN{i}", name="Miller", accession=f"A{i}")
        (told / f"A{i}.txt").write_text(f"FINDINGS: Heart of size {i}.")
    mine = {"patient": NUMBER, "name": NAME, "accession": ACCESSION}
    xray(root / f"{NAME}_Ann" / "a.dcm", 40, **mine)
    xray(root / f"{NAME}_Ann" / "b.dcm", 41, **mine)
    (root / NUMBER).mkdir()
    (root / NUMBER / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (told / f"{ACCESSION}.txt").write_text(f"FINDINGS: {WORDS} none.")
    both = [report("A1", "Second opinion.", "MRN1"), report(ACCESSION, WORDS, NUMBER)]
    (told / "all.ndjson").write_text("\n".join(map(json.dumps, both)))
    return root


def index(archive, out, **options):
    reports = f"reports={archive.parent / 'told'}"
    return index_archive(
        archive, kind="dicom", out=out, overrides=["workers=1", reports], **options
    )


def readings(manifest):
    with closing(sqlite3.connect(manifest.private / "ledger.sqlite")) as db:
        rows = db.execute("SELECT item, result FROM readings").fetchall()
    return {item: (blob, zlib.decompress(blob).decode()) for item, blob in rows}


def assert_gone(manifest, blobs):
    for file in (p for d in (manifest.path, manifest.private) for p in d.rglob("*")):
        data = str(file).encode() + (file.read_bytes() if file.is_file() else b"")
        assert [m for m in MARKERS if m.lower().encode() in data.lower()] == [], file.name
        assert not [blob for blob in blobs if blob in data], file.name
    told = "".join(item + text for item, (_, text) in readings(manifest).items())
    assert [marker for marker in MARKERS if marker in told] == []


def test_nothing_that_was_read_of_a_withdrawn_patient_is_left(archive, tmp_path):
    index(archive, tmp_path / "m")
    before = Manifest.open(tmp_path / "m")
    held = [
        (blob, text)
        for item, (blob, text) in readings(before).items()
        if any(marker in item + text for marker in MARKERS)
    ]
    assert len(held) >= 4, "two images, a report of its own, and one among others"
    prints = [json.loads(t)["result"]["pixels"]["fingerprint"] for _, t in held if "pixels" in t]
    assert len(prints) == 2
    assert all(prints)
    forget(tmp_path / "m", [NUMBER], [])
    after = Manifest.open(tmp_path / "m")
    verify_manifest(after.path)
    assert after.samples.height == 5
    assert_gone(after, [blob for blob, _ in held])
    assert not any(p in text for p in prints for _, text in readings(after).values())
    assert ": 0 found" in check_forgotten(after.path, [])
    # A later import knows the files without reading them, and keeps nothing of a new one.
    xray(
        archive / "late" / "c.dcm", 42, patient=NUMBER, name=NAME, accession=ACCESSION
    )  # fmt: skip
    summary = index(archive, tmp_path / "m", replace=True)
    again = Manifest.open(tmp_path / "m")
    verify_manifest(again.path)
    assert again.samples["sample"].to_list() == after.samples["sample"].to_list()
    assert summary.read == 2, "the new image, and the file that others share"
    assert (again.rejects["code"] == "withdrawn").sum() == 5
    assert_gone(again, [blob for blob, _ in held])
    assert ": 0 found" in check_forgotten(again.path, [])
    assert index(archive, tmp_path / "m", replace=True).read == 1
    # Neither does one under a rotated key.
    rekey(tmp_path / "m", tmp_path / "n")
    assert index(archive, tmp_path / "n", replace=True).read == 1
    rotated = Manifest.open(tmp_path / "n")
    assert rotated.samples.height == 5
    assert_gone(rotated, [blob for blob, _ in held])


def test_a_reading_that_is_left_is_found(archive, tmp_path):
    index(archive, tmp_path / "m")
    private = Manifest.open(tmp_path / "m").private
    kept = (private / "ledger.sqlite").read_bytes()
    forget(tmp_path / "m", [NUMBER], [])
    (private / "ledger.sqlite").write_bytes(kept)
    with pytest.raises(InputError, match=r"m\.private"):
        check_forgotten(tmp_path / "m", [])
    forget(tmp_path / "m", [NUMBER], [])
    assert ": 0 found" in check_forgotten(tmp_path / "m", [])
