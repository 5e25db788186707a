"""What became of every file: found = accepted + quarantined + ignored, by construction.

The files' states belong to one run. They live in its spool and are written down in
`OUT.private/ledger.sqlite`, beside the readings, when the run ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from pathlib import Path

from medvlp.archive.spool import Item, Rows, item_to_text
from medvlp.archive.stage.results import CHUNK, Results
from medvlp.data.paths import path_from_text, path_to_text


class State(StrEnum):
    """The end of a file's way; it has exactly one."""

    ACCEPTED = "accepted"
    QUARANTINED = "quarantined"
    IGNORED = "ignored"


class Ledger(Results):
    """The files of a run and their states, and the readings that outlive it.

    A file is known by its absolute path.

    Args:
        folder: The private folder, which holds the database; without one nothing outlives the run.

    Raises:
        ArchiveError: The database is damaged, or of another version.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._run(
            "CREATE TABLE files (place INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, state TEXT,"
            " listed INTEGER NOT NULL DEFAULT 0, hidden INTEGER NOT NULL DEFAULT 0)"
        )
        self._run("CREATE TABLE hidden (item TEXT PRIMARY KEY) WITHOUT ROWID")

    def find(self, path: Path, *, listed: bool = False) -> None:
        """Count a file as found; finding it again changes nothing.

        Args:
            path: The file.
            listed: Whether `listed` names it while it has no state.
        """
        query = "INSERT OR IGNORE INTO files (path, listed) VALUES (?, ?)"
        self._run(query, path_to_text(path), listed)

    def unlist(self, path: Path) -> None:
        """Keep a file out of `listed`."""
        self._run("UPDATE files SET listed = 0 WHERE path = ?", path_to_text(path))

    def settle(self, path: Path, state: State) -> bool:
        """Give a file its state; true if it had none before.

        Raises:
            ValueError: It has another state already (a defect of a source kind, not of the file).
        """
        before = self.state(path)
        if before is not None:
            if before is not state:
                raise ValueError(f"a file that is {before} cannot become {state}")
            return False
        self._run(
            "INSERT INTO files (path, state) VALUES (?, ?)"
            " ON CONFLICT (path) DO UPDATE SET state = excluded.state",
            path_to_text(path),
            state.value,
        )
        return True

    def hide(self, path: Path) -> None:
        """Keep a file's path, and what was read of it or its folder, out of the ledger's file."""
        self._run("UPDATE files SET hidden = 1 WHERE path = ?", path_to_text(path))
        for place in (path, *path.parents):
            self.hide_reading((place,))

    def hide_reading(self, item: Item) -> None:
        """Forget what was read of an item when the run ends."""
        self._run("INSERT OR IGNORE INTO hidden VALUES (?)", item_to_text(item))

    def drop(self, path: Path) -> None:
        """Forget a container whose members are counted in its place."""
        self._run("DELETE FROM files WHERE path = ?", path_to_text(path))

    def state(self, path: Path) -> State | None:
        """The file's state, None while it has none or is not found."""
        row = self._run("SELECT state FROM files WHERE path = ?", path_to_text(path)).fetchone()
        return State(row[0]) if row and row[0] else None

    def open(self, paths: Iterable[Path]) -> list[Path]:
        """Those of `paths` that have no state yet."""
        return [path for path in paths if self.state(path) is None]

    def listed(self) -> Rows[Path]:
        """The files to go through that have no state yet, in the order in which they were found."""
        return self._files("state IS NULL AND listed")

    def unsettled(self) -> Rows[Path]:
        """All files found that have no state yet, in the order in which they were found."""
        return self._files("state IS NULL")

    def counts(self) -> dict[str, int]:
        """Files found, accepted, quarantined, ignored.

        Raises:
            ValueError: A file has no state.
        """
        tally = dict(self._run("SELECT state, count(*) FROM files GROUP BY state").fetchall())
        if None in tally:
            raise ValueError(f"{tally[None]} files have no state")
        return {"found": sum(tally.values()), **{s.value: tally.get(s.value, 0) for s in State}}

    def finish(self) -> int:
        """Write down the files' states, and forget readings of which this run made no use.

        Returns:
            Files of the run before that are not there any more.
        """
        with self._errors():
            known = "SELECT 1 FROM files WHERE path = ? AND NOT hidden"
            vanished = self._forget("files", "path", known)
            self._run("DELETE FROM used WHERE item IN (SELECT item FROM hidden)")
            self._forget_unused()
        rows = iter(Rows(self.spool.db, "files", "path, state", tuple, "NOT hidden"))
        while chunk := list(islice(rows, CHUNK)):
            with self._write():
                self._db.executemany(
                    "INSERT OR REPLACE INTO files (path, state) VALUES (?, ?)", chunk
                )
        return vanished

    def _files(self, where: str) -> Rows[Path]:
        return Rows(self.spool.db, "files", "path", lambda row: path_from_text(row[0]), where)
