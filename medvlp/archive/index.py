"""`medvlp index`: a source of some kind becomes a manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.pseudonyms import Pseudonyms
from medvlp.archive.summary import Summary
from medvlp.config import override, read_yaml, validate
from medvlp.data.keys import KEY, new_key, read_key
from medvlp.data.manifest import private_folder, write_manifest
from medvlp.domain import Ref, domains, get_domain
from medvlp.errors import ArchiveError, ConfigError

_UNREAD = ("walk", "ignored")
"""Reject stages that say that nothing of this kind was there to read."""

SourceKind = Callable[[Path, Intake], None]

CORE_KINDS: Mapping[str, Ref] = {
    "dicom": Ref("medvlp.archive.dicom_tree:index_dicom"),
    "table": Ref("medvlp.archive.table:index_table"),
}


def index_archive(
    source: Path,
    *,
    kind: str,
    out: Path,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    key: Path | None = None,
    replace: bool = False,
) -> Summary:
    """Read an archive into a manifest; nothing is written unless all of it is.

    Args:
        source: The folder or file to index.
        kind: A source kind of the core or of an installed domain.
        out: The manifest folder; `OUT.private` beside it takes the key and the paths.
        config: YAML file with the fields of `IndexConfig`.
        overrides: Such as ``columns.text=Befund``.
        key: An existing key file; by default that of `OUT.private`, or a new one.
        replace: Whether an existing manifest is replaced.

    Raises:
        ConfigError: Unknown kind, or options that do not fit.
        ArchiveError: The source is missing, holds nothing to index, or the key is unusable.
    """
    domain, ref = _kind(kind)
    options = _options(config, overrides)
    if options.domain is not None:
        get_domain(options.domain)
    if not source.exists():
        raise ArchiveError("the source does not exist", remedy="name an existing folder or file")
    if out.exists() and not replace:
        raise ArchiveError(
            f"{out.name} exists already", remedy="name another --out, or give --replace"
        )
    secret = _key(out, key)
    intake = Intake(
        source, options, Pseudonyms(secret, options.issuer), domain, skip=(out, private_folder(out))
    )
    run: SourceKind = ref.load()
    run(source, intake)
    tables, sources, info, summary = intake.finish()
    if not tables["samples"] and not any(row["stage"] not in _UNREAD for row in tables["rejects"]):
        raise ArchiveError(
            f"no sample of kind {kind} in the source: {_why(summary)}",
            remedy="check the source folder and --kind",
        )
    info = {**info, "kind": kind, "key_id": intake.pseudonyms.key_id}
    write_manifest(out, tables, sources, info, key=secret, replace=replace)
    return summary


def kinds() -> dict[str, tuple[str | None, Ref]]:
    """Every source kind: its domain (None for the core's) and where its reader is."""
    found: dict[str, tuple[str | None, Ref]] = {k: (None, ref) for k, ref in CORE_KINDS.items()}
    for name, domain in domains().items():
        found |= {kind: (name, ref) for kind, ref in domain.kinds.items()}
    return found


def _kind(kind: str) -> tuple[str | None, Ref]:
    known = kinds()
    if kind not in known:
        raise ConfigError(
            f"kind {kind!r} is unknown", remedy=f"give --kind one of {', '.join(sorted(known))}"
        )
    return known[kind]


def _options(config: Path | None, overrides: Sequence[str]) -> IndexConfig:
    values = {} if config is None else read_yaml(config)
    if not isinstance(values, dict):
        raise ConfigError(
            f"{config.name if config else ''} holds no key: value pairs",
            remedy="write options such as reports: reports.csv",
        )
    where = config.name if config else "--set"
    checked: IndexConfig = validate(IndexConfig, override(values, overrides), where)
    return checked


def _key(out: Path, given: Path | None) -> bytes:
    kept = private_folder(out) / KEY
    if given is None:
        return read_key(kept) if kept.exists() else new_key()
    key = read_key(given)
    if kept.exists() and read_key(kept) != key:
        raise ArchiveError(
            f"{kept.parent.name} holds another key than --key, and replacing it would lose it",
            remedy=f"leave out --key, or move {kept.parent.name} away",
        )
    return key


def _why(summary: Summary) -> str:
    codes = ", ".join(f"{code} {n}" for (_, code), n in sorted(summary.by_code.items())[:5])
    return f"{summary.found} files found" + (f" ({codes})" if codes else "")
