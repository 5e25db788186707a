"""Source kind ``open-i``: the Indiana University chest X-ray reports (Demner-Fushman et al., 2016).

Reads the XML files in a folder or in the `.tgz` as it is published; nothing is extracted to disk.
Where images lie in the folder under the ids that a report names, each becomes a sample with the
report's text; otherwise the report alone is a sample of kind ``report``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.containers import members
from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest
from medvlp.archive.text.open_i_xml import LARGEST, parse_open_i
from medvlp.archive.verdict import Reject, Verdict
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, reading_xrays
from medvlp.digest import digest_bytes
from medvlp.errors import ArchiveError
from medvlp.progress import track

SOURCE = "mesh"
NORMAL = "normal"

_NOT_INDEXED = "no indexing"
_PACKED = (".tgz", ".tar", ".gz", ".zip")
_PICTURES = (".png", ".jpg", ".jpeg", *sorted(DICOM_SUFFIXES))


@dataclass(frozen=True)
class _Report:
    """What one XML file says."""

    uid: str
    text: str
    terms: tuple[str, ...]
    """Head terms of the major MeSH headings: ``Opacity`` of ``Opacity/lung/base/left``."""

    images: tuple[str, ...]
    file: Path
    digest: str


def index_open_i(root: Path, intake: Intake) -> None:
    """Index Open-I: reports, their MeSH terms as labels, and images where they are."""
    reports = []
    for path, data in track(_xml_files(root, intake), "Reading reports"):
        with intake.judge([path], "read"):
            reports.append(_read(path, data))
    if not reports:
        raise ArchiveError(
            "the source holds no Open-I report in XML",
            remedy="name NLMCXR_reports.tgz or the folder of XML files",
        )
    pictures = {path.stem: path for path in intake.files() if path.suffix.lower() in _PICTURES}
    joined = {report.uid: _images_of(report, pictures) for report in reports}
    for report in reports:
        with intake.judge([report.file], "read"):
            if joined[report.uid]:
                intake.cover([report.file])
            else:
                _accept_text(intake, report)
    _accept_images(intake, [(path, r) for r in reports for path in joined[r.uid]])
    leave_rest(intake)


def _images_of(report: _Report, pictures: Mapping[str, Path]) -> list[Path]:
    return [pictures[name] for name in report.images if name in pictures]


def _accept_text(intake: Intake, report: _Report) -> None:
    sample = intake.accept(
        [report.file],
        kind="report",
        patient=f"open-i:{report.uid}",
        study=f"open-i:{report.uid}",
        identity=f"open-i:{report.uid}",
        sha256=report.digest,
        modality="DX",
    )
    _describe(intake, sample, report)


def _accept_images(intake: Intake, pairs: Sequence[tuple[Path, _Report]]) -> None:
    items = ((path,) for path, _ in pairs)
    found_in_order = intake.read(
        reading_xrays(burned_in=intake.config.burned_in), items, "Reading X-rays"
    )
    for (path, report), (_, found) in zip(pairs, found_in_order, strict=True):
        with intake.judge([path], "read"):
            if isinstance(found, Verdict):
                raise found
            sample = intake.accept(
                [path],
                kind="dicom" if path.suffix.lower() in DICOM_SUFFIXES else "image",
                patient=f"open-i:{report.uid}",
                study=f"open-i:{report.uid}",
                **found.columns,
            )
            _describe(intake, sample, report)


def _describe(intake: Intake, sample: str, report: _Report) -> None:
    intake.report(sample, report.text)
    for term in report.terms:
        intake.label(sample, term, 1, SOURCE)
    if report.terms and NORMAL not in report.terms:
        intake.label(sample, NORMAL, 0, SOURCE)


def _xml_files(root: Path, intake: Intake) -> Iterator[tuple[Path, bytes]]:
    for path in intake.files():
        suffix = path.suffix.lower()
        if suffix == ".xml":
            with intake.judge([path], "read"):
                yield path, _bounded(path)
        elif suffix in _PACKED:
            yield from _members(path, intake)


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > LARGEST:
        raise Reject("xml_too_large")
    return path.read_bytes()


def _members(container: Path, intake: Intake) -> Iterator[tuple[Path, bytes]]:
    """The XML members of a tar file, read in memory; each is counted as a file of its own."""
    with intake.judge([container], "read"):
        found = list(members(container, wanted=_is_xml, largest=LARGEST))
        inside = [(container / m.name, m.data) for m in found if _is_xml(m.name)]
        intake.expand(container, [path for path, _ in inside])
        for path, data in inside:
            with intake.judge([path], "read"):
                if data is None:
                    raise Reject("xml_too_large")
                yield path, data


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _read(path: Path, data: bytes) -> _Report:
    found = parse_open_i(data)
    return _Report(
        uid=found.uid,
        text=found.text,
        terms=tuple(dict.fromkeys(_terms(found.majors))),
        images=found.images,
        file=path,
        digest=digest_bytes(data),
    )


def _terms(majors: Iterable[str]) -> Iterator[str]:
    for major in majors:
        term = major.partition("/")[0].strip()
        if term and term.lower() != _NOT_INDEXED:
            yield NORMAL if term.lower() == NORMAL else term
