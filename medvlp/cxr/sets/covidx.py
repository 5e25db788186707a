"""Source kind ``covidx-cxr4``: COVIDx CXR-4 (Wu et al., 2023).

Reads `train.txt`, `val.txt` and `test.txt` (patient, file, class and source in each line, divided
by blanks, without a header) beside the folders of the same names.

A file's whole name is its name: many differ only after a dot. The same patient number in two
sources means two patients, as the sources were numbered apart. Each class comes mostly from
sources of its own, so a model may tell sources apart instead of the disease: the source is kept as
the site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest, the_file, with_suffix
from medvlp.archive.tables.tablefile import table_text
from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.xrays import PICTURES, Xray, take_images

SOURCE = "covidx-cxr4"
COVID = "COVID-19"
LINES = {"train": 67_863, "val": 8_473, "test": 8_482}
"""84,818 in all; a reader that takes the first line for a header loses one in each."""

_PRESENT = {"positive": 1.0, "negative": 0.0}
_WORDS = 4

Key = tuple[str, str]
"""Part and file name."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One image as its line tells it."""

    patient: str
    name: str
    label: str
    source: str


def index_covidx(root: Path, intake: Intake) -> None:
    """Index COVIDx CXR-4 with its official split."""
    images = with_suffix(files := list(intake.files()), PICTURES)
    names = {_key(path) for path in images}
    lines: dict[Key, _Line] = {}
    for part, published in LINES.items():
        table = the_file(files, f"{part}.txt")
        intake.cover([table])
        compare(intake, f"rows_{part}", _load(intake, table, names, lines), published)

    def accept(path: Path, line: _Line, xray: Xray) -> None:
        sample = intake.accept(
            [path],
            kind="image",
            patient=f"{SOURCE}:{line.source}:{line.patient}",
            study=f"{SOURCE}:{path.parent.name}/{line.name}",
            source_split=path.parent.name,
            site=line.source,
            **xray.columns,
        )
        intake.label(sample, COVID, _PRESENT[line.label], SOURCE)

    take_images(intake, images, lines, _key, accept)
    leave_rest(intake)


def _key(path: Path) -> Key:
    return path.parent.name, path.name


def _load(intake: Intake, table: Path, names: set[Key], lines: dict[Key, _Line]) -> int:
    """Take the lines of one part in; returns how many there are."""
    part, count, disputed = table.stem, 0, set()
    for number, text in enumerate(table_text(table).splitlines(), start=1):
        if not text.strip():
            continue
        count += 1
        try:
            line = _parsed(text, lambda name: (part, name) in names)
            before = lines.setdefault((part, line.name), line)
            if before is not line:
                disputed |= {(part, line.name)} if before != line else set()
                raise Reject("duplicate_row" if before == line else "label_conflict")
        except Reject as verdict:
            intake.reject_row(table, number, verdict.code)
    for key in disputed:
        del lines[key]
    intake.notes["images_with_contradicting_rows"] += len(disputed)
    return count


def _parsed(text: str, there: Callable[[str], bool]) -> _Line:
    """The four words of a line.

    Where a patient or a file has blanks in its name there are more than four; then the file that
    lies in the folder tells where the one ends and the other begins.

    Args:
        text: The line.
        there: Whether the part has an image of this name.

    Raises:
        Reject: ``ragged_row``: too few words, or more than one way to read them; ``bad_labels``.
    """
    words = text.split()
    if len(words) < _WORDS:
        raise Reject("ragged_row")
    *head, label, source = words
    if label not in _PRESENT:
        raise Reject("bad_labels")
    cuts = range(1, len(head))
    ways = [(" ".join(head[:cut]), " ".join(head[cut:])) for cut in cuts]
    if len(ways) > 1:
        ways = [way for way in ways if there(way[1])]
    if len(ways) != 1:
        raise Reject("ragged_row")
    return _Line(*ways[0], label, source)
