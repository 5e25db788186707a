"""What readings found, shared by all processes that work on one OUT, and by later runs.

`OUT.private/ledger.sqlite` is one SQLite database for processes of one machine or of several with a
common file system (rollback journal, no shared memory). A run that was killed, or an archive that
grew, costs the new readings only.
"""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

from medvlp.archive.spool import Database, Item, Rows, Spool, item_to_text
from medvlp.archive.stage.owner import Owner
from medvlp.data.paths import path_to_text
from medvlp.digest import digest_plain
from medvlp.errors import ArchiveError, DiskError

LEDGER = "ledger.sqlite"
LEASE_S = 900.0
"""After this long without a sign of life the claims of a process on another host are taken over."""

_VERSION = 1
_BUSY_S = 300.0
_POLL_S = 0.2
CHUNK = 256
"""Rows that are looked at together."""

_AHEAD_S = 2.0
"""Items are claimed for about so long a time at once, so that processes end together."""

_SCHEMA = (
    """CREATE TABLE owners (
        id INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT, pid INTEGER, started TEXT, seen REAL)""",
    """CREATE TABLE readings (
        place INTEGER PRIMARY KEY, reading TEXT NOT NULL, item TEXT NOT NULL, stamp TEXT NOT NULL,
        owner INTEGER NOT NULL, result BLOB, UNIQUE (reading, item))""",
    "CREATE INDEX claims ON readings (reading, owner) WHERE result IS NULL",
    "CREATE TABLE files ("
    "place INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, state TEXT NOT NULL)",
    f"PRAGMA user_version = {_VERSION}",
)
_OF_THE_RUN = (
    "mine (reading TEXT, item TEXT, PRIMARY KEY (reading, item)) WITHOUT ROWID",
    "used (reading TEXT, item TEXT, PRIMARY KEY (reading, item)) WITHOUT ROWID",
)


def stamp(paths: Iterable[Path]) -> str:
    """What tells whether files changed: size, time of content and time of status of each.

    A folder's stamp is that of all files in it; what is not there is ``none``.
    """
    return ";".join(_stamp(path) for path in paths)


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "none"
    if not path.is_dir():
        return f"{status.st_size},{status.st_mtime_ns},{status.st_ctime_ns}"
    inside = sorted(file for file in path.rglob("*") if not file.is_dir())
    return digest_plain([(path_to_text(file), _stamp(file)) for file in inside])


class Results:
    """Results of readings, each claimed, found and kept once.

    A reading is known by a name that changes with whatever would make it find something else.

    Args:
        folder: The private folder, which holds `LEDGER`; without one nothing outlives the run.

    Raises:
        ArchiveError: The ledger is damaged, or of another version.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.spool = Spool(folder)
        for table in _OF_THE_RUN:
            self.spool.db.execute(f"CREATE TABLE {table}")
        self.tally: Counter[str] = Counter()
        """Files that were ``read`` by this process, or ``known`` to it from another one."""

        self._name = "the ledger" if folder is None else f"{folder.name}/{LEDGER}"
        self._pace = 8.0
        self._me = 0
        with self._errors():
            self._db = _open(folder / LEDGER if folder else None)
        with self._write():
            self._check()
            self._me = self._enter()
            self._seen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what this process claimed, and forget the run."""
        with self._write():
            self._leave([self._me])
        self._db.close()
        self.spool.close()

    def pending(self, reading: str, items: Iterable[Item]) -> Iterator[Item]:
        """Claim, one after the other, the items that have no valid result yet, and yield them.

        Call `store` for every item yielded, then call again with the same items until nothing is
        yielded: what other processes claimed is left to them, unless they ended. A call that
        finds nothing but others' claims waits for them.

        Args:
            reading: The reading's name.
            items: Its items; gone through more than once, so no iterator.
        """
        while True:
            yielded = busy = 0
            rest = iter(items)
            while chunk := list(islice(rest, self._ahead())):
                claimed, others = self._claim(reading, chunk)
                busy += others
                started = time.monotonic()
                yield from claimed
                yielded += len(claimed)
                self._learn_pace(len(claimed), time.monotonic() - started)
            if yielded or not busy:
                return
            self._await_others(reading)

    def store(self, reading: str, rows: Iterable[tuple[Item, str]]) -> None:
        """Keep the results of claimed items, all of them in one transaction.

        The result of an item that was claimed by somebody else meanwhile is dropped.
        """
        texts = []
        files = 0
        for item, result in rows:
            files += len(item)
            packed = zlib.compress(result.encode("utf-8", "surrogatepass"), 1)
            texts.append((packed, reading, item_to_text(item), self._me))
        with self._write():
            self._db.executemany(
                "UPDATE readings SET result = ? WHERE reading = ? AND item = ? AND owner = ?", texts
            )
            self._seen()
        self.tally["read"] += files
        for _, _, text, _ in texts:
            self._run("INSERT OR IGNORE INTO mine VALUES (?, ?)", reading, text)

    def results(self, reading: str, items: Iterable[Item]) -> Iterator[tuple[Item, str]]:
        """The items and their results, in order, once `pending` has nothing left.

        Raises:
            ArchiveError: An item has no result.
        """
        rest = iter(items)
        query = "SELECT result, owner FROM readings WHERE reading = ? AND item = ?"
        while chunk := list(islice(rest, CHUNK)):
            with self._errors():
                keys = [(reading, item_to_text(item)) for item in chunk]
                found = [self._db.execute(query, key).fetchone() for key in keys]
            for item, key, row in zip(chunk, keys, found, strict=True):
                if row is None or row[0] is None:
                    raise ArchiveError(
                        f"{self._name} has lost a reading: another medvlp index works there",
                        remedy="wait until it is done, then run the command again",
                    )
                new = self._run("INSERT OR IGNORE INTO used VALUES (?, ?)", *key).rowcount
                if new and row[1] != self._me:
                    self.tally["known"] += len(item)
                yield item, zlib.decompress(row[0]).decode("utf-8", "surrogatepass")

    def _forget_unused(self) -> None:
        """Forget the results that this run had no use for; other processes keep what they need."""
        self._forget(
            "readings",
            "reading, item",
            "SELECT 1 FROM used WHERE reading = ? AND item = ?",
            f"result IS NOT NULL AND owner NOT IN (SELECT id FROM owners WHERE id <> {self._me})",
        )

    def _forget(self, table: str, columns: str, known: str, where: str = "1") -> int:
        """Delete the rows of a table that the run does not know; how many they were."""
        gone = 0
        rows = iter(Rows(self._db, table, f"place, {columns}", tuple, where))
        while chunk := list(islice(rows, CHUNK)):
            lost = [(row[0],) for row in chunk if self._run(known, *row[1:]).fetchone() is None]
            with self._write():
                self._db.executemany(f"DELETE FROM {table} WHERE place = ?", lost)
            gone += len(lost)
        return gone

    def _run(self, query: str, *values: str | int) -> sqlite3.Cursor:
        return self.spool.db.execute(query, values)

    def _ahead(self) -> int:
        return int(min(max(self._pace * _AHEAD_S, 1), CHUNK))

    def _learn_pace(self, items: int, seconds: float) -> None:
        if items:
            self._pace = items / max(seconds, 1e-3)

    def _claim(self, reading: str, chunk: Sequence[Item]) -> tuple[list[Item], int]:
        """Those of a chunk that are ours to read now, and how many others are reading."""
        keys = [(item, item_to_text(item), stamp(item)) for item in chunk]
        with self._errors():
            if all(self._valid(reading, text, now) for _, text, now in keys):
                return [], 0
        claimed: list[Item] = []
        busy = 0
        with self._write():
            self._release_dead()
            for item, text, now in keys:
                if self._valid(reading, text, now):
                    continue
                if self._others(reading, text):
                    busy += 1
                    continue
                self._db.execute(
                    "INSERT INTO readings (reading, item, stamp, owner) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (reading, item) DO UPDATE SET"
                    " stamp = excluded.stamp, owner = excluded.owner, result = NULL",
                    (reading, text, now, self._me),
                )
                claimed.append(item)
            self._seen()
        return claimed, busy

    def _valid(self, reading: str, item: str, now: str) -> bool:
        query = "SELECT stamp FROM readings WHERE reading = ? AND item = ? AND result IS NOT NULL"
        row = self._db.execute(query, (reading, item)).fetchone()
        if row is None or row[0] == now:
            return row is not None
        # What this run has read holds although the file changed since, or a file that never
        # rests would be read for ever.
        mine = self._run("SELECT 1 FROM mine WHERE reading = ? AND item = ?", reading, item)
        return mine.fetchone() is not None

    def _others(self, reading: str, item: str) -> bool:
        query = "SELECT owner FROM readings WHERE reading = ? AND item = ? AND result IS NULL"
        row = self._db.execute(query, (reading, item)).fetchone()
        return bool(row and row[0] != self._me)

    def _await_others(self, reading: str) -> None:
        query = "SELECT 1 FROM readings WHERE reading = ? AND result IS NULL AND owner <> ? LIMIT 1"
        while True:
            with self._errors():
                busy = self._db.execute(query, (reading, self._me)).fetchone()
                dead = self._dead()
            if not busy or dead:
                return
            time.sleep(_POLL_S)

    def _dead(self) -> list[int]:
        owners = self._db.execute("SELECT id, host, pid, started, seen FROM owners").fetchall()
        dead = []
        for number, host, pid, started, seen in owners:
            owner = Owner(host, pid, started)
            ended = owner.gone() if owner.near else time.time() - seen > LEASE_S
            if ended and number != self._me:
                dead.append(number)
        return dead

    def _release_dead(self) -> None:
        if dead := self._dead():
            self._leave(dead)

    def _leave(self, owners: Sequence[int]) -> None:
        for number in owners:
            self._db.execute("DELETE FROM readings WHERE owner = ? AND result IS NULL", (number,))
            self._db.execute("DELETE FROM owners WHERE id = ?", (number,))

    def _enter(self) -> int:
        self._release_dead()
        cursor = self._db.execute("INSERT INTO owners (seen) VALUES (0)")
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _seen(self) -> None:
        # Whoever believed this process dead has struck it off.
        me = Owner.this()
        self._db.execute(
            "INSERT OR REPLACE INTO owners (id, host, pid, started, seen) VALUES (?, ?, ?, ?, ?)",
            (self._me, me.host, me.pid, me.started, time.time()),
        )

    def _check(self) -> None:
        """Make the tables of a new ledger, and trust no damaged or foreign one."""
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _SCHEMA:
                self._db.execute(statement)
        elif version != _VERSION:
            raise self._refusal(f"has version {version}, this medvlp keeps {_VERSION}")
        elif self._db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise self._refusal("is damaged")

    @contextmanager
    def _write(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.commit()
            except BaseException:
                self._db.rollback()
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DiskError(
                f"{self._name} cannot be used ({error.sqlite_errorname})",
                remedy="see that its disk is there and not full, then run the command again",
            ) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            raise self._refusal("is damaged") from error

    def _refusal(self, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self._name} {what}",
            remedy=f"delete {LEDGER} there (the key stays) and run the command again: "
            "every file is then read anew",
        )


def _open(file: Path | None) -> sqlite3.Connection:
    if file is not None:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    name = file or ":memory:"
    db = sqlite3.connect(
        name, timeout=_BUSY_S, isolation_level=None, factory=Database, check_same_thread=False
    )
    # What is deleted is overwritten, for it may be what a patient asked to be forgotten.
    for setting in ("journal_mode=DELETE", "secure_delete=ON"):
        db.execute(f"PRAGMA {setting}").fetchall()
    return db
