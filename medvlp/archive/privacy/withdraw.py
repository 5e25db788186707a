"""A patient's withdrawal reaches a manifest, its private folder and all later imports."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from medvlp.archive.duplicates.find import FLAG
from medvlp.archive.privacy.pseudonyms import NAME
from medvlp.archive.privacy.rewrite import MAPPING, Opened, Row
from medvlp.archive.privacy.stored import StoredReadings
from medvlp.archive.stage.turn import Turn
from medvlp.data.audit import AuditLog
from medvlp.data.manifest import write_manifest
from medvlp.data.paths import path_to_text
from medvlp.data.seal import WITHDRAWN

_SHARED = ("study", "series")
"""Columns of samples whose values several samples, by mistake of several patients, may share."""


@dataclass(frozen=True)
class Withdrawn:
    """What a withdrawal took out of a manifest."""

    patients: int
    """How many were named."""

    found: int
    """How many of them are known: by the manifest, its readings, a file's name, or an earlier
    withdrawal."""

    rows: Counter[str]
    """Rows of each table, lines of other files, and stored readings."""

    old_digests: frozenset[str]
    """Digests that the manifest ever had."""


def withdraw(path: Path, people: Collection[str]) -> Withdrawn:
    """Take patients out of a manifest and keep them out.

    Args:
        path: The manifest.
        people: Their raw numbers or their pseudonyms.

    Raises:
        ManifestError: The manifest was edited, or its private folder is missing.
        ArchiveError: Somebody else writes it.
    """
    with Turn(path) as turn:
        turn.take()
        opened = Opened.of(path)
        return _Withdrawal(opened, set(people)).carry_out()


class _Withdrawal:
    """One withdrawal from one manifest."""

    def __init__(self, opened: Opened, people: set[str]) -> None:
        self.opened = opened
        self.raw = {p.strip() for p in people if not NAME.fullmatch(p.strip())}
        named = {p.strip() for p in people if NAME.fullmatch(p.strip())}
        self.patients = named | {opened.pseudonyms.patient(raw) for raw in self.raw}
        self.private = opened.manifest.private

    def carry_out(self) -> Withdrawn:
        """Rewrite the manifest and the private folder."""
        tables, sources = self.opened.tables(), self.opened.sources()
        samples = [row for row in tables["samples"] if row["patient"] in self.patients]
        ledger = StoredReadings(self.private)
        theirs = ledger.of(self.opened.pseudonyms, self.patients, _studies(samples, tables))
        self.raw |= theirs.patients
        names = self._names(tables, sources, samples, theirs.files)
        kept = {name: [r for r in rows if not _mentions(r, names)] for name, rows in tables.items()}
        _flag_copies(kept)
        kept_sources = [row for row in sources if row["source"] not in names]
        lines = {
            name: [line for line in told if not names & set(NAME.findall(line))]
            for name, told in self.opened.lines().items()
        }
        digests = {row["sha256"] for row in samples} - {r["sha256"] for r in kept["samples"]}
        paths = {row["path"] for row in sources} - {row["path"] for row in kept_sources}
        paths |= {path_to_text(path) for path in theirs.files}
        buried = self.opened.withdrawals.with_names(
            {*names, *digests, *self._older(names), *theirs.study_names}
        ).with_files(ledger.stamps(paths))
        gone = Counter({name: len(rows) - len(kept[name]) for name, rows in tables.items()})
        gone += Counter({n: len(v) - len(lines[n]) for n, v in self.opened.lines().items()})
        info = self.opened.info()
        info["counts"] = self._counts(tables, kept, sources, kept_sources, samples)
        log = [entry["manifest"] for entry in AuditLog(self.private, self.opened.key).entries()]
        write_manifest(
            self.opened.manifest.path,
            kept,
            kept_sources,
            info,
            key=self.opened.key,
            replace=True,
            command="forget",
            files={name: [json.loads(line) for line in told] for name, told in lines.items()},
            private_files={WITHDRAWN: buried.to_bytes(), **self._mapping(names)},
            remarks={"withdrawn": str(len(self.patients))},
        )
        gone["readings"] = ledger.forget(paths, theirs.items, self._named_in, buried)
        known = {row["patient"] for row in samples} | self._known(theirs.patients, sources)
        return Withdrawn(len(self.patients), len(known), gone, frozenset(log))

    def _known(self, read: Iterable[str], sources: Iterable[Row]) -> set[str]:
        """Who is known by readings, by a file's name, or by an earlier withdrawal."""
        called = set().union(*(_words(row["path"]) for row in sources))
        numbers = {*read, *(raw for raw in self.raw if self._telling(raw) and raw in called)}
        before = {name for name in self.patients if self.opened.withdrawals.holds_name(name)}
        return before | self.patients & {self.opened.pseudonyms.patient(raw) for raw in numbers}

    def _names(
        self, tables: dict[str, list[Row]], sources: list[Row], samples: list[Row], files: set[Path]
    ) -> set[str]:
        """Every pseudonym that is theirs alone."""
        ids = {row["sample"] for row in samples}
        names = self.patients | ids
        names |= {row[k] for row in samples for k in _SHARED if row[k]}
        names -= {r[k] for r in tables["samples"] if r["sample"] not in ids for k in _SHARED}
        refs = {row["ref"] for row in tables["regions"] if row["sample"] in ids and row["ref"]}
        theirs = {row["source"] for row in samples} | {r for r in refs if NAME.fullmatch(r)}
        paths = {path_to_text(path) for path in files}
        by_source: dict[str, set[str]] = {}
        for row in sources:
            by_source.setdefault(row["source"], set()).add(row["path"])
        theirs |= {source for source, told in by_source.items() if told <= paths}
        theirs |= {s for s, told in by_source.items() if any(map(self._named_in, told))}
        others = {r["source"] for r in tables["samples"] if r["sample"] not in ids}
        return names | (theirs - others)

    def _named_in(self, path: str) -> bool:
        """Whether a path names one of the patients by number."""
        return any(self._telling(raw) for raw in self.raw & _words(path))

    @staticmethod
    def _telling(number: str) -> bool:
        """Whether a number in a path is hardly there by chance."""
        return len(number) > 3

    def _older(self, names: Iterable[str]) -> set[str]:
        """What they were called before the key was rotated."""
        file = self.private / MAPPING
        if not file.is_file():
            return set()
        return set(pl.read_parquet(file).filter(pl.col("new").is_in(list(names)))["old"])

    def _mapping(self, names: set[str]) -> dict[str, bytes]:
        file = self.private / MAPPING
        if not file.is_file():
            return {}
        buffer = io.BytesIO()
        pl.read_parquet(file).filter(~pl.col("new").is_in(list(names))).write_parquet(buffer)
        return {MAPPING: buffer.getvalue()}

    def _counts(
        self,
        tables: dict[str, list[Row]],
        kept: dict[str, list[Row]],
        sources: list[Row],
        kept_sources: list[Row],
        samples: list[Row],
    ) -> dict[str, int]:
        """Files found, without theirs."""
        counts = Counter(self.opened.manifest.info["counts"])
        stages = Counter(row["stage"] for row in tables["rejects"])
        stages -= Counter(row["stage"] for row in kept["rejects"])
        ignored = stages.pop("ignored", 0)
        stages.pop("row", None)
        quarantined = sum(stages.values())
        ids = {row["source"] for row in samples}
        paths = {row["path"] for row in sources if row["source"] in ids}
        accepted = len(paths - {row["path"] for row in kept_sources})
        counts["ignored"] -= ignored
        counts["quarantined"] -= quarantined
        counts["accepted"] -= min(accepted, counts["accepted"])
        counts["found"] = counts["accepted"] + counts["quarantined"] + counts["ignored"]
        return dict(counts)


def _mentions(row: Row, names: set[str]) -> bool:
    """Whether a row is about one of the names; free text is none of them."""
    cells = (value for name, value in row.items() if isinstance(value, str) and name != "text")
    return any(not names.isdisjoint(NAME.findall(cell)) for cell in cells)


def _flag_copies(tables: dict[str, list[Row]]) -> None:
    """Take the flag from samples whose copies in another split are gone."""
    pairs = [row for row in tables["duplicates"] if row["across_splits"]]
    copied = {row[name] for row in pairs for name in ("sample", "other")}
    for row in tables["samples"]:
        row["flags"] = [f for f in row["flags"] if f != FLAG or row["sample"] in copied]


def _studies(samples: list[Row], tables: dict[str, list[Row]]) -> set[str]:
    """The studies that are of these samples alone."""
    ids = {row["sample"] for row in samples}
    others = {row["study"] for row in tables["samples"] if row["sample"] not in ids}
    return {row["study"] for row in samples} - others


def _words(path: str) -> set[str]:
    return set(path.replace("\\", "/").replace(".", "/").replace("_", "/").split("/"))
