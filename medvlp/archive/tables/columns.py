"""User's tables with their columns mapped by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medvlp.archive.options import Columns
from medvlp.archive.privacy.fold import fold
from medvlp.archive.privacy.identifiers import NAME_COLUMNS
from medvlp.archive.privacy.known import names_in
from medvlp.archive.tables.tablefile import open_table
from medvlp.errors import ConfigError

Row = Mapping[str, Any]


class UserTable:
    """A table with its columns found; cells are text without blanks around it, or None.

    Args:
        path: The CSV or Parquet file.
        columns: What the user calls the columns.
        fields: The fields that are looked for; the others are left alone.
        required: Those without which the table is of no use.
        optional: Those whose columns, though named, may stand in another of the user's tables.

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
        file = open_table(path)
        self.frame = file.frame
        self.refused = file.refused
        if "labels" in fields:
            self._check(columns.labels)
        self._names = self._of_names(optional) if "names" in fields else []
        named = {
            field: name
            for field, name in columns.named().items()
            if field in fields and (field not in optional or name in self.frame.columns)
        }
        self._check(named.values())
        single = [field for field in fields if field not in ("labels", "names")]
        free = {field: field for field in single if field in self.frame.columns}
        self.column = {**free, **named}
        for field in required:
            if field not in self.column:
                raise self._missing(field, f"give --set columns.{field}=<one of them>")

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row numbers from 1, and the cells of the mapped fields (None where there is none).

        The field ``names`` has the cells of all such columns, in the forms that `scrub` knows.

        Rows in `refused` (number -> code) are left out; list them with `list_refused`.
        """
        place = {field: self.frame.columns.index(name) for field, name in self.column.items()}
        for number, cells in enumerate(self.frame.iter_rows(), start=1):
            if number not in self.refused:
                row = {field: _cell(cells[i]) for field, i in place.items()}
                if self._names:
                    told = (names_in(str(cells[i])) for i in self._names if _cell(cells[i]))
                    row["names"] = [name for names in told for name in names]
                yield number, row

    def list_refused(self, reject_row: Callable[[Path, int, str], None]) -> None:
        """Hand every row that cannot be believed to `Intake.reject_row`."""
        for number, code in self.refused.items():
            reject_row(self.path, number, code)

    def check_all(self, others: Collection[str], fields: Collection[str]) -> None:
        """See that what is named of `fields` is a column here or one of `others`.

        Raises:
            ConfigError: It is in no table.
        """
        named = self.columns.named()
        asked = [named[field] for field in fields if field in named]
        for name in (*asked, *self.columns.names):
            if name not in others:
                self._check([name])

    def _of_names(self, optional: Collection[str]) -> list[int]:
        """Where the columns are that `Columns.names` lists or that are called by `NAME_COLUMNS`."""
        if "names" not in optional:
            self._check(self.columns.names)
        return [
            place
            for place, name in enumerate(self.frame.columns)
            if name in self.columns.names or _bare(name) in NAME_COLUMNS
        ]

    def _check(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.frame.columns:
                raise self._missing(name, "correct the name under columns")

    def _missing(self, name: str, remedy: str) -> ConfigError:
        there = ", ".join(self.frame.columns)
        return ConfigError(
            f"{self.path.name} has no column {name!r} (columns there: {there})", remedy=remedy
        )


def _bare(column: str) -> str:
    return re.sub(r"[^a-z]", "", fold(column).text)


def _cell(cell: Any) -> Any:
    if cell is None or isinstance(cell, list):
        return cell
    text = str(cell).strip()
    return text or None
