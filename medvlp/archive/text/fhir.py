"""Reports as FHIR DiagnosticReport resources (R4, R5): single, in a Bundle, or one a line."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from medvlp.archive.text.document import (
    Document,
    checked_text,
    seconds_of,
    status_of,
    version_of,
    words_of,
)
from medvlp.archive.text.plaintext import Text, decode
from medvlp.archive.verdict import Reject

Resource = Mapping[str, Any]

_DEEPEST = 64
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DICOM_UID = "urn:dicom:uid"
_BLOCKS = frozenset(
    {"p", "div", "br", "li", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "hr",
     "dt", "dd", "section", "pre", "thead", "tbody"}
)  # fmt: skip
_WORDED = ("text/plain", "text/html", "application/xhtml+xml")
_VOID = frozenset({"br", "hr"})
_UNSAID = frozenset({"script", "style", "head", "title"})


def parse_json(data: bytes) -> Any:
    """A JSON text.

    Raises:
        Reject: ``depth`` (nested deeper than 64), ``bad_json`` or a code of `decode`.
    """
    depth = 0
    for token in _TOKENS.finditer(data):
        depth += (token.group() in b"[{") - (token.group() in b"]}")
        if depth > _DEEPEST:
            raise Reject("depth", f"more than {_DEEPEST} levels")
    try:
        value = json.loads(decode(data).text)
        if _SURROGATE.search(data):
            # Half of a character, written as an escape: no file could hold what it says.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Reject("text_encoding", "half a character") from None
    except (ValueError, RecursionError):
        raise Reject("bad_json") from None
    return value


def documents_of(root: Any) -> list[Document | Reject]:
    """Every DiagnosticReport in a resource or Bundle, or why it is refused."""
    resources = list(_resources(root, 0))
    known = _Known(resources)
    reports = (r for r in resources if r.get("resourceType") == "DiagnosticReport")
    return [_judged(report, known) for report in reports]


def _judged(report: Resource, known: _Known) -> Document | Reject:
    try:
        return _document(report, known)
    except Reject as verdict:
        return verdict


class _Known:
    """The resources of one file by what references call them."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self._by_name: dict[str, Resource] = {}
        for resource in resources:
            if isinstance(name := resource.get("id"), str):
                self._by_name[f"{resource.get('resourceType')}/{name}"] = resource
            if isinstance(url := resource.get("__url"), str):
                self._by_name[url] = resource

    def referenced(self, report: Resource, *fields: str) -> Iterator[tuple[Resource, Resource]]:
        """Each reference in the fields, and the resource that it names (empty if not here)."""
        inside = {f"#{r.get('id')}": r for r in _objects(report.get("contained"))}
        for field in fields:
            for reference in _objects(report.get(field)):
                name = _string(reference, "reference")
                found = inside.get(name) or self._by_name.get(name)
                yield reference, found or {}


def _document(report: Resource, known: _Known) -> Document:
    keys = _keys(report, known)
    patients, people = _subject(report, known)
    status, flags = status_of(_string(report, "status"))
    meta = _object(report, "meta")
    text = checked_text(_words(report)) if status != "retracted" else Text("")
    moment = _string(report, "issued") or _string(meta, "lastUpdated")
    return Document(
        text=text.text,
        accessions=keys.accessions.values,
        study_uids=keys.uids.values,
        names=keys.others.values,
        patients=patients.values,
        status=status,
        issued=seconds_of(moment or _string(report, "effectiveDateTime")),
        version=version_of(_string(meta, "versionId")),
        report=_string(report, "id"),
        identifiers=(*patients.values, *words_of(*people.values)),
        flags=(*flags, *text.flags),
    )


def _keys(report: Resource, known: _Known) -> _Sorted:
    """What the report says it belongs to.

    A UID of the report's own is no study's; a number without a system may be an accession number,
    and is believed to be one in what the report is based on.
    """
    keys = _Sorted()
    for identifier in _objects(report.get("identifier")):
        keys.add(identifier, uids=keys.others, others=keys.others)
    for reference, order in known.referenced(report, "basedOn"):
        for named in _objects(reference.get("identifier")):
            keys.add(named, uids=keys.uids, others=keys.accessions)
        for found in _identifiers(order):
            keys.add(found, uids=keys.uids, others=keys.others)
    for reference, study in known.referenced(report, "imagingStudy", "study"):
        for found in (*_identifiers(reference), *_identifiers(study)):
            keys.add(found, uids=keys.uids, others=keys.others)
    return keys


def _subject(report: Resource, known: _Known) -> tuple[_Keys, _Keys]:
    """The patient's numbers, and the names of everybody whom the report names."""
    numbers, people = _Keys(), _Keys()
    for reference, patient in known.referenced(report, "subject"):
        for identifier in (*_identifiers(reference), *_identifiers(patient)):
            numbers.add(_string(identifier, "value"))
        people.add(_string(reference, "display"))
        for name in _objects(patient.get("name")):
            people.add(" ".join(_strings(name, "text", "family", "given")))
    for reference, _ in known.referenced(report, "performer", "resultsInterpreter"):
        people.add(_string(reference, "display"))
    return numbers, people


class _Keys:
    """Values once each, in order."""

    def __init__(self) -> None:
        self._values: dict[str, None] = {}

    def add(self, value: str) -> None:
        """Add a value that is not blank."""
        if value.strip():
            self._values[value.strip()] = None

    @property
    def values(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._values)


class _Sorted:
    """Identifiers by what they identify."""

    def __init__(self) -> None:
        self.accessions, self.uids, self.others = _Keys(), _Keys(), _Keys()

    def add(self, identifier: Resource, *, uids: _Keys, others: _Keys) -> None:
        """Put an identifier where its type or system says; UIDs and untyped ones as told."""
        value, system = _string(identifier, "value"), _string(identifier, "system")
        kind = _object(identifier, "type")
        codes = {_string(coding, "code") for coding in _objects(kind.get("coding"))}
        if system == _DICOM_UID or value.startswith("urn:oid:"):
            uids.add(value.removeprefix("urn:oid:"))
        elif "ACSN" in codes or "accession" in f"{system} {_string(kind, 'text')}".lower():
            self.accessions.add(value)
        elif not codes:
            others.add(value)


def _identifiers(holder: Resource) -> Iterator[Resource]:
    yield from _objects(holder.get("identifier"))
    yield from _objects(holder.get("accessionIdentifier"))


def _words(report: Resource) -> str:
    """The report's text: as presented, else its narrative and conclusion."""
    presented = [words for form in _objects(report.get("presentedForm")) if (words := _form(form))]
    if presented:
        return "\n\n".join(presented)
    narrative = _object(report, "text")
    told, conclusion = plain_text(_string(narrative, "div")), _string(report, "conclusion")
    if not conclusion or _flat(conclusion) in _flat(told):
        return told
    return f"{told}\n\nCONCLUSION:\n{conclusion}".strip()


def _form(form: Resource) -> str:
    """An attachment's words, if it carries any in plain text or HTML."""
    kind = _string(form, "contentType").partition(";")[0].strip().lower()
    data = "".join(_string(form, "data").split())
    if kind not in _WORDED or not data:
        return ""
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Reject("bad_json", "base64") from None
    text = decode(content).text
    return text if kind == "text/plain" else plain_text(text)


def plain_text(markup: str) -> str:
    """The words of HTML, blocks on lines of their own."""
    parser = _Stripper()
    parser.feed(markup)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Stripper(HTMLParser):
    """Keeps the words of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unsaid = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A block begins a line; a cell is set off."""
        self._unsaid += tag in _UNSAID
        self.parts.append("\n" if tag in _BLOCKS else " " if tag in ("td", "th") else "")

    def handle_endtag(self, tag: str) -> None:
        """A block ends its line."""
        self._unsaid -= tag in _UNSAID and self._unsaid > 0
        self.parts.append("\n" if tag in _BLOCKS and tag not in _VOID else "")

    def handle_data(self, data: str) -> None:
        """Words."""
        if not self._unsaid:
            self.parts.append(data)


def _resources(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """A resource, or those in a Bundle, or in a list of either."""
    if depth > 4:
        raise Reject("depth", "Bundles in Bundles")
    if isinstance(value, list):
        for item in value:
            yield from _resources(item, depth + 1)
    elif isinstance(value, dict) and value.get("resourceType") == "Bundle":
        for entry in _objects(value.get("entry")):
            url = entry.get("fullUrl")
            for resource in _resources(entry.get("resource"), depth + 1):
                yield {**resource, "__url": url}
    elif isinstance(value, dict):
        yield value


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """An object, or the objects of a list."""
    if isinstance(value, dict):
        yield value
    elif isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _object(holder: Resource, field: str) -> Resource:
    return next(_objects(holder.get(field)), {})


def _string(holder: Resource, field: str) -> str:
    value = holder.get(field)
    return value.strip() if isinstance(value, str) else ""


def _strings(holder: Resource, *fields: str) -> Iterator[str]:
    for field in fields:
        value = holder.get(field)
        yield from (
            v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)
        )


def _flat(text: str) -> str:
    return " ".join(text.lower().split())
