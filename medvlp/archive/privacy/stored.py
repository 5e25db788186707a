"""What a ledger's file keeps of a patient, and how it is taken out of it."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlp.archive.privacy.persons import Person, persons_in
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.privacy.withdrawals import Withdrawals
from medvlp.archive.spool import item_from_text
from medvlp.archive.stage.results import LEDGER, stamp
from medvlp.data.paths import path_from_text
from medvlp.progress import track


@dataclass
class Theirs:
    """The readings that name one of some patients."""

    patients: set[str] = field(default_factory=set)
    """Their raw numbers."""
    study_names: set[str] = field(default_factory=set)
    """Pseudonyms of their studies and accession numbers."""
    items: set[str] = field(default_factory=set)
    """The readings' items, as the ledger writes them."""
    files: set[Path] = field(default_factory=set)
    """The files that name nobody else."""


class StoredReadings:
    """The ledger of a private folder, between two runs; there may be none.

    Args:
        private: The private folder.
    """

    def __init__(self, private: Path) -> None:
        self._file = private / LEDGER

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Each item as the ledger writes it, and the JSON of what was found."""
        if not self._file.is_file():
            return
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as db:
            count = db.execute("SELECT count(*) FROM readings").fetchone()[0]
            rows = db.execute("SELECT item, result FROM readings WHERE result IS NOT NULL")
            for item, result in track(rows, "Searching what was read", total=count):
                text = zlib.decompress(result).decode("utf-8", "surrogatepass")
                yield item, json.loads(text)

    def of(self, pseudonyms: Pseudonyms, patients: Collection[str], studies: set[str]) -> Theirs:
        """The readings of patients, found by their numbers, or by studies that are theirs alone.

        Args:
            pseudonyms: Of the manifest's key.
            patients: Pseudonyms.
            studies: Pseudonyms of studies that are known to be theirs.
        """
        found = Theirs(study_names=set(studies))
        others: set[str] = set()
        for _, result in self:
            for person in persons_in(result):
                held = {p for p in person.patients if pseudonyms.patient(p) in patients}
                found.patients |= held
                if person.patients:
                    names = found.study_names if held else others
                    names |= {pseudonyms.study(study) for study in person.studies}
        found.study_names -= others
        for item, result in self:
            theirs = [_is_theirs(person, found, pseudonyms) for person in persons_in(result)]
            if any(theirs):
                found.items.add(item)
            if theirs and all(theirs):
                found.files.update(item_from_text(item))
        return found

    def stamps(self, paths: Collection[str]) -> dict[Path, str]:
        """The stamp of each file as it was read, or as it is now if it was read in a folder."""
        known: dict[str, str] = {}
        if self._file.is_file():
            with closing(sqlite3.connect(self._file)) as db:
                for item, told in db.execute("SELECT item, stamp FROM readings"):
                    parts = zip(json.loads(item), told.split(";"), strict=False)
                    known |= {path: part for path, part in parts if path in paths and "," in part}
        files = {path_from_text(path): known.get(path) for path in paths}
        return {path: told or stamp([path]) for path, told in files.items()}

    def held(self, withdrawals: Withdrawals) -> int:
        """How many readings are of somebody who has withdrawn."""
        held = {item for item, result in self if withdrawals.holds_reading(result)[0]}
        if self._file.is_file():
            with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as db:
                for item, told in db.execute("SELECT item, stamp FROM readings"):
                    files = zip(item_from_text(item), told.split(";"), strict=False)
                    if any(withdrawals.holds_file(path, now) for path, now in files):
                        held.add(item)
        return len(held)

    def forget(
        self,
        paths: set[str],
        items: set[str],
        named: Callable[[str], bool],
        buried: Withdrawals,
    ) -> int:
        """Remove what is kept of files, also from the pages that SQLite keeps for reuse.

        Args:
            paths: The files, as the ledger writes them.
            items: Items whose readings go, though their files stay.
            named: Whether a path names one of the patients.
            buried: Finds what names them by pseudonym or digest.

        Returns:
            How many readings were removed.
        """
        if not self._file.is_file():
            return 0
        gone = set(items)
        for item, result in self:
            text = json.dumps(result)
            if not paths.isdisjoint(json.loads(item)) or named(item) or buried.found_in(text):
                gone.add(item)
        with closing(sqlite3.connect(self._file, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete=ON").fetchall()
            files = {path for (path,) in db.execute("SELECT path FROM files") if named(path)}
            db.execute("BEGIN IMMEDIATE")
            db.executemany("DELETE FROM readings WHERE item = ?", [(item,) for item in gone])
            db.executemany("DELETE FROM files WHERE path = ?", [(p,) for p in files | paths])
            db.execute("COMMIT")
            db.execute("VACUUM")
        return len(gone)


def _is_theirs(person: Person, found: Theirs, pseudonyms: Pseudonyms) -> bool:
    if person.patients:
        return not person.patients.isdisjoint(found.patients)
    return any(pseudonyms.study(study) in found.study_names for study in person.studies)
