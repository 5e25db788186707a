"""DICOM Structured Reports: the content tree as plain text with headings (PS3.3 A.35)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
)

from medvlp.archive.dicom.values import Fields, tag_name
from medvlp.archive.text.document import Document, Status, checked_text, seconds_of, words_of
from medvlp.archive.verdict import Ignore, Reject
from medvlp.data.sections import load_headings

CLASSES = frozenset(
    {
        BasicTextSRStorage,
        EnhancedSRStorage,
        ComprehensiveSRStorage,
        Comprehensive3DSRStorage,
        ExtensibleSRStorage,
    }
)
"""Storage classes that hold what people report; dose, CAD and procedure logs are none."""

_DEEPEST = 64
_MOST_ITEMS = 20_000
_CONTEXT = frozenset({"HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD"})
"""Relationships that say who and how, not what was found."""

_NO_UNIT = frozenset({"1", "no units"})


def is_report(ds: Dataset) -> bool:
    """Whether a parsed file is a Structured Report of a class that holds reports."""
    return Fields(ds).text("SOPClassUID") in CLASSES


def document_of(dataset: Dataset) -> Document:
    """The report that a Structured Report tells.

    Its status: ``preliminary`` while it is partial, marked so, or unverified; a document with
    predecessors stands in their place.

    Raises:
        Reject: A malformed or overlong tree.
        Ignore: ``not_a_report``: another kind of object, or a tree without words.
    """
    if not is_report(dataset):
        raise Ignore("not_a_report")
    ds = Fields(dataset)
    tree = _Tree()
    tree.add(ds, 0, None)
    if "charset" in ds.flags:
        # A report with a sentence missing says something else.
        raise Reject("text_encoding", tag_name("SpecificCharacterSet"))
    if not tree.spoken:
        raise Ignore("not_a_report")
    text = checked_text("\n".join(tree.lines))
    requests = ds.items("ReferencedRequestSequence")
    people = [v.text("VerifyingObserverName") for v in ds.items("VerifyingObserverSequence")]
    patient = ds.text("PatientID")
    sop = ds.text("SOPInstanceUID")
    moment = ds.text("ContentDate") + ds.text("ContentTime")
    return Document(
        text=text.text,
        accessions=_unique(d.text("AccessionNumber") for d in (ds, *requests)),
        study_uids=_unique(d.text("StudyInstanceUID") for d in (ds, *requests)),
        patients=(patient,) if patient else (),
        status=_status(ds),
        issued=seconds_of(moment),
        report=sop,
        replaces=_unique(_predecessors(ds)),
        identifiers=words_of(
            patient,
            ds.text("PatientName"),
            ds.text("ReferringPhysicianName"),
            *people,
            *tree.people,
        ),
        flags=(*ds.flags, *text.flags),
    )


class _Tree:
    """A content tree's lines in reading order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.people: list[str] = []
        self.spoken = False
        """Whether a person's words are among them, not measurements alone."""
        self._items = 0

    def add(self, ds: Fields, depth: int, heading: str | None) -> None:
        """Add the children of an item under `heading`."""
        if depth > _DEEPEST:
            raise Reject("depth", tag_name("ContentSequence"))
        for item in ds.items("ContentSequence"):
            self._items += 1
            if self._items > _MOST_ITEMS:
                raise Reject("text_too_large", f"{self._items} content items")
            self._add_item(item, depth, heading)

    def _add_item(self, item: Fields, depth: int, heading: str | None) -> None:
        name, kind = _meaning(item, "ConceptNameCodeSequence"), item.text("ValueType").upper()
        if kind == "PNAME":
            self.people.append(item.text("PersonName"))
        if item.text("RelationshipType").upper() in _CONTEXT:
            return
        if kind == "CONTAINER":
            heading = name or heading
            if name:
                self.lines.append(f"\n{name}:")
        elif words := _words(item, kind):
            self.spoken |= kind in ("TEXT", "CODE")
            alone = not name or (heading is not None and _same(name, heading))
            self.lines.append(words if alone else f"{name}: {words}")
        self.add(item, depth + 1, heading)


def _words(item: Fields, kind: str) -> str:
    if kind == "TEXT":
        return item.text("TextValue")
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    measured = item.items("MeasuredValueSequence") if kind == "NUM" else []
    if not measured:
        return ""
    unit = _code(measured[0], "MeasurementUnitsCodeSequence", "CodeValue")
    number = measured[0].text("NumericValue")
    return number if unit in _NO_UNIT or unit.startswith("{") else f"{number} {unit}".strip()


def _same(name: str, heading: str) -> bool:
    """Whether a text's name repeats its heading: ``Finding`` under ``Findings``."""
    known = load_headings()
    section = known.canonical(name)
    same = section is not None and section == known.canonical(heading)
    return same or name.lower().rstrip("s") == heading.lower().rstrip("s")


def _status(ds: Fields) -> Status:
    partial = ds.text("CompletionFlag").upper() == "PARTIAL"
    marked = ds.text("PreliminaryFlag").upper() == "PRELIMINARY"
    unverified = ds.text("VerificationFlag").upper() == "UNVERIFIED"
    return "preliminary" if partial or marked or unverified else "final"


def _predecessors(ds: Fields) -> Iterator[str]:
    for study in ds.items("PredecessorDocumentsSequence"):
        for series in study.items("ReferencedSeriesSequence"):
            for item in series.items("ReferencedSOPSequence"):
                yield item.text("ReferencedSOPInstanceUID")


def _meaning(ds: Fields, keyword: str) -> str:
    return _code(ds, keyword, "CodeMeaning")


def _code(ds: Fields, sequence: str, keyword: str) -> str:
    items = ds.items(sequence)
    return items[0].text(keyword) if items else ""


def _unique(values: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
