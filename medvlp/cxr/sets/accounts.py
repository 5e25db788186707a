"""Rows and images of a published set, joined so that each of both is accounted for.

An image is accepted, quarantined with a code, or ignored with a code. A row is used, listed as
refused, or counted in a note.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from medvlp.archive.intake import Intake
from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.verdict import Reject, Verdict
from medvlp.cxr.sets.xrays import Xray, reading_xrays
from medvlp.errors import ArchiveError
from medvlp.progress import track

PICTURES = (".png", ".jpg", ".jpeg")

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

PATIENT_IS_IMAGE = "patient_is_image"
"""Flag where a set names no patients, so that each image counts as a patient of its own."""

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


def take_images(
    intake: Intake,
    images: Iterable[Path],
    rows: Mapping[K, R],
    key: Callable[[Path], K | None],
    accept: Callable[[Path, R, Xray], None],
) -> None:
    """Read each image that a row is about, and hand both over; all others are accounted for.

    Args:
        intake: Where images without a row are quarantined (``no_row``), and files that carry the
            key of one before them (``duplicate_sample``); rows that no image has are counted in
            the note ``rows_without_image``.
        images: The set's images.
        rows: What is known of each image.
        key: By what an image finds its row.
        accept: Takes the image in; may raise a verdict.
    """
    places: dict[K, Path] = {}
    for path in images:
        name = key(path)
        if name is None or name not in rows:
            intake.reject(path, "join", "no_row")
        elif name in places:
            intake.reject(path, "join", "duplicate_sample")
        else:
            places[name] = path
    intake.notes["rows_without_image"] += len(rows) - len(places)
    found = intake.read(reading_xrays(), ((path,) for path in places.values()), "Reading X-rays")
    for (name, path), (_, xray) in zip(places.items(), found, strict=True):
        with intake.judge([path], "read"):
            if isinstance(xray, Verdict):
                raise xray
            accept(path, rows[name], xray)


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
