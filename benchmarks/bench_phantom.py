"""Phantoms written a minute: X-rays of 256 x 256 and CT series of 64 slices of 128 x 128.

Usage: python benchmarks/bench_phantom.py [domain ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from medvlp.phantom.write import write_phantom

CASES = {
    "cxr": ("images", "dicom/*/*.dcm", 400, ["size=256"]),
    "volumetric": ("series", "dicom/*/*", 60, ["slices=64", "size=128"]),
    "video": ("procedures", "videos/*.mp4", 6, ["seconds=60", "size=224", "fps=25"]),
}


def rate(domain: str) -> tuple[int, float]:
    """How many of the case's items were written, and the seconds from call to whole archive."""
    _, pattern, patients, settings = CASES[domain]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_phantom(domain, Path(folder) / "phantom", n=patients, seed=0, settings=settings)
        seconds = time.perf_counter() - start
        return len(list((Path(folder) / "phantom").glob(pattern))), seconds


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| domain | settings | written | s | a minute |")
    print("|---|---|---|---|---|")
    for domain in sys.argv[1:] or CASES:
        unit, _, _, settings = CASES[domain]
        count, seconds = rate(domain)
        speed = 60 * count / seconds
        print(f"| {domain} | {' '.join(settings)} | {count} {unit} | {seconds:.1f} | {speed:.0f} |")


if __name__ == "__main__":
    main()
