"""User's tables: CSV or Parquet of any encoding and separator, with columns mapped by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fastexcel
import polars as pl

from medvlp.archive.containers import members
from medvlp.archive.options import Columns
from medvlp.archive.plaintext import decode
from medvlp.archive.verdict import Reject
from medvlp.errors import ArchiveError, ConfigError

Row = Mapping[str, Any]

_LARGEST_SHEET = 1 << 28
_SEPARATORS = ",;\t|"


class UserTable:
    """A table with its columns found; cells are text without blanks around it, or None.

    Args:
        path: The CSV or Parquet file.
        columns: What the user calls the columns.
        fields: The fields that are looked for; the others are left alone.
        required: Those without which the table is of no use.
        optional: Those whose column, though named, may stand in another of the user's tables.

    Raises:
        ArchiveError: The file is no readable table.
        ConfigError: A named or required column is not there; names those that are.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        fields: Collection[str],
        required: Iterable[str] = (),
        optional: Collection[str] = (),
    ) -> None:
        self.path = path
        self.columns = columns
        self.frame = read_table(path)
        if "labels" in fields:
            self._check(columns.labels)
        named = {
            field: name
            for field, name in columns.named().items()
            if field in fields and (field not in optional or name in self.frame.columns)
        }
        self._check(named.values())
        single = [field for field in fields if field != "labels"]
        free = {field: field for field in single if field in self.frame.columns}
        self.column = {**free, **named}
        for field in required:
            if field not in self.column:
                raise self._missing(field, f"give --set columns.{field}=<one of them>")

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row numbers from 1, and the cells of the mapped fields (None where there is none)."""
        place = {field: self.frame.columns.index(name) for field, name in self.column.items()}
        for number, cells in enumerate(self.frame.iter_rows(), start=1):
            yield number, {field: _cell(cells[i]) for field, i in place.items()}

    def _check(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.frame.columns:
                raise self._missing(name, "correct the name under columns")

    def _missing(self, name: str, remedy: str) -> ConfigError:
        there = ", ".join(self.frame.columns)
        return ConfigError(
            f"{self.path.name} has no column {name!r} (columns there: {there})", remedy=remedy
        )


def read_table(path: Path) -> pl.DataFrame:
    """A CSV (any encoding of `decode`; comma, semicolon, tab or bar), Parquet or Excel table.

    Cells of CSV and of Excel's first sheet stay text, so that leading zeros of record numbers
    survive.

    Raises:
        ArchiveError: The file is no readable table.
    """
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pl.read_parquet(path)
        if path.suffix.lower() == ".xlsx":
            return _excel(path)
        return _csv(table_text(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _unreadable(path) from error


def table_text(path: Path) -> str:
    """The text of a table or list that the user or the data set brought.

    Raises:
        ArchiveError: It is no text.
    """
    try:
        return decode(path.read_bytes()).text
    except OSError as error:
        raise _unreadable(path) from error
    except Reject as verdict:
        raise _unreadable(path, f" ({verdict.code})") from None


def _unreadable(path: Path, why: str = "") -> ArchiveError:
    return ArchiveError(
        f"the table {path.name} cannot be read{why}",
        remedy="give a CSV file in UTF-8 with a header, a Parquet or an Excel file",
    )


def _excel(path: Path) -> pl.DataFrame:
    try:
        # Inflated once within bounds before a reader without any is let near it.
        for member in members(path, largest=_LARGEST_SHEET):
            if member.data is None:
                raise _unreadable(path, " (text_too_large)")
        return pl.read_excel(path, engine="calamine", infer_schema_length=0)
    except Reject as verdict:
        raise _unreadable(path, f" ({verdict.code})") from None
    except fastexcel.FastExcelError:
        raise _unreadable(path) from None


def _csv(text: str) -> pl.DataFrame:
    head = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=head.count)
    return pl.read_csv(
        text.encode(), separator=separator, infer_schema=False, truncate_ragged_lines=True
    )


def _cell(cell: Any) -> Any:
    if cell is None or isinstance(cell, list):
        return cell
    text = str(cell).strip()
    return text or None
