"""A manifest written anew from itself: with other pseudonyms, or without a patient."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.archive.privacy.pseudonyms import NAME, Pseudonyms, moved
from medvlp.archive.privacy.withdrawals import Withdrawals
from medvlp.archive.stage.results import LEDGER
from medvlp.data.keys import KEY, new_key, read_key
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.seal import SOURCES, WITHDRAWN, check_seal
from medvlp.data.swap import private_folder
from medvlp.data.tables import TABLES
from medvlp.errors import ArchiveError, ManifestError

MAPPING = "mapping.parquet"
"""In the private folder of a manifest whose key was rotated: pseudonyms before and after."""

_MADE = ("schema_version", "medvlp", "domains", "tables", "files", "audit", "private", "mac")
"""What writing a manifest adds to its information."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A sound manifest with its private folder, to be written anew."""

    manifest: Manifest
    key: bytes
    pseudonyms: Pseudonyms
    withdrawals: Withdrawals

    @classmethod
    def of(cls, path: Path) -> Opened:
        """Open a manifest whose seal holds.

        Raises:
            ManifestError: It was edited, or its private folder is not beside it.
        """
        manifest = Manifest.open(path)
        if not (manifest.private / KEY).is_file():
            raise ManifestError(
                f"{manifest.private.name} with the key of {path.name} is missing",
                remedy=f"restore {manifest.private.name} beside the manifest",
            )
        check_seal(path, manifest.info, manifest.private)
        key = read_key(manifest.private / KEY)
        pseudonyms = names_of(manifest, key)
        return cls(manifest, key, pseudonyms, Withdrawals.load(manifest.private, pseudonyms))

    def tables(self) -> dict[str, list[Row]]:
        """The rows of every table."""
        frames = {name: getattr(self.manifest, name) for name in TABLES}
        return {name: frame.to_dicts() for name, frame in frames.items()}

    def sources(self) -> list[Row]:
        """The rows of ``sources.parquet``."""
        return pl.read_parquet(self.manifest.private / SOURCES).to_dicts()

    def lines(self) -> dict[str, list[str]]:
        """The further files of the manifest, by name, one text a line."""
        return {
            name: (self.manifest.path / name).read_text(encoding="utf-8").splitlines()
            for name in self.manifest.info.get("files", {})
        }

    def info(self) -> dict[str, Any]:
        """The information that a new manifest takes over."""
        return {name: v for name, v in self.manifest.info.items() if name not in _MADE}


def names_of(manifest: Manifest, key: bytes) -> Pseudonyms:
    """The pseudonyms of a manifest under a key."""
    options = manifest.info.get("options", {})
    return Pseudonyms(key, options.get("issuer", ""), options.get("project", ""))


def rekey(path: Path, out: Path, key: Path | None = None) -> str:
    """Write a manifest anew under a rotated key; its splits and subsets stay as they are.

    Every pseudonym and every shifted date becomes another one. The private folder of `out` takes
    the key with its new link and `MAPPING`, old pseudonym to new one; the old manifest stays.

    Args:
        path: The manifest.
        out: The new manifest's folder.
        key: A rotated key that another manifest was given, so that both share it; by default the
            manifest's own key takes a new link.

    Returns:
        What was done, in a sentence.

    Raises:
        ManifestError: The manifest was edited, or `out` exists.
        ArchiveError: `key` is no rotation of the manifest's key.
    """
    if out.exists() or private_folder(out).exists():
        raise ManifestError(f"{out.name} exists already", remedy="name another --out")
    opened = Opened.of(path)
    fresh = opened.key + new_key() if key is None else read_key(key)
    if not fresh.startswith(opened.key) or len(fresh) != len(opened.key) + 32:
        raise ArchiveError(
            "--key is no rotation of the manifest's key by one link",
            remedy="leave out --key, or give the key that rekey wrote for a manifest of this key",
        )
    after = names_of(opened.manifest, fresh)
    renaming = _Renaming(opened.pseudonyms, after)
    tables = {
        name: [renaming.row(row, keep=("text",)) for row in rows]
        for name, rows in opened.tables().items()
    }
    for row, was in zip(tables["samples"], opened.manifest.samples["patient"], strict=True):
        row["acquired"] = renaming.date(was, row["acquired"])
    info: Row = json.loads(renaming.text(json.dumps(opened.info())))
    stones = {after.tombstone(stone) for stone in opened.withdrawals.stones}
    private = {MAPPING: renaming.parquet()}
    if stones:
        private[WITHDRAWN] = Withdrawals(after, stones).to_bytes()
    write_manifest(
        out,
        tables,
        [renaming.row(row, keep=("path",)) for row in opened.sources()],
        {**info, "key_id": after.key_id},
        key=fresh,
        command="rekey",
        files={
            name: [json.loads(renaming.text(line)) for line in lines]
            for name, lines in opened.lines().items()
        },
        private_files=private,
        remarks={"from_key": opened.pseudonyms.key_id, "from": opened.manifest.digest},
    )
    _copy_ledger(opened.manifest.private, private_folder(out))
    return (
        f"{out.name}: {len(renaming.names):,} pseudonyms of {path.name} renamed, splits kept; "
        f"remove {path.name} and its private folder when nothing needs them any more"
    )


class _Renaming:
    """Old pseudonyms to new ones, and which were met."""

    def __init__(self, before: Pseudonyms, after: Pseudonyms) -> None:
        self._before = before
        self._after = after
        self.names: dict[str, str] = {}

    def text(self, text: str) -> str:
        """A text with every pseudonym in it renamed."""
        return NAME.sub(lambda match: self._new(match[0]), text)

    def row(self, row: Mapping[str, Any], keep: tuple[str, ...]) -> Row:
        """A row with the pseudonyms in its cells renamed, but for those of columns `keep`."""
        return {
            name: self.text(value) if isinstance(value, str) and name not in keep else value
            for name, value in row.items()
        }

    def date(self, patient: str, date: str | None) -> str | None:
        """A shifted date, shifted otherwise."""
        new = self._after.shift_days(self._new(patient))
        return moved(date, self._before.shift_days(patient) - new)

    def parquet(self) -> bytes:
        """The table of all names."""
        buffer = io.BytesIO()
        rows = sorted(self.names.items())
        pl.DataFrame(rows, schema=["old", "new"], orient="row").write_parquet(buffer)
        return buffer.getvalue()

    def _new(self, name: str) -> str:
        return self.names.setdefault(name, self._after.renamed(name))


def _copy_ledger(private: Path, out: Path) -> None:
    """What was read once need not be read again for the new manifest."""
    if (private / LEDGER).is_file():
        (out / LEDGER).touch(0o600)
        with (
            closing(sqlite3.connect(private / LEDGER)) as old,
            closing(sqlite3.connect(out / LEDGER)) as new,
        ):
            old.backup(new)
