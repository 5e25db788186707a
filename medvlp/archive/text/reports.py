"""Reports that come apart from the images are joined to studies.

Sources: text files, tables, FHIR, Open-I's XML and Structured Reports (`report_files`). A report
finds its study by accession number, StudyInstanceUID or name. Studies are claimed while the
archive is read and joined at the end, when every claim is known, so that the order of files decides
nothing. Which of several versions counts, `versions` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlp.archive.containers import SUFFIXES as PACKED
from medvlp.archive.intake import Intake
from medvlp.archive.stage.reading import Reading
from medvlp.archive.tables.columns import UserTable
from medvlp.archive.text.document import (
    Document,
    checked_text,
    seconds_of,
    status_of,
    version_of,
)
from medvlp.archive.text.report_files import TABLES, UNREADABLE, Refused, Told, may_hold_reports
from medvlp.archive.text.versions import Settled, settle
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.archive.walk import walk
from medvlp.domain import Ref
from medvlp.errors import ArchiveError, ConfigError
from medvlp.progress import track

OF_REPORTS = ("text", "accession", "study_uid", "names")
"""Fields whose columns may stand in the user's table of images or in that of reports."""

_FIELDS = (*OF_REPORTS, "status", "version", "issued", "patient")
_JOINS = ("accession", "study_uid")
_READING = Reading(
    read=Ref("medvlp.archive.text.report_files:read_report_file"), result=Told, version=1
)


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """One document; `row` is its place in `file` where the file holds several."""

    document: Document
    file: Path
    row: int | None
    rank: int
    """Reports that the user names (0) go before those found among the images (1)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sample says of its study."""

    accession: str | None = None
    study_uid: str | None = None
    name: str | None = None
    """A name that may be either."""
    patient: str | None = None


@dataclass(slots=True)
class _Wanted:
    """The studies that have to do with one document."""

    agreeing: list[Claim] = field(default_factory=list)
    contradicting: list[Claim] = field(default_factory=list)


class ReportIndex:
    """Joins documents to the samples of their study.

    A report is joined to nothing (``pair_conflict``) if what it says belongs to two studies or
    patients, or if another final report of the same study says something else. Empty reports are
    listed as ``empty_report``; files that no study asked for are quarantined at the end.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.columns: set[str] = set()
        """What the columns of its tables are called."""

        self._entries: list[_Entry] = []
        self._by_key: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._claims: dict[Claim, list[str]] = defaultdict(list)
        intake.at_finish(self._close)

    def add(self, document: Document, file: Path, row: int | None, *, rank: int = 0) -> None:
        """Take in one document."""
        number = len(self._entries)
        self._entries.append(_Entry(document, file, row, rank))
        for key in _keys(document):
            self._by_key[key].append(number)

    def read(self, paths: Iterable[Path], *, rank: int = 0) -> Iterator[Path]:
        """Take in the reports of files; yields those that hold none."""
        items = ((path,) for path in paths)
        for (path,), told in self._intake.read(_READING, items, "Reading reports"):
            if isinstance(told, Ignore):
                yield path
                continue
            self._intake.reserve(path)
            if isinstance(told, Verdict):
                self._intake.reject(path, "read", told.code, told.message)
                continue
            self._take(path, told, rank)

    def attach(
        self,
        sample: str,
        *,
        accession: str | None = None,
        study_uid: str | None = None,
        name: str | None = None,
        patient: str | None = None,
    ) -> bool:
        """Ask for the report of a sample's study; it is attached at the end.

        Args:
            sample: Pseudonymous sample id.
            accession: Raw accession number.
            study_uid: Raw StudyInstanceUID.
            name: A raw name that may be either of them, such as the image file's.
            patient: Raw patient number; a report of another patient is not joined.

        Returns:
            Whether a report taken in so far goes by one of these keys.
        """
        claim = Claim(*map(_bare, (accession, study_uid, name, patient)))
        if any(_claim_keys(claim)):
            self._claims[claim].append(sample)
        return any(self._by_key.get(key) for key in _claim_keys(claim))

    def _take(self, path: Path, told: Told, rank: int) -> None:
        if not told.whole:
            self._intake.cover([path])
        for number, document in enumerate(told.documents, start=1):
            row = None if told.whole else number
            if isinstance(document, Refused):
                self._intake.reject_row(path, number, document.code, document.message)
            elif document.keyed:
                self.add(document, path, row, rank=rank)
            else:
                self._refuse(_Entry(document, path, row, rank), "no_key")

    def _close(self) -> None:
        wanted, by_claim = self._matches()
        state: dict[int, str] = {
            number: "pair_conflict" for number, w in wanted.items() if self._torn(number, w)
        }
        for claim, numbers in track(by_claim.items(), "Joining reports"):
            free = [n for n in numbers if state.get(n) != "pair_conflict"]
            self._settle(claim, free, state)
        for number, entry in enumerate(self._entries):
            self._file(entry, state.get(number, "report_without_study"))

    def _matches(self) -> tuple[dict[int, _Wanted], dict[Claim, list[int]]]:
        """Per document the claims that have to do with it, per claim the documents that agree."""
        wanted: dict[int, _Wanted] = defaultdict(_Wanted)
        by_claim: dict[Claim, list[int]] = {}
        for claim in self._claims:
            near = {n for key in _claim_keys(claim) for n in self._by_key.get(key, ())}
            by_claim[claim] = []
            for number in sorted(near):
                if _contradicts(self._entries[number].document, claim):
                    wanted[number].contradicting.append(claim)
                else:
                    wanted[number].agreeing.append(claim)
                    by_claim[claim].append(number)
        return wanted, by_claim

    def _torn(self, number: int, wanted: _Wanted) -> bool:
        """Whether a document belongs to two studies or patients at once."""
        document = self._entries[number].document
        named = any(_names(document, c) for c in (*wanted.agreeing, *wanted.contradicting))
        sure = any(_confirms(document, c, named=named) for c in wanted.agreeing)
        patients = {claim.patient for claim in wanted.agreeing} - {None}
        return (bool(wanted.contradicting) and not sure) or len(patients) > 1

    def _settle(self, claim: Claim, numbers: list[int], state: dict[int, str]) -> None:
        """Give the samples of a claim what their documents come to."""
        first = min((self._entries[n].rank for n in numbers), default=0)
        by_document = {id(self._entries[n].document): n for n in numbers}
        ranked = [n for n in numbers if self._entries[n].rank == first]
        found = settle([self._entries[n].document for n in ranked])
        for number in numbers:
            retracted = self._entries[number].document.status == "retracted"
            state.setdefault(number, "retracted_report" if retracted else "superseded_report")
        for documents, code in ((found.used, "used"), (found.conflict, "pair_conflict")):
            for document in documents:
                state[by_document[id(document)]] = code
        self._same(ranked, found, state)
        if found.text:
            words = {word for document in found.used for word in document.identifiers}
            for sample in self._claims[claim]:
                self._intake.report(sample, found.text, identifiers=words)
                self._intake.flag(sample, *found.flags)

    def _same(self, numbers: list[int], found: Settled, state: dict[int, str]) -> None:
        """A document in the same words as one that is used is used, too."""
        texts = {" ".join(document.text.split()) for document in found.used}
        for number in numbers:
            same = " ".join(self._entries[number].document.text.split()) in texts
            if same and state[number] == "superseded_report":
                state[number] = "used"

    def _file(self, entry: _Entry, state: str) -> None:
        """Give a document's file its state; of rows only what is wrong is listed."""
        if state == "used":
            if entry.row is None:
                self._intake.cover([entry.file])
            return
        if state == "pair_conflict":
            self._refuse(entry, state)
            return
        note = {"report_without_study": "reports_without_study"}.get(state, f"{state}s")
        self._intake.notes[note] += 1
        if entry.row is not None:
            return
        if state == "report_without_study":
            self._intake.reject(entry.file, "join", state)
        else:
            self._intake.ignore(entry.file, state)

    def _refuse(self, entry: _Entry, code: str) -> None:
        if entry.row is None:
            self._intake.reject(entry.file, "join", code)
        else:
            self._intake.reject_row(entry.file, entry.row, code)


def load_reports(intake: Intake) -> ReportIndex | None:
    """The reports that the options name, or None if they name none.

    Call it before walking the images: report files inside the archive are then taken.

    Raises:
        ConfigError: The reports are not there, or a table lacks its columns.
    """
    if intake.config.reports is None:
        return None
    path = intake.locate(intake.config.reports)
    index = ReportIndex(intake)
    folder = path.is_dir()
    paths = list(_files(intake, path)) if folder else [path]
    tables = [p for p in paths if p.suffix.lower() in TABLES or not (folder or may_hold_reports(p))]
    _add_tables(intake, index, tables, folder=folder)
    if intake.config.columns.names and not tables and not intake.root.is_file():
        raise ConfigError(
            "columns.names names columns, and there is no table of reports", remedy="leave it out"
        )
    for other in paths:
        if other.suffix.lower() in UNREADABLE:
            _set_aside(intake, other, "report_format")
        # Within the archive, the images' kind looks into it.
        elif other.suffix.lower() in PACKED and not other.is_relative_to(intake.root):
            _set_aside(intake, other, "packed")
    files = [p for p in paths if may_hold_reports(p) and p not in tables]
    left = list(index.read(files))
    if left and not folder:
        raise ConfigError(f"{path.name} holds no report", remedy="name the file of the reports")
    return index


def _set_aside(intake: Intake, path: Path, code: str) -> None:
    intake.reserve(path)
    intake.reject(path, "read", code)


def _files(intake: Intake, folder: Path) -> Iterator[Path]:
    """The files in a folder of reports; what cannot be looked at is quarantined."""
    for entry in walk(folder):
        if entry.rejected:
            intake.reserve(entry.path)
            intake.reject(entry.path, "walk", entry.rejected)
        elif not entry.ignored:
            yield entry.path


def _add_tables(intake: Intake, index: ReportIndex, tables: list[Path], *, folder: bool) -> None:
    for table in tables:
        try:
            _add_table(intake, index, table)
        except ArchiveError:
            if not folder:
                raise
            # One of many is set aside; the only one that the user names is the user's to mend.
            _set_aside(intake, table, "no_table")


def _add_table(intake: Intake, index: ReportIndex, path: Path) -> None:
    # The source may be a table as well, and hold these columns itself.
    optional = ("patient", *OF_REPORTS) if intake.root.is_file() else ("patient",)
    table = UserTable(path, intake.config.columns, _FIELDS, ("text",), optional)
    if not any(name in table.column for name in _JOINS):
        raise ConfigError(
            f"{path.name} has no column accession or study_uid to join on "
            f"(columns there: {', '.join(table.frame.columns)})",
            remedy="give --set columns.accession=<one of them> or columns.study_uid=<one of them>",
        )
    index.columns.update(table.frame.columns)
    intake.reserve(path)
    intake.cover([path])
    table.list_refused(intake.reject_row)
    for row, cells in table.rows():
        try:
            index.add(_from_row(cells), path, row)
        except Reject as verdict:
            intake.reject_row(path, row, verdict.code, verdict.message)


def _from_row(cells: dict[str, Any]) -> Document:
    accession, uid, patient = (cells.get(name) for name in ("accession", "study_uid", "patient"))
    if not accession and not uid:
        raise Reject("no_key")
    status, flags = status_of(cells.get("status"))
    text = checked_text(cells["text"] or "")
    return Document(
        text=text.text,
        accessions=(accession,) if accession else (),
        study_uids=(uid,) if uid else (),
        patients=(patient,) if patient else (),
        status=status,
        issued=seconds_of(cells.get("issued")),
        version=version_of(cells.get("version")),
        flags=(*flags, *text.flags),
        identifiers=tuple(cells.get("names", ())),
    )


def _keys(document: Document) -> Iterator[tuple[str, str]]:
    yield from (("accession", value) for value in document.accessions)
    yield from (("study_uid", value) for value in document.study_uids)
    yield from (("name", value) for value in document.names)


def _claim_keys(claim: Claim) -> Iterator[tuple[str, str]]:
    """Under which of a document's keys the claim looks."""
    values = (claim.accession, claim.study_uid, claim.name)
    for kind, meant in (("accession", values[::2]), ("study_uid", values[1:]), ("name", values)):
        yield from ((kind, value) for value in dict.fromkeys(meant) if value)


def _fields(document: Document, claim: Claim) -> Iterator[tuple[tuple[str, ...], str | None]]:
    yield document.accessions, claim.accession
    yield document.study_uids, claim.study_uid
    yield document.patients, claim.patient


def _contradicts(document: Document, claim: Claim) -> bool:
    """Whether both say something of the same field, and not the same."""
    return any(told and asked and asked not in told for told, asked in _fields(document, claim))


def _names(document: Document, claim: Claim) -> bool:
    return bool({claim.accession, claim.study_uid, claim.name} & {*document.names})


def _confirms(document: Document, claim: Claim, *, named: bool) -> bool:
    """Whether the claim repeats everything that the document says of itself."""
    told = all(not said or asked in said for said, asked in _fields(document, claim))
    return told and (not named or _names(document, claim))


def _bare(value: str | None) -> str | None:
    return (value.strip() or None) if value else None
