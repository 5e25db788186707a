"""Damaged files of every format end in verdicts: a short run of `benchmarks/bench_fuzz.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_thousand_damaged_files_end_in_verdicts():
    bench = [sys.executable, str(ROOT / "benchmarks/bench_fuzz.py")]
    done = subprocess.run(
        [*bench, "--mutants", "2000", "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    cells = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    rows = dict(row for row in cells if len(row) == 2)
    assert rows["mutants"].startswith("2,000 ")
    assert rows["exceptions that are no verdict"] == "0"
    assert rows["accepted arrays that are not finite"] == "0"
    memory_mb = int(next(v for k, v in rows.items() if k.startswith("most memory")).split()[0])
    assert memory_mb < 512
    # Damage that is always noticed, or never, would show nothing.
    assert len([verdict for verdict in rows if verdict.startswith("REJECT")]) > 25
    assert 100 < int(rows["ACCEPT"].replace(",", "")) < 1500
