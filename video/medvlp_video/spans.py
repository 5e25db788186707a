"""Rows of a user's tables about videos: read, matched to videos, and their time spans checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from medvlp.archive.intake import Intake
from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.verdict import Reject
from medvlp.errors import ArchiveError

SLACK_S = 1.0
"""Spans may end this much after the video and are cut there; annotators round up."""


@dataclass(frozen=True)
class TableRow:
    """One row, its cells by our names; absent and blank cells are missing."""

    table: Path
    number: int
    """From 1, the header not counted."""
    cells: Mapping[str, str]

    def get(self, name: str) -> str | None:
        """A cell, or None."""
        return self.cells.get(name)

    def numeric(self, name: str) -> float | None:
        """A cell as a number.

        Raises:
            Reject: ``not_a_number``.
        """
        value = self.cells.get(name)
        try:
            return None if value is None else float(value)
        except ValueError as error:
            raise Reject("not_a_number", f"column {name}") from error


class Table:
    """One table's rows by the video that they are about.

    Args:
        intake: Finds the file, takes it in and lists bad rows.
        path: CSV, Parquet or Excel with a column ``video``.
        columns: Our name -> the user's name of a column.
        needs: Columns that must be there.

    Raises:
        ConfigError: The file is not there.
        ArchiveError: It cannot be read or lacks a column.
    """

    def __init__(
        self, intake: Intake, path: Path, columns: Mapping[str, str], needs: tuple[str, ...]
    ) -> None:
        self.path = intake.locate(path)
        intake.cover([self.path])
        table = open_table(self.path)
        frame = table.frame.select(pl.col(n).cast(pl.String) for n in table.frame.columns)
        renamed = {theirs: ours for ours, theirs in columns.items() if theirs in frame.columns}
        frame = frame.rename(renamed)
        missing = [name for name in ("video", *needs) if name not in frame.columns]
        if missing:
            raise ArchiveError(
                f"table {self.path.name} has no column {', '.join(missing)}",
                remedy="name the columns with options.columns, such as options.columns.video=ID",
            )
        for number, code in table.refused.items():
            intake.reject_row(self.path, number, code)
        self._rows: defaultdict[str, list[TableRow]] = defaultdict(list)
        for number, cells in enumerate(frame.iter_rows(named=True), 1):
            if number in table.refused:
                continue
            kept = {k: v.strip() for k, v in cells.items() if v is not None and v.strip()}
            self._rows[kept.get("video", "")].append(TableRow(self.path, number, kept))

    def take(self, names: tuple[str, ...]) -> list[TableRow]:
        """The rows about a video that goes by any of `names`; they count as used."""
        return [row for name in names for row in self._rows.pop(name, [])]

    def list_unmatched(self, intake: Intake) -> None:
        """List the rows whose video was not found."""
        for rows in self._rows.values():
            for row in rows:
                intake.reject_row(row.table, row.number, "unknown_video")
                intake.notes["rows_unmatched"] += 1


def span_of(row: TableRow, duration_s: float) -> tuple[float, float] | None:
    """A row's span in seconds, cut at the video's end; None where it gives none.

    Raises:
        Reject: ``not_a_time``, ``half_span``, ``inverted_span`` or ``span_outside``.
    """
    start_s, end_s = seconds(row.get("start_s")), seconds(row.get("end_s"))
    if start_s is None and end_s is None:
        return None
    if start_s is None or end_s is None:
        raise Reject("half_span", "only one of start and end is given")
    if end_s <= start_s:
        raise Reject("inverted_span", "the end is not after the start")
    if start_s < 0 or start_s >= duration_s or end_s > duration_s + SLACK_S:
        raise Reject("span_outside", "the span leaves the video")
    return start_s, min(end_s, duration_s)


def seconds(cell: str | None) -> float | None:
    """``12.5`` or ``1:02:03.5`` in seconds.

    Raises:
        Reject: ``not_a_time``.
    """
    if cell is None:
        return None
    try:
        total = 0.0
        for part in cell.split(":"):
            total = total * 60 + float(part)
    except ValueError as error:
        raise Reject("not_a_time", "expected seconds or hours:minutes:seconds") from error
    return total
