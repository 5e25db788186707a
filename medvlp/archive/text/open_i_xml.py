"""One Open-I report in XML: its sections, its MeSH terms and the images that it names."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree
from xml.parsers import expat

from medvlp.archive.verdict import Reject

LARGEST = 1 << 20
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class OpenIReport:
    """What one XML file says."""

    uid: str
    sections: tuple[tuple[str, str], ...]
    """Heading and words, in order; empty sections left out."""

    majors: tuple[str, ...]
    """Major MeSH headings, such as ``Opacity/lung/base/left``."""

    images: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report with its headings."""
        return "\n\n".join(f"{label}: {words}".removeprefix(": ") for label, words in self.sections)


def parse_open_i(data: bytes) -> OpenIReport:
    """Parse a file of the set.

    Raises:
        Reject: ``xml_too_large``, ``xml_doctype``, ``depth``, ``xml_syntax`` or ``not_open_i``.
    """
    if len(data) > LARGEST:
        raise Reject("xml_too_large", f"{len(data)} bytes")
    _check(data)
    tree = ElementTree.fromstring(data)
    uid = tree.find("uId")
    name = uid.get("id") if uid is not None else None
    if tree.tag != "eCitation" or not name:
        raise Reject("not_open_i")
    parts = (
        (part.get("Label", "").strip(), " ".join("".join(part.itertext()).split()))
        for part in tree.iter("AbstractText")
    )
    return OpenIReport(
        uid=name,
        sections=tuple(part for part in parts if part[1]),
        majors=tuple(term for m in tree.iterfind("MeSH/major") if (term := (m.text or "").strip())),
        images=tuple(i for e in tree.iter("parentImage") if (i := e.get("id"))),
    )


def _check(data: bytes) -> None:
    """Well-formed, not deep, and without a document type, which could declare entities."""
    depth = 0

    def begin(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise Reject("depth", "XML")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: object) -> None:
        raise Reject("xml_doctype")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):
        raise Reject("xml_syntax") from None
