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


def processor_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def rate(domain: str) -> tuple[int, float, float]:
    """Items written, seconds from call to whole archive, and processor seconds in all."""
    _, pattern, patients, settings = CASES[domain]
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), processor_seconds()
        write_phantom(domain, Path(folder) / "phantom", n=patients, seed=0, settings=settings)
        seconds, used = time.perf_counter() - start, processor_seconds() - used
        return len(list((Path(folder) / "phantom").glob(pattern))), seconds, used


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("| domain | settings | written | s | a minute | processor s |")
    print("|---|---|---|---|---|---|")
    for domain in sys.argv[1:] or CASES:
        unit, _, _, settings = CASES[domain]
        count, seconds, used = rate(domain)
        print(
            f"| {domain} | {' '.join(settings)} | {count} {unit} | {seconds:.1f} "
            f"| {60 * count / seconds:.0f} | {used:.1f} |"
        )


if __name__ == "__main__":
    main()
