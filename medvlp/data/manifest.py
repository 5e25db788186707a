"""The manifest: one folder of Parquet tables that describes a data set, and its private folder.

`OUT/` holds the tables of `medvlp.data.tables` and `manifest.json`; nothing in it names a patient.
`OUT.private/` (mode 0700) holds the key of the pseudonyms, `sources.parquet`, the only place where
a source id is tied to a path, and the audit log.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from medvlp import __version__
from medvlp.data.keys import KEY, write_key
from medvlp.data.paths import path_from_text
from medvlp.data.seal import INFO, KEPT, SOURCES, check_files, seal, tables_digest
from medvlp.data.swap import BOTH, check_replaceable, interrupted, recover, replacing
from medvlp.data.swap import private_folder as private_folder
from medvlp.data.tables import SCHEMA_VERSION, TABLES
from medvlp.digest import digest_file
from medvlp.errors import ConfigError, ManifestError
from medvlp.plain_files import own_file, read_json

QUALITY = "qc.jsonl"
"""What was found of each series, one line of JSON each, where a source has series."""

_SOURCES_SCHEMA = pa.schema([("source", pa.string()), ("part", pa.int32()), ("path", pa.string())])
_BLOCK = 1 << 11
"""Rows of a table that are in memory at once."""
_REINDEX = "index the source again with medvlp index"

Row = dict[str, Any]

Shown = tuple[str, tuple[float, float] | None]
"""A recording, by its content's SHA-256, and a span of it in seconds."""


class Manifest:
    """An opened manifest; tables are read when they are first asked for.

    Use `Manifest.open`, which checks the schema and every table's digest.
    """

    def __init__(self, path: Path, info: Mapping[str, Any]) -> None:
        self.path = path
        self.info = dict(info)
        self.undecodable: frozenset[Shown] = frozenset()
        """What is left out of everything that is read from here; see `without`."""

    @classmethod
    def open(cls, path: Path | str) -> Manifest:
        """Open the manifest in the folder `path`.

        Raises:
            ManifestError: It is missing, of another schema version, or a table is missing,
                damaged, or has other columns than the schema, or there are files that are none of
                the manifest's.
        """
        folder = Path(path).resolve()
        info = _read_info(folder)
        for name, schema in TABLES.items():
            _check_table(folder, name, schema, info)
        check_files(folder, info)
        return cls(folder, info)

    def without(self, spans: Iterable[Shown]) -> Manifest:
        """The same manifest, less spans that turned out not to decode.

        Indexing looks at every frame of short recordings alone.
        """
        less = copy.copy(self)
        less.undecodable = self.undecodable.union(spans)
        return less

    def _table(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.path / f"{name}.parquet")

    @cached_property
    def samples(self) -> pl.DataFrame:
        """One row a sample."""
        return self._table("samples")

    @cached_property
    def texts(self) -> pl.DataFrame:
        """One row a text node."""
        return self._table("texts")

    @cached_property
    def labels(self) -> pl.DataFrame:
        """One row a sample and label name."""
        return self._table("labels")

    @cached_property
    def entities(self) -> pl.DataFrame:
        """One row an anatomy and observation that a text node names."""
        return self._table("entities")

    @cached_property
    def regions(self) -> pl.DataFrame:
        """One row a box, mask or interval."""
        return self._table("regions")

    @cached_property
    def rejects(self) -> pl.DataFrame:
        """One row a file that was quarantined or ignored, or a table's row that was refused."""
        return self._table("rejects")

    @cached_property
    def subsets(self) -> pl.DataFrame:
        """Few-shot subsets of the training split."""
        return self._table("subsets")

    @cached_property
    def duplicates(self) -> pl.DataFrame:
        """One row a pair of samples that show or say the same."""
        return self._table("duplicates")

    @property
    def key_id(self) -> str:
        """Public fingerprint of the key that made the pseudonyms."""
        return str(self.info["key_id"])

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that the samples belong to, sorted."""
        return tuple(self.info["domains"])

    @property
    def digest(self) -> str:
        """SHA-256 over all tables: equal digests mean the same data."""
        return tables_digest(self.info)

    @property
    def private(self) -> Path:
        """The private folder beside this manifest."""
        return private_folder(self.path)

    def paths(self, source: str) -> tuple[Path, ...]:
        """The files behind a source id, in order.

        Raises:
            ManifestError: The private folder is missing or does not know the id.
        """
        found = self._paths.get(source)
        if found is None:
            raise ManifestError(
                f"source {source} is not in {self.private.name}",
                remedy=f"restore {self.private.name} beside the manifest, or {_REINDEX}",
            )
        return found

    @cached_property
    def _paths(self) -> dict[str, tuple[Path, ...]]:
        file = self.private / SOURCES
        try:
            frame = pl.read_parquet(file)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ManifestError(
                f"{self.private.name}/{SOURCES} is missing or unreadable: "
                "the manifest alone does not say where the files are",
                remedy=f"restore {self.private.name} beside the manifest, or {_REINDEX}",
            ) from error
        ordered: dict[str, list[Path]] = {}
        for source, path in frame.sort("source", "part").select("source", "path").iter_rows():
            ordered.setdefault(source, []).append(path_from_text(path))
        return {source: tuple(parts) for source, parts in ordered.items()}


def write_manifest(
    out: Path,
    tables: Mapping[str, Iterable[Row]],
    sources: Iterable[Row],
    info: Mapping[str, Any],
    *,
    key: bytes,
    replace: bool = False,
    command: str = "index",
    files: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    private_files: Mapping[str, bytes] | None = None,
    remarks: Mapping[str, str] | None = None,
) -> Manifest:
    """Write a manifest and its private files, all or nothing, and enter it in the audit log.

    Other files of the private folder stay as they are. Nobody else may write `out` meanwhile.

    Args:
        out: The manifest folder.
        tables: Rows of each table of `medvlp.data.tables`; a missing table is empty.
        sources: Rows ``source, part, path``; `path` as `path_to_text` gives it.
        info: Further plain values for `manifest.json`: at least ``key_id`` and ``counts``.
        key: The pseudonyms' key, kept in the private folder.
        replace: Whether an existing manifest may be replaced.
        command: What the audit log says was done.
        files: Further files by name, each of JSON values that are written one a line.
        private_files: Further files of the private folder, in place of those of the same name.
        remarks: What else the audit log keeps; nothing about a person.

    Raises:
        ManifestError: `out` exists and `replace` is not given, or the audit log is broken.
    """
    recover(out)
    if out.exists() and not replace:
        raise ManifestError(
            f"{out.name} exists already", remedy="name another --out, or give --replace"
        )
    check_replaceable(out)
    with replacing(out) as (folder, private):
        _write_private(private, sources, key, private_folder(out))
        for name, data in (private_files or {}).items():
            (private / name).unlink(missing_ok=True)
            _write_bytes(private / name, data, mode=0o600)
        entries = {
            name: _write_table(folder / f"{name}.parquet", tables.get(name, []), schema)
            for name, schema in TABLES.items()
        }
        digests = {
            name: _write_lines(folder / name, values) for name, values in (files or {}).items()
        }
        full = {
            "schema_version": SCHEMA_VERSION,
            "medvlp": __version__,
            "domains": sorted({row["domain"] for row in tables.get("samples", [])}),
            **info,
            "tables": entries,
            "files": digests,
        }
        _write_bytes(folder / INFO, seal(full, key, private, command, **(remarks or {})))
    return Manifest.open(out)


def open_all(paths: Iterable[Path | str]) -> list[Manifest]:
    """Open several manifests that are to be used together.

    Raises:
        ManifestError: Their keys differ (one patient would carry two pseudonyms), a sample
            stands in two of them, or a patient stands in two splits.
    """
    manifests = [Manifest.open(path) for path in paths]
    if not manifests:
        raise ManifestError("no manifest is given", remedy="name at least one manifest folder")
    key_ids = {m.key_id for m in manifests}
    if len(key_ids) > 1:
        raise ManifestError(
            f"the {len(manifests)} manifests were made with {len(key_ids)} different keys, so a "
            "patient they share cannot be recognised",
            remedy="index them again with the same --key",
        )
    _refuse_shared_samples(manifests)
    _refuse_split_patients(manifests)
    return manifests


def _refuse_shared_samples(manifests: Sequence[Manifest]) -> None:
    samples = pl.concat([m.samples.select("sample") for m in manifests])
    twice = samples.height - samples.n_unique()
    if twice:
        raise ManifestError(
            f"{twice} samples stand in more than one of the manifests",
            remedy="leave out the manifest that repeats the others",
        )


def _refuse_split_patients(manifests: Sequence[Manifest]) -> None:
    pairs = pl.concat([m.samples.select("patient", "split") for m in manifests]).unique()
    counts = pairs.group_by("patient").len().filter(pl.col("len") > 1).sort("patient")
    if counts.height:
        raise ManifestError(
            f"{counts.height} patients stand in two splits across the manifests, "
            f"such as {counts['patient'][0]}",
            remedy="index them again with the same --key and --set split.policy=hash",
        )


def _read_info(folder: Path) -> dict[str, Any]:
    if not (folder / INFO).is_file():
        raise ManifestError(
            f"{folder.name} is no manifest: it has no {INFO}",
            remedy="run medvlp index again: it was interrupted and finishes its work"
            if interrupted(folder)
            else "name a folder that medvlp index wrote",
        )
    try:
        info = read_json(folder / INFO)
        version = info["schema_version"]
        if not _is_typed(info):
            raise TypeError
    except (ConfigError, KeyError, TypeError) as error:
        raise ManifestError(f"{folder.name}/{INFO} is damaged", remedy=_REINDEX) from error
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{folder.name} has schema version {version}, this medvlp reads {SCHEMA_VERSION}",
            remedy=f"{_REINDEX}, or use the medvlp version that wrote it",
        )
    checked: dict[str, Any] = info
    return checked


def _is_typed(info: Mapping[str, Any]) -> bool:
    tables, files = info["tables"], info.get("files", {})
    return (
        isinstance(tables, dict)
        and all(isinstance(value, dict) for value in (files, *tables.values()))
        and isinstance(info["key_id"], str)
        and isinstance(info["domains"], list)
    )


def _check_table(folder: Path, name: str, schema: pa.Schema, info: Mapping[str, Any]) -> None:
    file = folder / f"{name}.parquet"
    entry = info["tables"].get(name)
    if entry is None or own_file(folder, file.name) is None:
        raise ManifestError(f"{folder.name} lacks {name}.parquet", remedy=_REINDEX)
    if digest_file(file) != entry.get("sha256"):
        raise ManifestError(
            f"{folder.name}/{name}.parquet differs from its digest in {INFO}",
            remedy=f"restore the file, or {_REINDEX}",
        )
    metadata = pq.read_metadata(file)
    if not metadata.schema.to_arrow_schema().equals(schema):
        raise ManifestError(
            f"{folder.name}/{name}.parquet has other columns than schema {SCHEMA_VERSION}",
            remedy=_REINDEX,
        )
    if metadata.num_rows != entry.get("rows"):
        raise ManifestError(
            f"{folder.name}/{name}.parquet has {metadata.num_rows} rows, "
            f"{INFO} says {entry.get('rows')}",
            remedy=_REINDEX,
        )


def _write_private(private: Path, sources: Iterable[Row], key: bytes, earlier: Path) -> None:
    for name in KEPT:
        if (earlier / name).is_file():
            shutil.copy2(earlier / name, private / name)
    write_key(private / KEY, key)
    _write_table(private / SOURCES, sources, _SOURCES_SCHEMA)
    if (earlier / SOURCES).is_file():
        _write_both(private, earlier / SOURCES)
    for name in (SOURCES, BOTH):
        if (private / name).exists():
            (private / name).chmod(0o600)


def _write_both(private: Path, earlier: Path) -> None:
    """The new sources with those of `earlier` that are not among them, if there are such."""
    new = pl.scan_parquet(private / SOURCES)
    on = ["source", "part"]
    try:
        lost = pl.scan_parquet(earlier).join(new, on=on, how="anti").collect(engine="streaming")
    except (OSError, pl.exceptions.PolarsError):
        return  # damaged: nobody can read it any more
    if lost.height:
        rows = chain(new.collect().iter_rows(named=True), lost.iter_rows(named=True))
        _write_table(private / BOTH, rows, _SOURCES_SCHEMA)


def _write_table(file: Path, rows: Iterable[Row], schema: pa.Schema) -> Row:
    count = 0
    rest = iter(rows)
    empty = pl.from_arrow(pa.Table.from_batches([], schema=schema))
    assert isinstance(empty, pl.DataFrame)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while block := list(islice(rest, _BLOCK)):
            # pa.Table.from_pylist would import pandas where it is installed.
            writer.write_table(pl.from_dicts(block, schema=empty.schema).to_arrow().cast(schema))
            count += len(block)
    with file.open("rb") as written:
        os.fsync(written.fileno())
    return {"sha256": digest_file(file), "rows": count}


def _write_lines(file: Path, values: Iterable[Mapping[str, Any]]) -> str:
    with file.open("x", encoding="utf-8") as stream:
        for value in values:
            stream.write(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return digest_file(file)


def _write_bytes(file: Path, data: bytes, mode: int = 0o644) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
