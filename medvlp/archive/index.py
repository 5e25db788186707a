"""`medvlp index`: a source of some kind becomes a manifest."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.privacy.withdrawals import Withdrawals
from medvlp.archive.stage.ledger import Ledger
from medvlp.archive.stage.turn import Overtaken, Turn
from medvlp.archive.summary import Summary
from medvlp.config import override, plain, read_yaml, validate
from medvlp.data.keys import KEY, key_id, read_key
from medvlp.data.manifest import QUALITY, Manifest, write_manifest
from medvlp.data.paths import absolute, path_to_text
from medvlp.data.seal import INFO, WITHDRAWN
from medvlp.data.swap import check_replaceable, folders, interrupted, private_folder
from medvlp.digest import digest_plain
from medvlp.domain import Ref, domains, get_domain
from medvlp.errors import ArchiveError, ConfigError, DiskError

_UNREAD = ("walk", "ignored", "row")
"""Reject stages that say that nothing of this kind was there to read."""

_REMEDIES = {
    "missing_file": "check the table's column of paths: they begin in the table's folder",
    "outside_root": "name what the links lead to, or give --set follow_links=true",
}
"""Of codes that may be why nothing was found."""

SourceKind = Callable[[Path, Intake], None]

CORE_KINDS: Mapping[str, Ref] = {
    "dicom": Ref("medvlp.archive.dicom.tree:index_dicom"),
    "table": Ref("medvlp.archive.tables.table:index_table"),
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
    allow_empty: bool = False,
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
        allow_empty: Whether a source with nothing to index gives a manifest without samples.

    Raises:
        ConfigError: Unknown kind, or options that do not fit.
        ArchiveError: The source is missing, holds nothing to index, or the key is unusable.
    """
    domain, ref = _kind(kind)
    options = _options(config, overrides)
    if options.domain is not None:
        get_domain(options.domain)
    # Readings bring back absolute paths, and kinds ask for a path's place under the source.
    source = absolute(source)
    out = out.resolve()
    if not source.exists():
        raise ArchiveError("the source does not exist", remedy="name an existing folder or file")
    if out.exists() and not replace and not interrupted(out):
        raise ArchiveError(
            f"{out.name} exists already", remedy="name another --out, or give --replace"
        )
    if not interrupted(out):
        check_replaceable(out)
    given = None if key is None else read_key(key)
    _refuse_another_key(out, given, options.project)
    with Turn(out) as turn:
        secret = turn.key(given)
        names = Pseudonyms(secret, options.issuer, options.project)
        beside = None if key is None else key.parent
        run = _Run(source, kind, domain, out, options, names, allow_empty, beside)
        if out.exists() and not replace:
            return run.summary_of_another()  # written, or finished, since the line above
        try:
            with Ledger(turn.private) as ledger:
                summary = run.index(ref.load(), turn, ledger, secret)
                return dataclasses.replace(
                    summary, read=ledger.tally["read"], known=ledger.tally["known"]
                )
        except sqlite3.OperationalError as error:
            raise DiskError(
                f"{turn.private.name} cannot take the rows of this run ({error.sqlite_errorname})",
                remedy="see that its disk is there and not full, then run the command again",
            ) from error


@dataclass(frozen=True)
class _Run:
    """One indexing, as it was asked for."""

    source: Path
    kind: str
    domain: str | None
    out: Path
    options: IndexConfig
    pseudonyms: Pseudonyms
    allow_empty: bool
    beside: Path | None
    """The private folder of the manifest whose key is used: its withdrawals hold here, too."""

    @property
    def job(self) -> str:
        """Keyed digest of what was asked for: equal in processes that may share the work."""
        options = {**plain(self.options), "workers": None, "engine": None}
        return self.pseudonyms.source(digest_plain([path_to_text(self.source), self.kind, options]))

    def index(self, read: SourceKind, turn: Turn, ledger: Ledger, key: bytes) -> Summary:
        """Read; then assemble and write, unless another process has done so meanwhile."""
        withdrawn = Withdrawals.load(turn.private, self.pseudonyms)
        if self.beside is not None:
            withdrawn = withdrawn.merged(Withdrawals.load(self.beside, self.pseudonyms))
        intake = Intake(
            self.source,
            self.options,
            self.pseudonyms,
            self.domain,
            skip=folders(self.out),
            ledger=ledger,
            assemble=turn.take,
            withdrawn=withdrawn,
        )
        try:
            read(self.source, intake)
            turn.take()
        except Overtaken:
            return self.summary_of_another()
        tables, sources, info, summary = intake.finish()
        unread = all(stage in _UNREAD for stage, _ in summary.by_code)
        if not summary.samples and unread and not self.allow_empty:
            raise ArchiveError(
                f"no sample of kind {self.kind} in the source: {_why(summary)}",
                remedy=_remedy({code for _, code in summary.by_code}),
            )
        info |= {"kind": self.kind, "key_id": self.pseudonyms.key_id, "job": self.job}
        records = intake.books.records()
        files = {QUALITY: records} if len(records) else {}
        stones = intake.tombstones()
        private = {WITHDRAWN: stones.to_bytes()} if stones.stones else {}
        write_manifest(
            self.out,
            tables,
            sources,
            info,
            key=key,
            replace=True,
            files=files,
            private_files=private,
        )
        return dataclasses.replace(summary, vanished=ledger.finish())

    def summary_of_another(self) -> Summary:
        """The summary of the manifest that another process has written.

        Raises:
            ArchiveError: It was asked for something else.
        """
        manifest = Manifest.open(self.out)
        if manifest.info.get("job") != self.job:
            raise ArchiveError(
                f"another medvlp index has written {self.out.name} with other options meanwhile",
                remedy="name another --out, or give --replace",
            )
        samples, rejects = manifest.samples, manifest.rejects
        return Summary.of(
            manifest.info["counts"],
            samples.select("domain", "split", "flags").iter_rows(named=True),
            rejects.select("stage", "code").iter_rows(named=True),
            manifest.info["notes"],
        )


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


def _refuse_another_key(out: Path, given: bytes | None, project: str) -> None:
    """Patients of a manifest that is replaced keep their pseudonyms, and with them their splits.

    Raises:
        ArchiveError: The key at hand, or the project, is another than that of the manifest.
    """
    kept = private_folder(out) / KEY
    if (told := _told_key(out)) is None:
        return
    if given is None and not kept.exists():
        raise ArchiveError(
            f"{kept.parent.name} with the key of {out.name} is missing, and a new key would give "
            "its patients other pseudonyms and other splits",
            remedy=f"restore {kept.parent.name}, give its --key, or name another --out",
        )
    key = read_key(kept) if kept.exists() else given
    assert key is not None
    if key_id(key, project) != told:
        raise ArchiveError(
            f"{out.name} was made with another key or project, and changing either would give its "
            "patients other pseudonyms and other splits",
            remedy="use the same --key and project, or name another --out",
        )


def _told_key(out: Path) -> str | None:
    """The key id of a manifest, None where there is none that can be read."""
    try:
        return str(json.loads((out / INFO).read_text(encoding="utf-8"))["key_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remedy(codes: Set[str]) -> str:
    found = [remedy for code, remedy in _REMEDIES.items() if code in codes]
    return "; ".join([*found, "check the source folder and --kind"])


def _why(summary: Summary) -> str:
    codes = ", ".join(f"{code} {n}" for (_, code), n in sorted(summary.by_code.items())[:5])
    return f"{summary.found} files found" + (f" ({codes})" if codes else "")
