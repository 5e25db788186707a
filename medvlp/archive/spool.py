"""What one run writes down, kept on disk: memory stays flat however many files there are.

A temporary SQLite file without journal and without syncing. It holds raw identifiers, so it lies
in the private folder and loses its name as soon as it is open: whatever ends the process, nothing
of it stays.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from medvlp.data.paths import path_from_text, path_to_text

PREFIX = ".spool-"
_CHUNK = 1024
_SETTINGS = ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=MEMORY")

R = TypeVar("R")
Item = tuple[Path, ...]
"""The files of one reading, in order."""


class Database(sqlite3.Connection):
    """A connection that is closed when nobody holds it any more."""

    def __del__(self) -> None:
        self.close()


class Rows(Sequence[R], Generic[R]):
    """Rows of a table, in the order in which they were added, read when they are asked for.

    No cursor stays open between two rows, so the tables may change while they are gone through.

    Args:
        db: The database.
        table: A table with the rising integer key `place`.
        columns: What is selected.
        make: Makes a row of the selected values.
        where: Which rows, as an SQL condition.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        table: str,
        columns: str,
        make: Callable[[Sequence[Any]], R],
        where: str = "1",
    ) -> None:
        self._db = db
        self._from = f"FROM {table} WHERE ({where})"
        self._columns = columns
        self._make = make

    def __len__(self) -> int:
        return int(self._db.execute(f"SELECT count(*) {self._from}").fetchone()[0])

    def __iter__(self) -> Iterator[R]:
        after_place = f"{self._from} AND place > ? ORDER BY place LIMIT {_CHUNK}"
        query = f"SELECT place, {self._columns} {after_place}"
        after = -1
        while rows := self._db.execute(query, (after,)).fetchall():
            after = rows[-1][0]
            for row in rows:
                yield self._make(row[1:])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        query = f"SELECT {self._columns} {self._from} ORDER BY place LIMIT 1 OFFSET ?"
        place = index if index >= 0 else index + len(self)
        row = self._db.execute(query, (place,)).fetchone() if place >= 0 else None
        if row is None:
            raise IndexError(index)
        return self._make(row)


class Spool:
    """A run's temporary database; `db` is in one transaction that never ends.

    Args:
        folder: Where the file is made, for its owner alone; without one it stays in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            self.db = _connect(":memory:")
        else:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX) as file:
                self.db = _connect(file.name)
        self._lists = 0

    def close(self) -> None:
        """Forget everything."""
        self.db.close()

    def keep(self, items: Iterable[Item]) -> Rows[Item]:
        """A list of items that can be gone through again and again."""
        self._lists += 1
        table = f"items_{self._lists}"
        self.db.execute(f"CREATE TABLE {table} (place INTEGER PRIMARY KEY, item TEXT NOT NULL)")
        for item in items:
            # One at a time: whoever makes the items may write to this database too.
            self.db.execute(f"INSERT INTO {table} (item) VALUES (?)", (item_to_text(item),))
        return Rows(self.db, table, "item", lambda row: item_from_text(row[0]))


def item_to_text(item: Item) -> str:
    """An item's paths as one line of JSON; names that are no valid text survive."""
    return json.dumps([path_to_text(path) for path in item])


def item_from_text(text: str) -> Item:
    """The inverse of `item_to_text`."""
    return tuple(path_from_text(path) for path in json.loads(text))


def _connect(name: str) -> sqlite3.Connection:
    # Whichever thread collects garbage may be the one that closes it.
    db = sqlite3.connect(name, isolation_level=None, factory=Database, check_same_thread=False)
    settings = (
        "journal_mode=OFF",
        "synchronous=OFF",
        "locking_mode=EXCLUSIVE",
        "temp_store=MEMORY",
    )
    for setting in settings:
        db.execute(f"PRAGMA {setting}").fetchall()
    db.execute("BEGIN IMMEDIATE")
    return db
