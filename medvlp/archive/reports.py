"""Reports that come apart from the images: a table, or a folder with one text file a study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.columns import UserTable
from medvlp.archive.intake import Intake
from medvlp.archive.plaintext import read_text
from medvlp.archive.verdict import Reject
from medvlp.errors import ConfigError

_FIELDS = ("text", "accession", "study_uid")
_JOINS = ("accession", "study_uid")


@dataclass(frozen=True)
class _Entry:
    """One report; `file` is its own file, if it has one, `row` its place in a table."""

    text: str
    keys: tuple[str, ...]
    file: Path
    row: int | None


class ReportIndex:
    """Finds a study's report by accession number or StudyInstanceUID.

    Two different reports under one key are joined to nothing (``pair_conflict``). Empty reports
    are listed as ``empty_report``. Files that no study asked for are quarantined at the end.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._by_key: dict[str, list[_Entry]] = {}
        self._used: set[int] = set()
        self._entries: list[_Entry] = []
        intake.at_finish(self._close)

    def add(self, entry: _Entry) -> None:
        """Take in one report."""
        if not entry.text.strip():
            self._refuse(entry, "empty_report")
            return
        self._entries.append(entry)
        for key in entry.keys:
            self._by_key.setdefault(key, []).append(entry)

    def find(self, *, accession: str | None = None, study_uid: str | None = None) -> str | None:
        """The report of a study, or None if there is none or the reports contradict."""
        for key in (_key("accession", accession), _key("study_uid", study_uid)):
            entries = self._by_key.get(key or "", [])
            if len({entry.text.strip() for entry in entries}) > 1:
                return None
            if entries:
                self._used |= {id(entry) for entry in entries}
                return entries[0].text
        return None

    def _close(self) -> None:
        clashing = {
            id(entry)
            for entries in self._by_key.values()
            if len({e.text.strip() for e in entries}) > 1
            for entry in entries
        }
        for entry in self._entries:
            if id(entry) in clashing:
                self._refuse(entry, "pair_conflict")
            elif id(entry) not in self._used:
                self._leave(entry)
            elif entry.row is None:
                self._intake.cover([entry.file])

    def _leave(self, entry: _Entry) -> None:
        """A report without images: a file of its own is quarantined, a row only counted."""
        self._intake.notes["reports_without_study"] += 1
        if entry.row is None:
            self._intake.reject(entry.file, "join", "report_without_study")

    def _refuse(self, entry: _Entry, code: str) -> None:
        if entry.row is None:
            self._intake.reject(entry.file, "join", code)
        else:
            self._intake.reject_row(entry.file, entry.row, code)


def load_reports(intake: Intake) -> ReportIndex | None:
    """The reports that the options name, or None if they name none.

    Call it before walking the images: report files inside the archive are then taken.

    Raises:
        ConfigError: The reports are not there, or the table lacks its columns.
    """
    if intake.config.reports is None:
        return None
    path = intake.locate(intake.config.reports)
    index = ReportIndex(intake)
    for entry in _from_folder(intake, path) if path.is_dir() else _from_table(intake, path):
        index.add(entry)
    return index


def _from_table(intake: Intake, path: Path) -> Iterator[_Entry]:
    table = UserTable(path, intake.config.columns, _FIELDS, required=("text",))
    if not any(field in table.column for field in _JOINS):
        raise ConfigError(
            f"{path.name} has no column accession or study_uid to join on "
            f"(columns there: {', '.join(table.frame.columns)})",
            remedy="give --set columns.accession=<one of them> or columns.study_uid=<one of them>",
        )
    intake.cover([path])
    for row, cells in table.rows():
        keys = tuple(k for field in _JOINS if (k := _key(field, cells.get(field))))
        if keys:
            yield _Entry(cells["text"] or "", keys, path, row)
        else:
            intake.reject_row(path, row, "no_key")


def _from_folder(intake: Intake, folder: Path) -> Iterator[_Entry]:
    for path in sorted(folder.rglob("*.txt")):
        if not path.is_file() or path.name.startswith("._"):
            continue
        intake.reserve(path)
        try:
            found = read_text(path)
        except Reject as verdict:
            intake.reject(path, "read", verdict.code, verdict.message)
            continue
        keys = tuple(f"{field}:{path.stem.strip()}" for field in _JOINS)
        yield _Entry(found.text, keys, path, None)


def _key(field: str, value: str | None) -> str | None:
    return f"{field}:{value.strip()}" if value and value.strip() else None
