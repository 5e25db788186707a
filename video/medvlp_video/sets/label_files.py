"""Label files of one recording each, read so that a bad row costs itself alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.lists import ListOptions
from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.text.plaintext import decode
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.errors import ArchiveError, ConfigError
from medvlp.plain_files import read_json

LARGEST_LINES = 1 << 26
"""Bytes of a file with a line a frame; five hours at 25 frames a second take some 12 MB."""

MOST_BAD = 100
"""Rows of one label file that are listed one by one; a file with more is refused."""

_BETWEEN = re.compile(r"[\s,]+")

_WHOLE = re.compile(r"[0-9]{1,9}")

Frames = list[tuple[int, str]]
"""Numbers of frames, each with a name that it carries."""


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class NumberedOptions(ListOptions):
    """Settings of sets whose recordings have published numbers."""

    splits: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Split -> numbers of its recordings, such as ``test: [6, 10, 14]``, in place of the named
    split; a recording that is named nowhere is split like any other patient."""


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class ExtractedOptions(NumberedOptions):
    """Settings of numbered sets of phases whose frames may have been extracted."""

    frame_rate: Annotated[float, Field(gt=0)] = 1.0
    """Numbers a second in the names of frames."""

    first_frame: Literal[0, 1] | None = None
    """The number of the frame that shows second 0; by default 0 where there is a frame 0."""

    synthetic_text: bool = True
    """Write sentences made from the phases, with the source ``synthetic:labels``."""


def split_by_number(splits: Mapping[str, Sequence[int]], form: str) -> dict[str, str]:
    """Recording -> split.

    Args:
        splits: Split -> numbers of its recordings.
        form: What a recording is called, such as ``VID{:02d}``.

    Raises:
        ConfigError: A number stands in two splits.
    """
    found: dict[str, str] = {}
    twice: set[int] = set()
    for split, numbers in splits.items():
        for number in numbers:
            if found.setdefault(form.format(number), split) != split:
                twice.add(number)
    if twice:
        raise ConfigError(
            f"options.splits: videos {', '.join(map(str, sorted(twice)))} stand there twice",
            remedy="name each video once",
        )
    return found


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one file: number, from 1 and without the header, and cells."""

    path: Path
    kept: Sequence[tuple[int, Mapping[str, str]]]
    refused: Mapping[int, str] = field(default_factory=dict)

    def believed(self, intake: Intake) -> Iterator[tuple[int, Mapping[str, str]]]:
        """The rows that can be used; the others are listed."""
        for number, code in self.refused.items():
            intake.reject_row(self.path, number, code)
        yield from self.kept


def read_table(path: Path, columns: Sequence[str]) -> Rows:
    """A table of one recording.

    Raises:
        Reject: ``no_table``, or ``bad_labels``: it lacks a column.
    """
    try:
        table = open_table(path)
    except ArchiveError as error:
        raise Reject("no_table") from error
    if missing := [name for name in columns if name not in table.frame.columns]:
        raise Reject("bad_labels", f"no column {', '.join(missing)}")
    kept = [
        (number, {name: str(cell or "").strip() for name, cell in cells.items()})
        for number, cells in enumerate(table.frame.iter_rows(named=True), start=1)
        if number not in table.refused
    ]
    return Rows(path, kept, table.refused)


def plain_lines(path: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        Reject: ``text_too_large``, ``text_binary``, ``text_encoding`` or ``unreadable``.
    """
    try:
        if path.stat().st_size > LARGEST_LINES:
            raise Reject("text_too_large", f"{path.stat().st_size} bytes")
        text = decode(path.read_bytes(), LARGEST_LINES).text
    except OSError:
        raise Reject("unreadable") from None
    return [line for line in map(str.strip, text.splitlines()) if line]


def read_frames(
    intake: Intake, path: Path, header: str | None, parse: Callable[[list[str]], Frames]
) -> Frames:
    """The labels of a file with a line a frame; single bad lines are listed.

    Cells are divided by blanks, tabs or commas.

    Args:
        intake: Lists bad lines.
        path: The file.
        header: How the first line, which is no row, begins; None where there is none.
        parse: A line's cells -> frames and names; raises a LookupError or ValueError of a line that
            it does not understand.

    Raises:
        Reject: See `plain_lines`; ``bad_labels``: another header, or more than `MOST_BAD` bad
            lines.
    """
    kept: Frames = []
    bad = []
    lines = iter(plain_lines(path))
    if header is not None and not next(lines, "").lower().startswith(header):
        raise Reject("bad_labels", f"the header does not begin with {header}")
    for number, line in enumerate(lines, start=1):
        try:
            kept += parse(_BETWEEN.split(line))
        except (LookupError, ValueError):
            bad.append(number)
            if len(bad) > MOST_BAD:
                raise Reject("bad_labels", f"more than {MOST_BAD} lines") from None
    for number in bad:
        intake.reject_row(path, number, "bad_labels")
    return kept


def read_values(path: Path) -> Any:
    """The values of a JSON file.

    Raises:
        Reject: ``bad_json``.
    """
    try:
        return read_json(path)
    except ConfigError as error:
        raise Reject("bad_json") from error


def whole(cell: str) -> int:
    """A cell as a whole number that counts something.

    Raises:
        ValueError: It is none.

    >>> whole("007")
    7
    """
    if not _WHOLE.fullmatch(cell):
        raise ValueError("no whole number")
    return int(cell)
