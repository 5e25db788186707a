"""What the pages that benchmarks write have in common."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def commit() -> str:
    """The commit that these files belong to, shortened; empty outside a repository."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=False,
    ).stdout.strip()  # fmt: skip


def command() -> str:
    """How the running script was called."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median (least to greatest).

    >>> spread([3.0, 1.0, 2.0], 0)
    '2 (1 to 3)'
    """
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def medvlp(*words: str | Path) -> tuple[str, float]:
    """Run a command of the platform: what it printed, and seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "medvlp.cli", *map(str, words)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"medvlp {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip(), time.perf_counter() - start


def publish(page: str, out: Path | None) -> None:
    """Print a page, and write it where it is wanted."""
    print(page)
    if out is not None:
        out.write_text(page, encoding="utf-8")
