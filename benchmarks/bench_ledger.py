"""What a killed, repeated or shared `medvlp index` costs, and the memory it takes.

    python benchmarks/bench_ledger.py [--files 2000] [--kills 3] [--memory 1000,5000] [--out FILE]

The archive is made of small valid radiographs, with some files that are refused and some that are
none of ours. `tests/integration/test_resume.py` holds what is measured here to its promises.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from medvlp.archive.index import index_archive
from medvlp.archive.stage.ledger import Ledger
from medvlp.data.manifest import Manifest

NUMBER = 8
"""Digits of the number that makes a file's patient and image its own."""


def template(number: str) -> bytes:
    """A radiograph of 8 x 8 pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{number}"
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = f"1.2.826.0.1.{number}"
    ds.StudyInstanceUID = f"1.2.826.0.2.{number}"
    ds.SeriesInstanceUID = f"1.2.826.0.3.{number}"
    ds.Modality, ds.PatientID, ds.ImageType = "DX", f"P{number}", ["ORIGINAL", "PRIMARY"]
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelSpacing = ds.ImagerPixelSpacing = [0.15, 0.15]
    ds.PixelData = np.arange(64, dtype=np.uint16).tobytes()
    stream = BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def write_archive(folder: Path, files: range) -> None:
    """Files of the given numbers, a hundred in a folder; of ten, one is cut off and one a note."""
    mark = "1" * NUMBER
    whole = template(mark)
    for i in files:
        path = folder / f"{i // 100:04}" / f"{i:07}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = whole.replace(mark.encode(), f"{10 ** (NUMBER - 1) + i}".encode())
        if i % 10 == 3:
            data = data[:-40]
        if i % 10 == 7:
            path, data = path.with_suffix(".txt"), b"a note"
        path.write_bytes(data)


class Told(Ledger):
    """A ledger that tells, line by line, what is sent out to be read and what is stored."""

    log: Path

    def _tell(self, word: str, items: list) -> None:
        with self.log.open("a") as stream:
            stream.write("".join(f"{word} {item[0]}\n" for item in items))

    def pending(self, reading, items):  # noqa: ANN001, ANN201 - as its parent's
        for item in super().pending(reading, items):
            self._tell("sent", [item])
            yield item

    def store(self, reading, rows) -> None:  # noqa: ANN001 - as its parent's
        rows = list(rows)
        super().store(reading, rows)
        self._tell("stored", [item for item, _ in rows])


def run_once(source: str, out: str, log: str, key: str, workers: str) -> None:
    """Index, in a process of its own, and print what it came to."""
    import medvlp.archive.index as module

    Told.log = Path(log)
    module.Ledger = Told
    start = time.perf_counter()
    summary = index_archive(
        Path(source), kind="dicom", out=Path(out), replace=True,
        overrides=[f"workers={workers}"], key=Path(key) if key else None,
    )  # fmt: skip
    print(json.dumps({
        "seconds": time.perf_counter() - start,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "read": summary.read, "known": summary.known, "vanished": summary.vanished,
        **summary.counts(), "samples": summary.samples,
        "digest": Manifest.open(out).digest,
    }))  # fmt: skip


def start(source: Path, out: Path, log: Path, key: Path | None = None, workers: int = 2):  # noqa: ANN201
    """A process that runs `run_once`."""
    words = [sys.executable, __file__, "--run", source, out, log, key or "", workers]
    return subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> dict:
    """What a process came to."""
    out, err = process.communicate(timeout=1800)
    if process.returncode:
        raise RuntimeError(err)
    return json.loads(out)


def told(log: Path) -> list[tuple[str, str]]:
    """The log's whole lines: what, and which file."""
    text = log.read_text() if log.exists() else ""
    return [tuple(line.split(" ", 1)) for line in text.split("\n")[:-1]]


def kill_when(process: subprocess.Popen, log: Path, stored: int, delay_s: float) -> bool:
    """SIGKILL after so many files were stored in all, and a delay; whether it still ran."""
    log.touch()
    with log.open() as lines:
        seen = 0
        while process.poll() is None and seen < stored:
            seen += lines.read().count("stored ")
            time.sleep(0.02)
    time.sleep(delay_s)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def with_kills(source: Path, out: Path, log: Path, files: int, kills: int, seed: int = 0) -> dict:
    """Index in spite of kills: two in three while files are read, the others at any time after.

    Returns the figures of the last run, with `sent` (readings begun), `again` (readings of files
    that were stored before), `repeated` (readings begun more than once) and `killed`.
    """
    draw = random.Random(seed)
    late = kills // 3
    last_mark = max(2, int(0.95 * 0.9 * files))
    killed = 0
    for mark in sorted(draw.randrange(1, last_mark) for _ in range(kills - late)):
        killed += kill_when(start(source, out, log), log, mark, draw.uniform(0, 0.1))
    begin = time.perf_counter()
    finish(start(source, out, log))
    whole_s = time.perf_counter() - begin
    for _ in range(late):
        # All is known now: what is killed is walking, assembling or replacing the manifest.
        delay_s = draw.uniform(0.2, 1.0) * whole_s
        killed += kill_when(start(source, out, log), log, 0, delay_s)
    last = finish(start(source, out, log))
    stored: set[str] = set()
    sent: Counter[str] = Counter()
    again = 0
    for word, path in told(log):
        if word == "stored":
            stored.add(path)
        else:
            sent[path] += 1
            again += path in stored
    repeated = sum(sent.values()) - len(sent)
    return {**last, "sent": sum(sent.values()), "again": again, "repeated": repeated,
            "killed": killed}  # fmt: skip


def ends(out: Path) -> tuple[int, int]:
    """Files that a manifest accounts for, and those among them that it names twice."""
    manifest = Manifest.open(out)
    rejects = manifest.rejects.filter(pl.col("stage") != "row")
    sources = [*manifest.samples["source"], *rejects["source"]]
    paths = Counter(path for source in sources for path in manifest.paths(source))
    return len(paths), sum(count - 1 for count in paths.values())


def bench_kills(folder: Path, files: int, kills: int) -> list[str]:
    write_archive(folder / "a", range(files))
    broken = with_kills(folder / "a", folder / "broken", folder / "broken.log", files, kills)
    key = folder / "broken.private" / "key"
    whole = finish(start(folder / "a", folder / "whole", folder / "whole.log", key))
    seen, twice = ends(folder / "broken")
    return [
        f"| {files:,} files, {broken['killed']} SIGKILLs | lost {files - seen}, twice {twice}; "
        f"read again after being stored {broken['again']}; begun more than once "
        f"{broken['repeated']} ({broken['repeated'] / max(1, broken['killed']):.0f} a kill); "
        f"digest {'equal' if broken['digest'] == whole['digest'] else 'DIFFERENT'} "
        "to an uninterrupted run's |"
    ]


def bench_growth(folder: Path, files: int) -> list[str]:
    more = files // 10
    write_archive(folder / "g", range(files))
    first = finish(start(folder / "g", folder / "grown", folder / "g.log"))
    again = finish(start(folder / "g", folder / "grown", folder / "g.log"))
    write_archive(folder / "g", range(files, files + more))
    grown = finish(start(folder / "g", folder / "grown", folder / "g.log"))
    return [
        f"| {what} | {run['seconds']:.1f} s, read {run['read']:,}, known {run['known']:,} |"
        for what, run in (
            (f"{files:,} files, first run", first),
            ("the same again", again),
            (f"{more:,} more", grown),
        )
    ]


def bench_processes(folder: Path, files: int, processes: int) -> list[str]:
    write_archive(folder / "p", range(files))
    begin = time.perf_counter()
    running = [
        start(folder / "p", folder / "shared", folder / f"p{i}.log", workers=1)
        for i in range(processes)
    ]
    runs = [finish(process) for process in running]
    shares = ", ".join(
        f"{sum(word == 'stored' for word, _ in told(folder / f'p{i}.log')):,}"
        for i in range(processes)
    )
    same = len({run["digest"] for run in runs}) == 1
    return [
        f"| {files:,} files, {processes} processes of one worker | "
        f"{time.perf_counter() - begin:.1f} s; read {shares}; one manifest: {same} |"
    ]


def bench_memory(folder: Path, sizes: list[int]) -> list[str]:
    rows = []
    for size in sizes:
        write_archive(folder / f"m{size}", range(size))
        run = finish(start(folder / f"m{size}", folder / f"o{size}", folder / f"m{size}.log"))
        rows.append(
            f"| {size:,} files | peak RSS of the indexing process {run['rss_mib']:.0f} MiB; "
            f"{size / run['seconds']:.0f} files/s |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--memory", default="1000,5000")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", nargs=5)
    args = parser.parse_args()
    if args.run:
        run_once(*args.run)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = ["| case | measured |", "|---|---|"]
        rows += bench_kills(folder, args.files, args.kills)
        rows += bench_growth(folder, args.files)
        rows += bench_processes(folder, args.files, args.processes)
        rows += bench_memory(folder, [int(size) for size in args.memory.split(",")])
    title = "# Indexing that is killed, repeated, shared\n\n"
    command = f"`python benchmarks/bench_ledger.py --files {args.files} --kills {args.kills} "
    command += f"--processes {args.processes} --memory {args.memory}`, {os.cpu_count()} cores\n\n"
    text = title + command + "\n".join(rows) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
