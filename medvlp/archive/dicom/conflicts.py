"""Files that contradict each other: found over a whole archive, in tables on disk.

An identifier is believed only if all files that carry it agree: a study has one patient, a series
one study, an instance one image.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.scan import Scan
from medvlp.archive.dicom.second import has_second
from medvlp.archive.dicom.values import tag_name
from medvlp.archive.spool import Item, Rows, Spool
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.data.paths import path_from_text, path_to_text
from medvlp.digest import digest_plain

_TABLES = (
    """CREATE TABLE dicom_files (
        place INTEGER PRIMARY KEY, path TEXT NOT NULL, unit TEXT NOT NULL, sop TEXT NOT NULL,
        image TEXT NOT NULL, patient TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL,
        bucket TEXT NOT NULL, codec TEXT NOT NULL, code TEXT, tag TEXT NOT NULL DEFAULT '')""",
    """CREATE TABLE dicom_slices (
        place INTEGER PRIMARY KEY, path TEXT NOT NULL, bucket TEXT NOT NULL)""",
)
_INDICES = ("sop", "study", "series", "bucket")

_DISAGREE = """UPDATE dicom_files SET code = ?, tag = ? WHERE code IS NULL AND {key} IN (
    SELECT {key} FROM dicom_files WHERE code IS NULL AND {key} <> '' AND {value} <> ''
    GROUP BY {key} HAVING count(DISTINCT {value}) > 1)"""
_RULES = (
    ("identity_conflict", "StudyInstanceUID", "study", "patient"),
    ("identity_conflict", "SeriesInstanceUID", "series", "patient"),
    ("identity_conflict", "SOPInstanceUID", "sop", "patient"),
    ("uid_conflict", "SOPInstanceUID", "sop", "image"),
)
_COPIES = """UPDATE dicom_files SET code = 'duplicate_file' WHERE code IS NULL AND sop <> ''
    AND place NOT IN (SELECT min(place) FROM dicom_files WHERE code IS NULL GROUP BY sop)"""
_IGNORED = frozenset({"duplicate_file"})


class Register:
    """The DICOM files of one run by their identifiers, on disk.

    Add every file, then `settle`; then go through `refused`, `singles` and `slices`.

    Args:
        spool: The run's temporary database.
    """

    def __init__(self, spool: Spool) -> None:
        self._db: sqlite3.Connection = spool.db
        for statement in _TABLES:
            self._db.execute(statement)

    def add(self, path: Path, scan: Scan, unit: str) -> None:
        """Enter a file that can be read.

        Args:
            path: The file.
            scan: What reading it found.
            unit: ``file`` or ``series``.
        """
        header = scan.header
        image = [scan.pixels.digest, [(p.position, p.orientation) for p in header.planes]]
        row = {
            "path": path_to_text(path),
            "unit": unit,
            "sop": header.sop,
            "image": digest_plain(image),
            "patient": header.patient,
            "study": header.study,
            "series": header.series,
            "bucket": json.dumps(_bucket(path, header)),
            "codec": f"{header.transfer_syntax} {header.scanner}" if has_second(header) else "",
        }
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        self._db.execute(f"INSERT INTO dicom_files ({names}) VALUES ({marks})", (*row.values(),))

    def refuse(self, refusals: Mapping[Path, Verdict]) -> None:
        """Files that are not believed, whatever the others say."""
        rows = ((v.code, v.message, path_to_text(path)) for path, v in refusals.items())
        self._db.execute("CREATE INDEX IF NOT EXISTS dicom_by_path ON dicom_files (path)")
        self._db.executemany("UPDATE dicom_files SET code = ?, tag = ? WHERE path = ?", rows)

    def settle(self) -> None:
        """Find the files that contradict each other, and those that are there twice."""
        for column in _INDICES:
            self._db.execute(f"CREATE INDEX dicom_by_{column} ON dicom_files ({column}, place)")
        for code, keyword, key, value in _RULES:
            self._db.execute(_DISAGREE.format(key=key, value=value), (code, tag_name(keyword)))
        self._db.execute(_COPIES)
        tag = tag_name("SeriesInstanceUID")
        self._db.execute(_DISAGREE.format(key="series", value="study"), ("uid_conflict", tag))
        self._db.execute(
            """INSERT INTO dicom_slices (path, bucket)
            SELECT path, bucket FROM dicom_files AS f WHERE code IS NULL AND unit = 'series'
            ORDER BY (SELECT min(place) FROM dicom_files WHERE bucket = f.bucket), place"""
        )

    @property
    def refused(self) -> Rows[tuple[Path, Verdict]]:
        """Files that are not accepted, and why."""
        return Rows(
            self._db,
            "dicom_files",
            "path, code, tag",
            lambda row: (path_from_text(row[0]), _verdict(row[1], row[2])),
            "code IS NOT NULL",
        )

    @property
    def codecs(self) -> Rows[Item]:
        """The first file of each transfer syntax and scanner that two decoders can read."""
        first = "place IN (SELECT min(place) FROM dicom_files WHERE codec <> '' GROUP BY codec)"
        return self._items(first)

    @property
    def compressed(self) -> Rows[Item]:
        """All the files that two decoders can read."""
        return self._items("codec <> ''")

    @property
    def singles(self) -> Rows[Item]:
        """Files that are a sample each."""
        return self._items("code IS NULL AND unit = 'file'")

    def _items(self, which: str) -> Rows[Item]:
        return Rows(self._db, "dicom_files", "path", lambda row: (path_from_text(row[0]),), which)

    @property
    def slices(self) -> Rows[Item]:
        """Files that are parts of series, those that could share a volume together."""
        return Rows(self._db, "dicom_slices", "path", lambda row: (path_from_text(row[0]),))

    @property
    def buckets(self) -> Rows[str]:
        """For each of `slices`, a word that it shares with those that could be of its volume."""
        return Rows(self._db, "dicom_slices", "bucket", lambda row: str(row[0]))

    @property
    def series(self) -> int:
        """How many different words `buckets` holds."""
        query = "SELECT count(DISTINCT bucket) FROM dicom_slices"
        return int(self._db.execute(query).fetchone()[0])

    def scattered(self, series: str) -> bool:
        """Whether one series identifier stands in files that cannot share a volume."""
        query = "SELECT count(DISTINCT bucket) FROM dicom_files WHERE series = ? AND code IS NULL"
        return bool(self._db.execute(query, (series,)).fetchone()[0] > 1)


def _bucket(path: Path, header: Header) -> list[str]:
    where = header.series or f"{path_to_text(path.parent)} {header.series_number}"
    return [header.patient, header.study, where]


def _verdict(code: str, tag: str) -> Verdict:
    return Ignore(code) if code in _IGNORED else Reject(code, tag)
