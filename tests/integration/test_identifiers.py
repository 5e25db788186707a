"""No identifier of an archive stands in anything that medvlp writes outside the private folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from privacy.planted import Markers, leaks, plant_dicom, plant_pictures, plant_volumes

WANTED = 2000

Command = tuple[list[object], dict[str, int]]
"""Its words, and limits under which it runs."""


DRIVER = """
import json, os, resource, sys
import medvlp.archive.index, medvlp.cli
for number, words, limits in json.load(sys.stdin):
    child = os.fork()
    if not child:
        log = os.open(f"{sys.argv[1]}/{number:03}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
        sys.argv = ["medvlp", *words]
        medvlp.cli.main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs commands one after the other, each in a process of its own that has its imports already."""


def run(work: Path, outputs: Path, commands: list[Command]) -> list[int]:
    """Exit codes of commands; what each says goes to a file in `outputs`."""
    told = [
        (number, [str(word) for word in words], limits)
        for number, (words, limits) in enumerate(commands)
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(outputs)],
        input=json.dumps(told),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(outputs), "COLUMNS": "300"},
        timeout=500,
    )
    return [int(line) for line in done.stdout.split()]


def failing(archive: Path, table: Path, out: Path) -> list[Command]:
    """Thirty ways for a command to fail while it has the archive in its hands."""
    file = next(path for path in sorted(archive.rglob("*.dcm")))
    folder = file.parent
    # What a user names as an option, a message may name: it has a plain name, and marked contents.
    named = out.parent / "named.private" / "option"
    named.mkdir(parents=True)
    given = Path(shutil.copy(file, named / "given.yaml"))
    index = ["index", archive, "--kind"]
    text = ["index", table, "--kind", "table", "--set", "domain=cxr", "--out", out]
    commands: list[list[object]] = [
        [*index, "none", "--out", out],
        [*index, "dicom"],
        [*index, "dicom", "--out", out, "--set", "no.such=1"],
        [*index, "dicom", "--out", out, "--set", f"reports={given}"],
        [*index, "dicom", "--out", out, "--set", f"labels={given}"],
        [*index, "dicom", "--out", out, "--set", f"headings={given}"],
        [*index, "dicom", "--out", out, "--set", "burned_in=maybe"],
        [*index, "dicom", "--out", out, "--config", given],
        [*index, "dicom", "--out", out, "--key", given],
        [*index, "dicom", "--out", given / "m"],
        [*index, "table", "--out", out],
        [*index, "video", "--out", out],
        [*index, "nih-cxr14", "--out", out],
        [*index, "open-i", "--out", out],
        ["index", folder / "none", "--kind", "dicom", "--out", out],
        ["index", given, "--kind", "table", "--out", out, "--set", "domain=cxr"],
        [*text, "--set", "columns.patient=nobody"],
        [*text, "--set", "columns.labels=[nobody_asked]"],
        [*text, "--set", "columns.split=nobody_asked"],
        [*text, "--set", "columns.date=nobody_asked", "--set", "columns.path=none"],
        ["verify", named],
        ["verify", given],
        ["inspect", folder / "none"],
        ["inspect", file, "--set", "options.none=1"],
        ["forget", named],
        ["rekey", named, "--out", out],
        ["splits", named, "--out", out],
    ]
    limited: list[dict[str, int]] = [
        {"RLIMIT_FSIZE": 20_000},
        {"RLIMIT_NOFILE": 12},
        {"RLIMIT_FSIZE": 0},
    ]
    return [(words, {}) for words in commands] + [
        ([*index, "dicom", "--out", out], limit) for limit in limited
    ]


@pytest.mark.slow
def test_no_marker_leaves_the_private_folder(tmp_path):
    work, outputs = tmp_path / "work", tmp_path / "outputs"
    for folder in (work, outputs):
        folder.mkdir()
    marks = Markers()
    archive = tmp_path / "in" / "archive"
    plant_dicom(archive, marks)
    table = plant_pictures(tmp_path / "in" / "pictures", marks, count=24)
    plant_volumes(tmp_path / "in" / "volumes", marks)
    assert len(marks.made) >= WANTED
    made = tmp_path / "made"
    made.mkdir()
    reports = ["--set", f"reports={tmp_path / 'in' / 'reports.csv'}"]
    runs = [
        ["index", archive, "--kind", "dicom", "--out", made / "m", *reports],
        ["index", table, "--kind", "table", "--out", made / "t", "--set", "domain=cxr"],
        ["index", tmp_path / "in" / "volumes", "--kind", "nifti", "--out", made / "v"],
        ["verify", made / "m"],
        ["verify", made / "t"],
        [
            "inspect",
            archive,
            "--out",
            made / "page.html",
            "--json",
            made / "page.json",
            "--views",
            4,
        ],
        ["splits", made / "m", "--out", made / "splits.csv", "--suppress"],
        ["rekey", made / "m", "--out", made / "n"],
    ]
    failures = failing(archive, table, made / "failed")
    assert len(failures) >= 30
    codes = run(work, outputs, [(words, {}) for words in runs] + failures)
    assert codes[: len(runs)] == [0] * len(runs)
    failed = dict(zip(range(len(failures)), codes[len(runs) :], strict=True))
    assert 0 not in failed.values(), failed
    private = sorted(made.glob("*.private"))
    assert {path.name for path in private} >= {"m.private", "n.private", "t.private"}
    assert leaks(marks, *private), "the search finds what is there"
    public = [path for path in sorted(made.iterdir()) if path not in private]
    assert len(public) >= 6
    found = leaks(marks, *public, work, outputs)
    assert found == [], [p.name for p in (*public, *outputs.iterdir()) if leaks(marks, p)]
    assert not [path for path in tmp_path.rglob("core*") if path.is_file()]


def test_the_search_finds_a_single_marker(tmp_path):
    marks = Markers()
    words = [marks.new("x") for _ in range(3000)]
    assert len(set(words)) == 3000
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "clean.txt").write_text("nothing")
    assert leaks(marks, tmp_path / "a") == []
    (tmp_path / "a" / "log.txt").write_text(f"failed on {words[1234].upper()}.dcm")
    assert leaks(marks, tmp_path / "a") == ["x"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / words[7]).touch()
    assert leaks(marks, tmp_path / "b") == ["x"]
