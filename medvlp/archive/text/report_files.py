"""Files that hold reports: plain text, FHIR in JSON, Open-I's XML and DICOM Structured Reports.

`read_report_file` reads one of them and knows nothing of the archive around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medvlp.archive.dicom.files import may_be_dicom, parse, quiet
from medvlp.archive.text.document import Document, checked_text
from medvlp.archive.text.fhir import documents_of, parse_json
from medvlp.archive.text.open_i_xml import LARGEST, parse_open_i
from medvlp.archive.text.plaintext import read_text
from medvlp.archive.text.sr import document_of
from medvlp.archive.verdict import Ignore, Reject

TABLES = frozenset({".csv", ".tsv", ".parquet", ".pq", ".xlsx"})
UNREADABLE = frozenset({".doc", ".docx", ".htm", ".html", ".odt", ".pdf", ".rtf"})
"""Formats that hold words and that we do not read: such a file is refused, not passed over."""

_LARGEST_JSON = 64 << 20
_LARGEST_LINES = 1 << 30
_LARGEST_SR = 16 << 20


@dataclass(frozen=True, slots=True)
class Refused:
    """One of several reports in a file that is refused."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a file tells; `whole` where the file is one report and nothing else."""

    documents: tuple[Document | Refused, ...]
    whole: bool


def may_hold_reports(path: Path) -> bool:
    """Whether the name promises a report of a kind that `read_report_file` reads."""
    return path.suffix.lower() in _READERS or may_be_dicom(path)


def read_report_file(paths: tuple[Path, ...]) -> Told:
    """The reports in one file.

    Raises:
        Reject: The file cannot be read, is too large, or is malformed.
        Ignore: ``not_a_report``: a file of the kind that holds something else.
    """
    (path,) = paths
    reader = _READERS.get(path.suffix.lower())
    if reader is not None:
        return reader(path)
    try:
        return _sr(path)
    except Reject as verdict:
        if verdict.code == "not_dicom" and path.suffix.lower() not in (".dcm", ".dicom"):
            raise Ignore("not_a_report") from None
        raise


def _plain(path: Path) -> Told:
    found = read_text(path)
    return Told((Document(text=found.text, names=(path.stem.strip(),), flags=found.flags),), True)


def _json(path: Path) -> Told:
    root = parse_json(_bytes(path, _LARGEST_JSON))
    documents = documents_of(root)
    if not documents:
        raise Ignore("not_a_report")
    whole = isinstance(root, dict) and root.get("resourceType") == "DiagnosticReport"
    if whole and isinstance(documents[0], Reject):
        raise documents[0]
    return Told(_told(documents), whole)


def _json_lines(path: Path) -> Told:
    """One resource a line; a line that is none is refused, and the others are read."""
    documents: list[Document | Reject] = []
    with _opened(path, _LARGEST_LINES) as file:
        while line := file.readline(_LARGEST_JSON):
            if line.strip():
                documents += _line(line)
    if not documents:
        raise Ignore("not_a_report")
    return Told(_told(documents), False)


def _line(line: bytes) -> list[Document | Reject]:
    try:
        return documents_of(parse_json(line))
    except Reject as verdict:
        return [verdict]


def _open_i(path: Path) -> Told:
    report = parse_open_i(_bytes(path, LARGEST))
    text = checked_text(report.text)
    return Told((Document(text=text.text, names=(report.uid,), flags=text.flags),), True)


def _sr(path: Path) -> Told:
    with quiet():
        return Told((document_of(parse(_bytes(path, _LARGEST_SR))[0]),), True)


def _told(documents: Iterable[Document | Reject]) -> tuple[Document | Refused, ...]:
    return tuple(Refused(d.code, d.message) if isinstance(d, Reject) else d for d in documents)


@contextmanager
def _opened(path: Path, largest: int) -> Iterator[BinaryIO]:
    try:
        size = path.stat().st_size
        if size > largest:
            raise Reject("text_too_large", f"{size} bytes")
        with path.open("rb") as file:
            yield file
    except OSError:
        raise Reject("unreadable") from None


def _bytes(path: Path, largest: int) -> bytes:
    with _opened(path, largest) as file:
        return file.read(largest)


_READERS: dict[str, Callable[[Path], Told]] = {
    ".txt": _plain,
    ".text": _plain,
    ".json": _json,
    ".fhir": _json,
    ".ndjson": _json_lines,
    ".jsonl": _json_lines,
    ".xml": _open_i,
}
