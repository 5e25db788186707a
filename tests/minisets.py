"""Miniatures of published data sets: images and DICOM files of few kinds, and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from medvlp.archive.dicom.files import quiet
from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.data.verify import verify_manifest


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def picture(path: Path, seed: int, shape=(24, 32)) -> Path:
    """A PNG or JPEG of noise, another for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def captured(path: Path, seed: int, *, shape=(24, 32), inverted=False, **elements) -> np.ndarray:
    """A radiograph as challenges ship it, a secondary capture; returns what it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    # Ages without a unit are written so, and pydicom warns of them.
    with quiet():
        ds = Dataset()
        ds.SOPClassUID = SecondaryCaptureImageStorage
        ds.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{seed + 1}"
        ds.StudyInstanceUID = ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.8.499.{seed + 1}"
        ds.Modality, ds.ConversionType = "CR", "WSD"
        ds.PatientID, ds.PatientName = path.stem, path.stem
        ds.PatientAge, ds.PatientSex, ds.ViewPosition = "51", "F", "AP"
        ds.Rows, ds.Columns = shape
        ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
        for name, value in elements.items():
            setattr(ds, name, value)
        data = (255 - shown if inverted else shown).tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        dcmwrite(path, ds, enforce_file_format=True)
    return shown


class Indexed:
    """A set read into a manifest that every check passed."""

    def __init__(
        self, root: Path, kind: str, out: Path, *settings: str, key: Path | None = None
    ) -> None:
        self.root = root
        overrides = ("workers=1", "duplicates=exact", *settings)
        self.summary = index_archive(root, kind=kind, out=out, overrides=overrides, key=key)
        verify_manifest(out)
        self.manifest = manifest = Manifest.open(out)
        counts = self.summary.counts()
        files = sum(path.is_file() for path in root.rglob("*"))
        assert counts["found"] == files
        assert files == counts["accepted"] + counts["quarantined"] + counts["ignored"]
        splits = manifest.samples.group_by("patient").agg(pl.col("split").n_unique())
        assert splits["split"].to_list() == [1] * splits.height
        # Copies of texts are the core's to count.
        notes = manifest.info["notes"].items()
        self.notes = {name: n for name, n in notes if not name.startswith("reports_alike")}
        self.names = {
            row["sample"]: manifest.paths(row["source"])[0].relative_to(root).as_posix()
            for row in manifest.samples.to_dicts()
        }
        self.samples = {self.names[row["sample"]]: row for row in manifest.samples.to_dicts()}

    @property
    def codes(self) -> list[tuple[str, str]]:
        """Stage and code of all that was not taken in, sorted."""
        return sorted(self.manifest.rejects.select("stage", "code").rows())

    def labels(self, name: str) -> dict[str, float | None]:
        """Image -> value of one label."""
        rows = self.manifest.labels.filter(pl.col("name") == name)
        return {self.names[s]: value for s, value in rows.select("sample", "value").iter_rows()}

    def regions(self, image: str) -> list[tuple[str, str, list[float] | None]]:
        """Name, kind and geometry of an image's regions."""
        rows = self.manifest.regions.filter(pl.col("sample") == self.samples[image]["sample"])
        return sorted(rows.select("name", "kind", "geometry").rows())

    def columns(self, *names: str) -> dict[str, tuple]:
        """Image -> the named columns of its sample."""
        return {image: tuple(row[n] for n in names) for image, row in self.samples.items()}
