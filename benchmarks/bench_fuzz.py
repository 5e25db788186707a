"""Damaged files by the hundred thousand: nothing but verdicts, nothing slow, little memory.

Every mutant of `catalogue.mutants` goes through the function that a reading process calls for its
format. Workers are ended and replaced when a native decoder takes them down, as in an index run.

    python benchmarks/bench_fuzz.py --mutants 200000 --workers 2 [--first 0] [--seed 0]
    [--out benchmarks/results/DATE-fuzz.md]

Any range can be run by itself: mutant `i` of a seed is always the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

SLOW_S = 5.0
KILL_S = 30.0
MEMORY_MB = 512
ADDRESS_GIB = 6
UNITS = {"CT": "series", "DX": "file"}
BLOCK = 100
HARDWARE = "2-core x86-64, 24 GiB, no GPU"


@dataclass
class Result:
    """What came of a range of mutants."""

    verdicts: Counter[str] = field(default_factory=Counter)
    untyped: list[str] = field(default_factory=list)
    """Index and type of every exception that was no verdict."""
    crashes: list[str] = field(default_factory=list)
    """Index and seed of every mutant that took its process down."""
    hangs: list[int] = field(default_factory=list)
    nonfinite: list[int] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_mb: float = 0.0
    base_mb: float = 0.0
    wall_s: float = 0.0

    @property
    def mutants(self) -> int:
        """How many ended in a verdict or an acceptance."""
        return sum(self.verdicts.values())


def main() -> None:
    """Run a range and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.seed)
        return
    result = run(args.seed, args.first, args.mutants, args.workers)
    lines = report(result, args)
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(bool(result.untyped or result.hangs or result.nonfinite))


def run(seed: int, first: int, count: int, workers: int) -> Result:
    """Send mutants `first` to ``first + count`` through worker processes."""
    result, start = Result(), time.monotonic()
    waiting = iter(range(first, first + count, BLOCK))
    team = [Worker(seed, result, waiting, first + count) for _ in range(workers)]
    with selectors.DefaultSelector() as selector:
        while busy := [worker for worker in team if worker.feed()]:
            for worker in busy:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            for key, _ in selector.select(1.0):
                key.data.hear()
            for worker in busy:
                selector.unregister(worker.watched)
                worker.check()
    for worker in team:
        worker.close()
    result.wall_s = time.monotonic() - start
    return result


class Worker:
    """One process that reads mutants, and the blocks that it is given."""

    def __init__(self, seed: int, result: Result, waiting: Iterator[int], stop: int) -> None:
        self.seed, self.result, self.waiting, self.stop = seed, result, waiting, stop
        self.block: list[int] = []
        self._start()

    @property
    def answers(self) -> Any:
        """Where it answers; remembered, for the process may be replaced meanwhile."""
        self.watched = self.process.stdout
        return self.watched

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", "--seed", str(self.seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.rest = b""
        self.heard = time.monotonic()

    def feed(self) -> bool:
        """Give it a block if it has none; false when there is nothing left."""
        if not self.block:
            first = next(self.waiting, None)
            if first is None:
                return False
            self.block = list(range(first, min(first + BLOCK, self.stop)))
            self._send()
        return True

    def _send(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(self.block).encode() + b"\n")
        self.heard = time.monotonic()

    def hear(self) -> None:
        """Take what it says: a line a mutant, or nothing where the process has ended."""
        assert self.process.stdout is not None
        said = self.process.stdout.read(1 << 16)
        if not said:
            self._ended("crashes")
            return
        self.heard = time.monotonic()
        *lines, self.rest = (self.rest + said).split(b"\n")
        for line in lines:
            self._count(self.block.pop(0), json.loads(line))

    def _count(self, index: int, found: dict[str, Any]) -> None:
        result = self.result
        result.verdicts[found["verdict"]] += 1
        result.slowest_s = max(result.slowest_s, found["s"])
        result.peak_mb = max(result.peak_mb, found["mb"])
        result.base_mb = max(result.base_mb, found["base"])
        if found["verdict"].startswith("UNTYPED"):
            result.untyped.append(f"{index} {found['verdict']}")
        if found["verdict"] == "NONFINITE":
            result.nonfinite.append(index)
        if found["s"] > SLOW_S:
            result.hangs.append(index)

    def check(self) -> None:
        """Kill it if it has been silent for too long."""
        if self.block and time.monotonic() - self.heard > KILL_S:
            self.process.kill()
            self._ended("hangs")

    def _ended(self, how: str) -> None:
        self.process.kill()
        self.process.wait()
        if self.block:
            index = self.block.pop(0)
            self.result.verdicts["REJECT:decoder_crash"] += 1
            if how == "hangs":
                self.result.hangs.append(index)
            else:
                self.result.crashes.append(f"{index} {seed_name(index)}")
        self._start()
        if self.block:
            self._send()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def seed_name(index: int) -> str:
    """Which seed a mutant was made from."""
    from catalogue.mutants import seeds

    return seeds()[index % len(seeds())].name


def work(seed: int) -> None:
    """Read mutants until the parent goes away."""
    from catalogue.mutants import mutant

    readers = reading_functions()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_GIB * 2**30,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what decoders print
    shm = "/dev/shm" if Path("/dev/shm").is_dir() else None
    base = memory_mb()
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        for line in sys.stdin:
            for index in json.loads(line):
                name, data = mutant(seed, index)
                path = Path(folder) / name
                path.write_bytes(data)
                start = time.monotonic()
                verdict = judge(readers, path)
                found = {"verdict": verdict, "s": time.monotonic() - start}
                print(json.dumps({**found, "mb": memory_mb(), "base": base}), file=out, flush=True)


def memory_mb() -> float:
    """Most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reading_functions() -> dict[str, Callable[[Path], bool]]:
    """Suffix to the function of the reading stage; each says whether all values are finite."""
    import numpy as np

    from medvlp.archive.containers import check_container
    from medvlp.archive.dicom.files import read_image, read_planes
    from medvlp.archive.dicom.scan import scan_file
    from medvlp.archive.pictures import read_grey
    from medvlp.archive.text.plaintext import read_text
    from medvlp_volumetric.nifti import read_nifti

    def dicom(path: Path) -> bool:
        scan = scan_file((path,), units=UNITS)
        values = read_image(path) if UNITS[scan.header.modality] == "file" else read_planes(path)
        return bool(np.isfinite(values).all())

    def text(path: Path) -> bool:
        return isinstance(read_text(path).text, str)

    def container(path: Path) -> bool:
        check_container(path)
        return True

    def picture(path: Path) -> bool:
        return bool(np.isfinite(read_grey(path).values).all())

    def nifti(path: Path) -> bool:
        return bool(np.isfinite(read_nifti(path).hu_DHW).all())

    pictures = dict.fromkeys((".png", ".jpg", ".tif"), picture)
    volumes = dict.fromkeys((".nii", ".gz"), nifti)
    return {".dcm": dicom, ".txt": text, ".zip": container, **pictures, **volumes}


def judge(readers: dict[str, Callable[[Path], bool]], path: Path) -> str:
    """The verdict on a file; ``UNTYPED:...`` for what must not happen."""
    from medvlp.archive.verdict import Verdict

    try:
        return "ACCEPT" if readers[path.suffix](path) else "NONFINITE"
    except Verdict as verdict:
        return str(verdict)
    except MemoryError:
        return "REJECT:memory"
    except BaseException as error:
        return f"UNTYPED:{type(error).__name__}"


def report(result: Result, args: argparse.Namespace) -> list[str]:
    """The table of a run."""
    accepted = result.verdicts["ACCEPT"]
    lines = [
        "# Damaged files",
        "",
        f"`python benchmarks/bench_fuzz.py --mutants {args.mutants} --first {args.first} "
        f"--seed {args.seed} --workers {args.workers}` on {HARDWARE}.",
        "",
        "| | |",
        "|---|---|",
        f"| mutants | {result.mutants:,} in {result.wall_s:.0f} s |",
        f"| mutants/s | {result.mutants / result.wall_s:.0f} |",
        f"| exceptions that are no verdict | {len(result.untyped)} |",
        f"| over {SLOW_S:.0f} s | {len(result.hangs)} (slowest {result.slowest_s:.2f} s) |",
        f"| accepted arrays that are not finite | {len(result.nonfinite)} |",
        f"| processes that a decoder took down | {len(result.crashes)} |",
        f"| most memory, MiB | {result.peak_mb:.0f} (before the first file {result.base_mb:.0f}; "
        f"bound {MEMORY_MB}) |",
        f"| accepted | {accepted:,} |",
        "",
        "| verdict | mutants |",
        "|---|---|",
        *(f"| {verdict} | {count:,} |" for verdict, count in result.verdicts.most_common()),
    ]
    lines += [f"- untyped: {line}" for line in result.untyped[:20]]
    lines += [f"- process ended: {line}" for line in result.crashes[:20]]
    return lines + [f"- slow: {index}" for index in result.hangs[:20]]


if __name__ == "__main__":
    main()
