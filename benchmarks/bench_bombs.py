"""Files made to exhaust a reader: time and memory until the verdict, each in a fresh process.

python benchmarks/bench_bombs.py [--out benchmarks/results/DATE-bombs.md]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from catalogue.cases_dicom_codecs import j2k_claiming  # noqa: E402
from catalogue.cases_dicom_files import SEQUENCE, in_place, nested, plain  # noqa: E402
from catalogue.raw import (  # noqa: E402
    DEFLATED,
    J2K_LOSSLESS,
    compressed,
    dataset,
    element,
    item,
    meta,
    part10,
    us,
    xray,
)

HARDWARE = "2-core x86-64, 24 GiB, no GPU"
ALLOWANCE_MB = 4096


def deflated_zeros(size: int) -> bytes:
    """A deflated data set that grows to `size` bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(2**24)
    front = dataset(xray("bomb")) + element(0x7FE10011, "OB", b"", length=size)
    parts = [packer.compress(front)]
    parts += [packer.compress(block) for _ in range(size // len(block))]
    return part10(meta(DEFLATED), b"".join(parts) + packer.flush())


def large_claim(syntax: str, fragment: bytes) -> bytes:
    """60000 x 60000 claimed by the header, and by the stream if it can."""
    elements = {**xray("claim"), 0x00280010: ("US", us(60000)), 0x00280011: ("US", us(60000))}
    return compressed(elements, syntax, [fragment])


BOMBS: dict[str, Callable[[], bytes]] = {
    "sound file": lambda: plain("sound"),
    "300 nested sequences": lambda: nested("a", 300, delimited=True),
    "20,000 nested sequences": lambda: nested("a", 20_000, delimited=True),
    "300 nested, defined lengths": lambda: nested("a", 300, delimited=False),
    "deflate to 3 GiB": lambda: deflated_zeros(3 * 2**30),
    "350,000 items": lambda: in_place(
        "a", SEQUENCE, element(SEQUENCE, "SQ", item(b"") * 350_000)
    ),
    "390,000 elements": lambda: in_place(
        "a", SEQUENCE, element(SEQUENCE, "SQ", item(element(0x00080050, "SH", b"") * 390_000))
    ),
    "JPEG 2000 of 60000 x 60000": lambda: large_claim(J2K_LOSSLESS, j2k_claiming(60000)),
}  # fmt: skip


@contextmanager
def written(data: bytes) -> Iterator[Path]:
    """The bytes as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bomb.dcm"
        path.write_bytes(data)
        yield path


def measure(data: bytes) -> dict[str, float | str]:
    """Verdict, seconds and MiB beyond those of an idle process, in a process of its own."""
    with written(data) as path:
        done = subprocess.run(
            [sys.executable, __file__, "--file", str(path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


def read(path: Path) -> None:
    """Read one file under a memory limit and print what it took."""
    from medvlp.archive.dicom.scan import scan_file
    from medvlp.archive.verdict import Verdict

    resource.setrlimit(resource.RLIMIT_AS, (ALLOWANCE_MB * 2**20,) * 2)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    try:
        scan_file((path,), units={"DX": "file"})
        verdict = "ACCEPT"
    except Verdict as refused:
        verdict = str(refused)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"verdict": verdict, "s": seconds, "mb": (peak - idle) / 1024}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.file:
        read(args.file)
        return
    lines = [
        "# Bombs",
        "",
        f"`python benchmarks/bench_bombs.py` on {HARDWARE}; MiB beyond an idle reading process.",
        "",
        "| file | MB | verdict | s | MiB |",
        "|---|---|---|---|---|",
    ]
    for name, make in BOMBS.items():
        data = make()
        found = measure(data)
        lines.append(
            f"| {name} | {len(data) / 1e6:.2f} | {found['verdict']} | {found['s']:.3f} "
            f"| {found['mb']:.0f} |"
        )
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
