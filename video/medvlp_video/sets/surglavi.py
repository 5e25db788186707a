"""Source kind ``surglavi``: SurgLaVi (Perez et al., 2025), captions of three levels in SQLite.

Reads the tables ``captions`` and ``videos`` of one `*.db`, and videos called by their name there or
by their identifier, in any folders. Level 1 is a clip, 2 a step, 3 a phase. Captions that the
publishers' filters left out, and those longer than the loader of theirs takes, are counted.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest, number, the_file
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.text.document import is_wordless
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.errors import ArchiveError
from medvlp_video.recordings import named
from medvlp_video.sets.recorded import RecordedSet, Told, find_recordings, take_recordings
from medvlp_video.spans import Span
from medvlp_video.tree import Passage, Place

SOURCE = "surglavi"
LEVELS = {1: "clip", 2: "step", 3: "phase"}
SOURCES = {"caption": "llm:caption", "raw_narration": "asr:narration"}

LONGEST_TEXT = 1 << 20
_STEPS = 1_000_000
_MOST_STEPS = 20_000
"""Times `_STEPS` instructions of the database's machine, beyond any honest table."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SurgLaViOptions(ListOptions):
    """Settings of the kind."""

    text: Literal["caption", "raw_narration", "both"] = "caption"
    """What a language model made of what was said, or what was said."""

    filtered: bool = True
    """Take only captions that the publishers call descriptive and surgical."""

    longest_s: Annotated[float, Field(gt=0)] | None = 500.0
    """Captions of longer spans are left out; null takes them all."""

    without_video: bool = False
    """Take in the captions of videos that are not there, as samples without pictures."""


def index_surglavi(root: Path, intake: Intake) -> None:
    """Index SurgLaVi; the set has no split."""
    options = intake.options(SurgLaViOptions)
    lists = SplitLists(intake, options.lists)
    table = the_file(intake.files(), "*.db")
    with _opened(table) as base:
        names, told = _videos(base)
        _captions(intake, base, table, options, told)
    intake.cover([table])
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named(SOURCE, name),
        texts_alone=options.without_video,
        table=table,
    )
    found = find_recordings(intake, names.get)
    take_recordings(intake, about, found, {one.name: one.told for one in told.values()})
    leave_rest(intake)


@dataclasses.dataclass(frozen=True, slots=True)
class _Video:
    """One row of ``videos``, and what is said of it."""

    name: str
    told: Told = dataclasses.field(default_factory=Told)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, read only; nothing that its schema may name is called.

    Raises:
        ArchiveError: It is none, is damaged, has not the set's tables, or takes beyond all measure.
    """
    left = iter(range(_MOST_STEPS))
    try:
        # Immutable: no file is written beside it.
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as base:
            base.row_factory = sqlite3.Row
            base.text_factory = lambda data: data.decode(errors="replace")
            base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_TEXT)
            base.set_progress_handler(lambda: next(left, None) is None, _STEPS)
            base.execute("PRAGMA trusted_schema = OFF")
            for table in ("captions", "videos"):
                _check_table(base, table)
            yield base
    except sqlite3.Error as error:
        raise ArchiveError(
            f"the database {path.name} cannot be read ({type(error).__name__})",
            remedy="give the file as it is published",
        ) from error


def _check_table(base: sqlite3.Connection, table: str) -> None:
    """A view or virtual table would be a program, and no table.

    Raises:
        sqlite3.DatabaseError: It is no plain table.
    """
    query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
    found = base.execute(query, (table,)).fetchone()
    if found is None or not str(found[0]).upper().startswith("CREATE TABLE"):
        raise sqlite3.DatabaseError(table)


def _videos(base: sqlite3.Connection) -> tuple[dict[str, str], dict[Any, _Video]]:
    """What a file may be called -> video's name; number in the database -> video."""
    names: dict[str, str] = {}
    told: dict[Any, _Video] = {}
    for row in base.execute("SELECT * FROM videos ORDER BY video_id"):
        name = str(row["name"] or row["video_id"])
        told[row["video_id"]] = _Video(name)
        for column in ("name", "youtube_id"):
            if column in row.keys() and row[column]:  # noqa: SIM118 (a Row is no mapping)
                names[str(row[column])] = name
    return names, told


def _captions(
    intake: Intake,
    base: sqlite3.Connection,
    table: Path,
    options: SurgLaViOptions,
    told: Mapping[Any, _Video],
) -> None:
    columns = tuple(SOURCES) if options.text == "both" else (options.text,)
    query = "SELECT * FROM captions ORDER BY caption_id"
    for place, row in enumerate(base.execute(query), start=1):
        if options.filtered and not (row["is_descriptive"] == row["is_surgical_content"] == 1):
            intake.notes["captions_filtered"] += 1
        elif row["video_id"] not in told:
            intake.reject_row(table, place, "unknown_video")
        else:
            one = told[row["video_id"]].told
            try:
                span = _span(row)
                if options.longest_s is not None and span[1] - span[0] > options.longest_s:
                    intake.notes["captions_too_long"] += 1
                else:
                    one.passages += _passages(row, columns, span, (table, place))
            except Reject as verdict:
                intake.reject_row(table, place, verdict.code, verdict.message)
                one.flags.append("rows_refused")


def _span(row: sqlite3.Row) -> Span:
    start_s, end_s = row["start_time"], row["end_time"]
    if start_s is None or end_s is None:
        raise Reject("half_span", "start or end is missing")
    return number(str(start_s)), number(str(end_s))


def _passages(
    row: sqlite3.Row, columns: Sequence[str], span: Span, place: Place
) -> Iterator[Passage]:
    if row["level_id"] not in LEVELS:
        raise Reject("unknown_level", "levels: 1, 2, 3")
    told = [(name, str(row[name] or "").strip()) for name in columns]
    if all(is_wordless(text) for _, text in told):
        raise Reject("blank", "no words")
    level = LEVELS[row["level_id"]]
    for name, text in told:
        if not is_wordless(text):
            source = SOURCES[name]
            yield Passage(level=level, text=text, source=source, span=span, place=place)
