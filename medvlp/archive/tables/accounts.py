"""Rows and files of a published set, joined so that each of both is accounted for.

A file is accepted, quarantined with a code, or ignored with a code. A row is used, listed as
refused, or counted in a note.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from medvlp.archive.intake import Intake
from medvlp.archive.stage.reading import Reading
from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.text.document import checked_text
from medvlp.archive.text.plaintext import Text
from medvlp.archive.verdict import Reject, Verdict
from medvlp.errors import ArchiveError
from medvlp.progress import track

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
T = TypeVar("T")

Cells = Mapping[str, str]
Numbered = tuple[int, Cells]


def with_suffix(files: Iterable[Path], suffixes: Iterable[str]) -> list[Path]:
    """Those of the files whose names end in one of these, in lower case."""
    wanted = set(suffixes)
    return [path for path in files if path.suffix.lower() in wanted]


def table_rows(intake: Intake, path: Path, columns: Sequence[str]) -> Iterator[Numbered]:
    """Number, from 1, and cells of each row of a table that has these columns.

    Blanks around names and cells are taken off; a blank cell is an empty word. Rows that cannot
    be believed are listed as refused.

    Raises:
        ArchiveError: The table cannot be read, or lacks a column.
    """
    table = open_table(path)
    missing = [name for name in columns if name not in table.frame.columns]
    if missing:
        raise ArchiveError(
            f"the table {path.name} has no column {', '.join(missing)}",
            remedy="give the table as it is published",
        )
    intake.cover([path])
    for number, code in table.refused.items():
        intake.reject_row(path, number, code)
    rows = track(table.frame.iter_rows(named=True), f"Reading {path.name}", table.frame.height)
    for number, cells in enumerate(rows, start=1):
        if number not in table.refused:
            yield number, {name: str(cell or "").strip() for name, cell in cells.items()}


def the_file(files: Iterable[Path], pattern: str) -> Path:
    """The one file of a name.

    Args:
        files: Where to look.
        pattern: Its name as published, with ``*`` where versions differ.

    Raises:
        ArchiveError: None has it, or several have.
    """
    found = [path for path in files if fnmatchcase(path.name, pattern)]
    if len(found) != 1:
        raise ArchiveError(
            f"the source holds {len(found) or 'no'} file{'s' * (len(found) > 1)} {pattern}",
            remedy=f"name the folder of the set, with one {pattern} in it",
        )
    return found[0]


def take_files(
    intake: Intake,
    files: Iterable[Path],
    rows: Mapping[K, R],
    key: Callable[[Path], K | None],
    reading: Callable[[R], Reading[T]],
    accept: Callable[[Path, R, T], None],
    label: str,
) -> None:
    """Read each file that a row is about, and hand both over; all others are accounted for.

    Args:
        intake: Where files without a row are quarantined (``no_row``), and files that carry the
            key of one before them (``duplicate_sample``); rows that no file has are counted in
            the note ``rows_without_image``.
        files: The set's images, one file each.
        rows: What is known of each.
        key: By what a file finds its row.
        reading: How a file is read, given its row; files that are read alike are read together.
        accept: Takes the file in; may raise a verdict.
        label: What the progress bar says.
    """
    places: dict[K, Path] = {}
    for path in files:
        name = key(path)
        if name is None or name not in rows:
            intake.reject(path, "join", "no_row")
        elif name in places:
            intake.reject(path, "join", "duplicate_sample")
        else:
            places[name] = path
    intake.notes["rows_without_image"] += len(rows) - len(places)
    for how, names in _read_alike((name, reading(rows[name])) for name in places):
        found = intake.read(how, ((places[name],) for name in names), label)
        for name, (_, result) in zip(names, found, strict=True):
            with intake.judge([places[name]], "read"):
                if isinstance(result, Verdict):
                    raise result
                accept(places[name], rows[name], result)


def _read_alike(
    readings: Iterable[tuple[K, Reading[T]]],
) -> Iterable[tuple[Reading[T], Sequence[K]]]:
    """What has one reading, together, in the order of the first of each."""
    alike: dict[str, tuple[Reading[T], list[K]]] = {}
    for name, reading in readings:
        alike.setdefault(reading.key, (reading, []))[1].append(name)
    return alike.values()


def row_text(intake: Intake, table: Path, row: int, text: str) -> Text | None:
    """A row's report; one without words is listed, and its image stays."""
    try:
        return checked_text(text)
    except Reject as verdict:
        intake.reject_row(table, row, verdict.code)
        return None


def give_text(intake: Intake, sample: str, text: Text | None, source: str = "report") -> None:
    """A sample's report, if there is one, and what was remarked when it was read."""
    if text is not None:
        intake.report(sample, text.text, source)
        intake.flag(sample, *text.flags)


def leave_rest(intake: Intake) -> None:
    """Ignore the files that are no part of the set."""
    for path in intake.files():
        intake.ignore(path, "not_of_the_set")


def compare(intake: Intake, what: str, here: int, published: int) -> None:
    """Note both counts where a copy of a set differs from what was published."""
    if here != published:
        intake.notes[what] = here
        intake.notes[f"{what}_published"] = published


def number(cell: str) -> float:
    """A cell's finite number.

    Raises:
        Reject: ``not_a_number``.
    """
    try:
        found = float(cell)
    except ValueError:
        raise Reject("not_a_number") from None
    if not math.isfinite(found):
        raise Reject("not_a_number")
    return found


def presence(cell: str) -> float | None:
    """A label's cell: 1, 0, -1 or blank.

    Raises:
        Reject: ``bad_labels``.
    """
    values = {"": None, "1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0}
    if cell not in values:
        raise Reject("bad_labels")
    return values[cell]
