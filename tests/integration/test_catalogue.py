"""The catalogue of bad inputs: every file gets exactly the verdict that it must get."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from catalogue import all_cases
from catalogue.case import Case, Verdicts, agrees
from catalogue.raw import file_of, xray

from medvlp.archive.dicom import tree
from medvlp.archive.dicom.scan import scanning
from medvlp.archive.index import index_archive
from medvlp.domain import Ref

CASES = all_cases()
ARCHIVES = sorted({case.archive for case in CASES})


class Catalogue:
    """Writes and indexes an archive when its first case asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, list[Path]] = {}
        self._verdicts: dict[str, Verdicts] = {}

    def verdicts(self, case: Case) -> tuple[Verdicts, list[Path]]:
        """What became of a case's archive, and the case's files."""
        if case.archive not in self._verdicts:
            self._verdicts[case.archive] = self._index(case.archive)
        return self._verdicts[case.archive], self._files[case.name]

    def _index(self, archive: str) -> Verdicts:
        place = self.folder / f"a{ARCHIVES.index(archive)}"
        root, out = place / "in", place / "out"
        overrides: dict[str, None] = {}
        cases = [case for case in CASES if case.archive == archive]
        for case in cases:
            own = root / case.name
            own.mkdir(parents=True)
            self._files[case.name] = list(case.write(own))
            overrides |= dict.fromkeys(o.format(folder=root) for o in case.overrides)
        summary = index_archive(
            root / next((case.root for case in cases if case.root), ""),
            kind=archive.partition(":")[0],
            out=out,
            overrides=list(overrides),
        )
        assert summary.found == summary.accepted + summary.quarantined + summary.ignored
        return Verdicts(out)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return Catalogue(tmp_path_factory.mktemp("catalogue"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number:02d}-{case.name}")
def test_the_verdict(case, catalogue):
    verdicts, files = catalogue.verdicts(case)
    assert files
    found = {verdicts.of(path) for path in files}
    assert all(agrees(one, case.expected) for one in found), (sorted(found), case.expected)
    if case.read is None or not case.expected.startswith(("ACCEPT", "FIX", "FLAG")):
        return
    array = case.read(verdicts.paths(files[0]))
    assert np.isfinite(array).all()
    if case.oracle is not None:
        np.testing.assert_array_equal(array, case.oracle())


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    """Number 65: it is read once more, then refused."""
    restless = Ref("catalogue.restless:scan_file")
    monkeypatch.setattr(
        tree, "scanning", lambda *a, **settings: replace(scanning(*a, **settings), read=restless)
    )
    root = tmp_path / "in"
    root.mkdir()
    for name in ("calm", "once", "restless"):
        (root / f"{name}.dcm").write_bytes(file_of(xray(name)))
    index_archive(root, kind="dicom", out=tmp_path / "out")
    verdicts = Verdicts(tmp_path / "out")
    assert agrees(verdicts.of(root / "calm.dcm"), "ACCEPT")
    assert agrees(verdicts.of(root / "once.dcm"), "ACCEPT")
    assert agrees(verdicts.of(root / "restless.dcm"), "REJECT:changed")


def test_every_entry_of_the_catalogue_has_a_case():
    numbers = {case.number for case in CASES} | {65}
    assert set(range(1, 78)) <= numbers


def test_names_are_unique_and_a_fix_has_an_oracle():
    assert [n for n, count in Counter(case.name for case in CASES).items() if count > 1] == []
    for case in CASES:
        fixed = case.expected.startswith("FIX")
        assert not fixed or (case.oracle is not None and case.read is not None), case.name
