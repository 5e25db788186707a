"""The project's own files: pins, rooms, and what must not stand in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from medvlp.doctor import read_pins

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]


@pytest.mark.parametrize("line", PROJECT["dependencies"] + EXTRAS)
def test_every_dependency_is_pinned_within_its_range(line):
    requirement = Requirement(line)
    pinned = read_pins(ROOT / "constraints.txt")[requirement.name.lower()]
    assert requirement.specifier.contains(pinned)


def test_no_forbidden_package_is_pinned():
    pins = read_pins(ROOT / "constraints.txt")
    assert pins["torch"] == "2.13.0"
    assert pins["lightning"] not in {"2.6.2", "2.6.3"}
    assert not [n for n in pins if re.match(r"torchvision|nvidia|triton|timm|open-clip", n)]
    assert all("+" not in pinned for pinned in pins.values())


def test_lightning_range_excludes_the_malicious_releases():
    lightning = next(Requirement(d) for d in PROJECT["dependencies"] if d.startswith("lightning"))
    assert not lightning.specifier.contains("2.6.2")
    assert not lightning.specifier.contains("2.6.3")


def test_no_file_is_too_long_or_has_a_name_that_says_nothing():
    sources = [
        path for top in ("medvlp", "volumetric", "video") for path in (ROOT / top).rglob("*.py")
    ]
    assert len(sources) > 20
    long = {p.name: n for p in sources if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}
    assert not [p for p in sources if re.fullmatch(r"(utils?|helpers?|common|misc)", p.stem)]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/decisions.md", "Makefile"])
def test_pages_name_no_registry(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"pypi\.org|pythonhosted|download\.pytorch\.org", text)
