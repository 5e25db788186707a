"""Files made to exhaust a reader cost little memory; each is read in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from catalogue.cases_dicom_files import SEQUENCE, bomb, in_place, nested
from catalogue.raw import element, item

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (lambda: nested("a", 20_000, delimited=True), "REJECT:depth"),
        (lambda: bomb("a"), "REJECT:inflate_ratio"),
        (
            lambda: in_place("a", SEQUENCE, element(SEQUENCE, "SQ", item(b"") * 200_000)),
            "REJECT:too_many_elements",
        ),
    ],
    ids=["depth", "deflate", "elements"],
)
def test_a_bomb_costs_little(content, verdict, tmp_path):
    path = tmp_path / "bomb.dcm"
    path.write_bytes(content())
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/bench_bombs.py"), "--file", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["verdict"] == verdict
    assert found["mb"] < 256
