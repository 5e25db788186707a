"""The rows of a manifest in the making, kept in a run's spool until they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from medvlp.archive.spool import Rows, Spool
from medvlp.data.tables import TABLES

Row = dict[str, Any]

_RECORDS = "records"
_OWN = ("samples", "labels")
"""Tables that are more than a list of rows."""
_BLOCK = 1 << 16

_SCHEMA = (
    """samples (place INTEGER PRIMARY KEY, sample TEXT NOT NULL UNIQUE, patient TEXT NOT NULL,
        source_split TEXT, nodes INTEGER NOT NULL DEFAULT 0, known TEXT NOT NULL,
        body TEXT NOT NULL)""",
    "flags (sample TEXT, flag TEXT, PRIMARY KEY (sample, flag)) WITHOUT ROWID",
    "splits (patient TEXT PRIMARY KEY, split TEXT NOT NULL) WITHOUT ROWID",
    """labels (place INTEGER PRIMARY KEY, sample TEXT NOT NULL, name TEXT NOT NULL, value REAL,
        source TEXT, UNIQUE (sample, name))""",
    """prints (place INTEGER PRIMARY KEY, sample TEXT NOT NULL, digest TEXT NOT NULL,
        fingerprint TEXT NOT NULL)""",
    """sources (place INTEGER PRIMARY KEY, source TEXT NOT NULL, part INTEGER NOT NULL,
        path TEXT NOT NULL, UNIQUE (source, part))""",
)


class Books:
    """Rows of samples, texts, labels and so on; nothing of them stays in memory.

    Args:
        spool: Where they are kept.
    """

    def __init__(self, spool: Spool) -> None:
        self._db = spool.db
        lists = (name for name in (*TABLES, _RECORDS) if name not in _OWN)
        listed = (f"{name} (place INTEGER PRIMARY KEY, body TEXT NOT NULL)" for name in lists)
        for table in (*_SCHEMA, *listed):
            self._db.execute(f"CREATE TABLE {table}")

    def add(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a table of the manifest other than samples and labels."""
        for row in rows:
            self._db.execute(f"INSERT INTO {table} (body) VALUES (?)", (json.dumps(row),))

    def add_sample(self, row: Mapping[str, Any], known: Iterable[str]) -> None:
        """Append a sample, and the raw words that name its patient."""
        self._db.execute(
            "INSERT INTO samples (sample, patient, source_split, known, body)"
            " VALUES (?, ?, ?, ?, ?)",
            (
                row["sample"],
                row["patient"],
                row["source_split"],
                json.dumps(list(known)),
                json.dumps(row),
            ),
        )

    def has_sample(self, sample: str) -> bool:
        """Whether the sample is there."""
        query = "SELECT 1 FROM samples WHERE sample = ?"
        return self._db.execute(query, (sample,)).fetchone() is not None

    def any_sample(self) -> bool:
        """Whether there are samples at all."""
        return self._db.execute("SELECT 1 FROM samples LIMIT 1").fetchone() is not None

    def known(self, sample: str) -> frozenset[str]:
        """The raw words that name a sample's patient."""
        query = "SELECT known FROM samples WHERE sample = ?"
        return frozenset(json.loads(self._db.execute(query, (sample,)).fetchone()[0]))

    def nodes(self, sample: str) -> int:
        """How many text nodes a sample has."""
        query = "SELECT nodes FROM samples WHERE sample = ?"
        return int(self._db.execute(query, (sample,)).fetchone()[0])

    def add_nodes(self, sample: str, rows: Sequence[Row]) -> None:
        """Append text nodes to a sample."""
        self.add("texts", rows)
        query = "UPDATE samples SET nodes = nodes + ? WHERE sample = ?"
        self._db.execute(query, (len(rows), sample))

    def add_label(self, sample: str, name: str, value: float | None, source: str) -> None:
        """A label; the last word on it holds."""
        self._db.execute(
            "INSERT INTO labels (sample, name, value, source) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (sample, name) DO UPDATE SET"
            " value = excluded.value, source = excluded.source",
            (sample, name, value, source),
        )

    def add_flag(self, sample: str, flag: str) -> None:
        """A remark on a sample that was taken in before."""
        self._db.execute("INSERT OR IGNORE INTO flags VALUES (?, ?)", (sample, flag))

    def add_print(self, sample: str, digest: str, fingerprint: str) -> None:
        """A sample's digest of pixels, and its fingerprint (blank where it has none)."""
        self._db.execute(
            "INSERT INTO prints (sample, digest, fingerprint) VALUES (?, ?, ?)",
            (sample, digest, fingerprint),
        )

    def add_source(self, name: str, paths: Iterable[str]) -> None:
        """What a source id stands for."""
        self._db.executemany(
            "INSERT OR IGNORE INTO sources (source, part, path) VALUES (?, ?, ?)",
            [(name, part, path) for part, path in enumerate(paths)],
        )

    def add_record(self, record: Mapping[str, Any]) -> None:
        """A record that is written as a line of JSON."""
        self.add(_RECORDS, [record])

    def set_splits(self, splits: pl.DataFrame) -> None:
        """The split of each patient, as columns ``patient`` and ``split``."""
        self._db.executemany("INSERT INTO splits VALUES (?, ?)", splits.iter_rows())

    def flag_textless(self) -> None:
        """Flag the samples without a text."""
        self._db.execute(
            "INSERT OR IGNORE INTO flags SELECT sample, 'no_text' FROM samples WHERE nodes = 0"
        )

    def patients(self) -> pl.DataFrame:
        """Columns ``sample, patient, source_split, split`` of all samples, in order."""
        names = ("sample", "patient", "source_split", "split")
        split = "(SELECT split FROM splits WHERE splits.patient = samples.patient)"
        query = f"SELECT sample, patient, source_split, {split} FROM samples ORDER BY place"
        return self._frame(query, {name: pl.String() for name in names})

    def told_labels(self) -> pl.DataFrame:
        """Columns ``sample, name, value`` of all labels that are 1 or 0, in order."""
        query = "SELECT sample, name, value FROM labels WHERE value IN (0, 1) ORDER BY place"
        schema = {"sample": pl.String(), "name": pl.String(), "value": pl.Float64()}
        return self._frame(query, schema)

    def tables(self) -> dict[str, Sequence[Row]]:
        """The rows of every table of the manifest."""
        tables: dict[str, Sequence[Row]] = {name: self._list(name) for name in TABLES}
        tables["samples"] = Rows(
            self._db,
            "samples",
            "body, (SELECT split FROM splits WHERE splits.patient = samples.patient),"
            " (SELECT json_group_array(flag) FROM flags WHERE flags.sample = samples.sample)",
            _sample,
        )
        names = ("sample", "name", "value", "source")
        tables["labels"] = Rows(
            self._db, "labels", ", ".join(names), lambda row: dict(zip(names, row, strict=True))
        )
        return tables

    def records(self) -> Rows[Row]:
        """The records, in order."""
        return self._list(_RECORDS)

    def prints(self) -> Rows[Row]:
        """Rows ``sample, digest, fingerprint``."""
        names = ("sample", "digest", "fingerprint")
        return Rows(
            self._db, "prints", ", ".join(names), lambda row: dict(zip(names, row, strict=True))
        )

    def texts(self) -> Rows[Row]:
        """The text nodes."""
        return self._list("texts")

    def sources(self) -> Rows[Row]:
        """Rows ``source, part, path``."""
        names = ("source", "part", "path")
        return Rows(
            self._db, "sources", ", ".join(names), lambda row: dict(zip(names, row, strict=True))
        )

    def _list(self, name: str) -> Rows[Row]:
        return Rows(self._db, name, "body", lambda row: dict(json.loads(row[0])))

    def _frame(self, query: str, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        cursor = self._db.execute(query)
        frames = [pl.DataFrame(schema=schema)]
        while rows := cursor.fetchmany(_BLOCK):
            frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
        return pl.concat(frames)


def _sample(values: Sequence[Any]) -> Row:
    body, split, flags = values
    row: Row = json.loads(body)
    return {**row, "split": split, "flags": sorted({*row["flags"], *json.loads(flags)})}
