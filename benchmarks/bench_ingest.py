"""Files a second of `medvlp index` over 512 x 512 CT, beside bare pydicom on the same files.

python benchmarks/bench_ingest.py --files 1000 --rounds 3 --out benchmarks/results/DATE-ingest.md

Both read every file and decode every pixel in two processes, in turns, so that a change of the
machine's pace meets both. `medvlp index` does all its checks besides, assembles the series and
writes the manifest; its time is that of the whole command, from a fresh start.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree

import numpy as np
from page import command
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
GOALS = {"uncompressed": 100, "RLE": 100, "JPEG-LS": 100, "JPEG 2000": 60}
SIZE = 512
PATTERNS = 25
"""Different slices; an archive repeats them under identifiers of their own."""
SLICES = 50
"""Of one series."""
NOISE_HU = 20
PROCESSES = 2


def slices(seed: int = 0) -> Iterator[np.ndarray]:
    """Stored values of a trunk: air, fat, soft tissue, lungs and bone, smooth, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    for place in np.linspace(-0.5, 0.5, PATTERNS):
        hu = np.full((SIZE, SIZE), -1000.0)
        for cy, cx, ry, rx, value in (
            (0, 0, 0.62, 0.85, -100),
            (0, 0, 0.56, 0.79, 40),
            (-0.05, -0.38, 0.38, 0.28 + 0.1 * place, -850),
            (-0.05, 0.38, 0.38, 0.28 - 0.1 * place, -850),
            (0.38, 0, 0.11, 0.1, 700),
            (0.05, 0.08, 0.2 + 0.1 * place, 0.17, 60),
        ):
            depth = 1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2
            weight = 1 / (1 + np.exp(-60 * np.clip(depth, -1, 1)))
            hu = hu * (1 - weight) + value * weight
        hu += 15 * np.sin(9 * x + 20 * place) * np.cos(7 * y)
        yield np.clip(np.rint(hu + rng.normal(0, NOISE_HU, hu.shape)), -1024, 3071).astype(np.int16)


def template(pixels: np.ndarray, syntax: str) -> Dataset:
    """One slice, compressed."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Manufacturer, ds.ManufacturerModelName, ds.StudyDate = "Phantom", "One", "20200101"
    ds.Rows = ds.Columns = SIZE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelSpacing, ds.ImageOrientationPatient = [0.7, 0.7], [1, 0, 0, 0, 1, 0]
    ds.set_pixel_data((pixels + 1024).astype(np.uint16), "MONOCHROME2", 12)
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    return ds


def write_archive(folder: Path, syntax: str, count: int) -> int:
    """Write `count` files of series of their own; returns their bytes."""
    templates = [template(pixels, syntax) for pixels in slices()]
    for number in range(count):
        ds = templates[number % PATTERNS]
        series, place = divmod(number, SLICES)
        ds.PatientID, ds.StudyInstanceUID = f"P{series}", f"1.2.826.0.1.{series}.1"
        ds.SeriesInstanceUID = f"1.2.826.0.1.{series}.2"
        ds.SOPInstanceUID = f"1.2.826.0.1.{series}.3.{place}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.InstanceNumber, ds.ImagePositionPatient = place + 1, [-179, -179, 1.5 * place]
        path = folder / f"{series:04d}" / f"{place:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
    return sum(path.stat().st_size for path in folder.rglob("*.dcm"))


def read_bare(path: Path) -> int:
    """What bare pydicom does with a file."""
    return int(dcmread(path).pixel_array.shape[0])


def bare(folder: Path) -> None:
    """Read a folder with pydicom alone."""
    paths = sorted(folder.rglob("*.dcm"))
    with get_context("spawn").Pool(PROCESSES) as pool:
        assert sum(pool.imap_unordered(read_bare, paths, chunksize=16)) == SIZE * len(paths)


def index(folder: Path) -> None:
    """Run `medvlp index` on a folder."""
    out = folder.with_name("manifest")
    words = ["index", folder, "--kind", "dicom", "--out", out, "--set", f"workers={PROCESSES}"]
    subprocess.run(
        [sys.executable, "-m", "medvlp.cli", *map(str, words)], check=True, capture_output=True
    )
    rmtree(out)
    rmtree(out.with_name("manifest.private"))


def timed(run: Callable[[Path], None], folder: Path) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run(folder)
    return time.perf_counter() - start


def row(name: str, folder: Path, count: int, rounds: int) -> str:
    """A table's row: both in turns, the medians and how far the rounds lie apart."""
    size = write_archive(folder, SYNTAXES[name], count) / count / 1024
    bare(folder)  # so that the files are in memory for whoever comes first
    ours, theirs, ratios = [], [], []
    for _ in range(rounds):
        seconds, reference = timed(index, folder), timed(bare, folder)
        ours.append(count / seconds)
        theirs.append(count / reference)
        ratios.append(reference / seconds)
    return (
        f"| {name} | {size:.0f} | {middle(ours, 0)} | {GOALS[name]} | {middle(theirs, 0)} "
        f"| {middle(ratios, 2)} |"
    )


def middle(values: list[float], digits: int) -> str:
    """The median, and the least and greatest."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Print the table, and write it if told so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=SYNTAXES, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    lines = [
        "# Ingest: files a second",
        "",
        f"`{command()}`, "
        f"{PROCESSES} processes, {options.files} files of {SIZE} x {SIZE} CT a row "
        f"(noise {NOISE_HU} HU), median of {options.rounds} rounds in turns (least to greatest).",
        "",
        "| transfer syntax | KiB a file | medvlp index, files/s | goal | bare pydicom, files/s "
        "| ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name in [options.only] if options.only else SYNTAXES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, Path(folder) / "in", options.files, options.rounds))
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
