"""The source kind ``dicom``: a hospital's tree of DICOM files of any modality, with reports.

Every file is read, parsed and decoded once (`medvlp.archive.scan`). Files are then handed to the
domain whose modality they carry, one by one or as series; of slices little more than the paths is
held until their series is assembled from what the ledger keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.annotations import Annotations
from medvlp.archive.dicom import may_be_dicom
from medvlp.archive.grouping import Group, group_series
from medvlp.archive.header import Header
from medvlp.archive.intake import Intake
from medvlp.archive.layout import Layout, lay_out
from medvlp.archive.reading import Item, Reading
from medvlp.archive.reports import ReportIndex, load_reports
from medvlp.archive.scan import Scan, scanning
from medvlp.archive.verdict import Verdict
from medvlp.digest import digest_bytes
from medvlp.domain import Domain, domains
from medvlp.errors import ArchiveError
from medvlp.progress import track


def index_dicom(root: Path, intake: Intake) -> None:
    """Take in every radiograph and every CT series under `root`.

    A report found by accession number or StudyInstanceUID is attached to every sample of its
    study, and so are the rows of the annotation tables. Files of modalities that no domain reads
    are ignored, bad ones quarantined.

    Raises:
        ArchiveError: No installed domain reads DICOM.
    """
    readers = {modality: d for d in domains().values() for modality in d.modalities}
    if not readers:
        raise ArchiveError(
            "no installed domain reads DICOM", remedy="install the package again: pip install ."
        )
    beside = _Beside(intake, load_reports(intake), Annotations.load(intake))
    reading = scanning({modality: domain.dicom_unit for modality, domain in readers.items()})
    series = _SeriesFiles()
    for (path,), scan in intake.read(reading, _candidates(intake), "Reading DICOM"):
        with intake.judge([path], "read"):
            if isinstance(scan, Verdict):
                raise scan
            reader = readers[scan.header.modality]
            if reader.dicom_unit == "series":
                series.add(path, scan.header)
            else:
                _accept_file(intake, beside, scan, reader)
    _accept_series(intake, beside, reading, series, readers)


def _candidates(intake: Intake) -> list[Item]:
    candidates: list[Item] = []
    for path in intake.files():
        if may_be_dicom(path):
            candidates.append((path,))
        else:
            intake.ignore(path, "not_dicom")
    return candidates


class _SeriesFiles:
    """Which files may belong together: all that is held of an archive's slices at a time."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, ...], list[Path]] = {}
        self._seen: Counter[str] = Counter()

    def __iter__(self) -> Iterator[list[Path]]:
        return iter(self._files.values())

    def __len__(self) -> int:
        return len(self._files)

    def add(self, path: Path, header: Header) -> None:
        """Put a slice with those that it could share a volume with."""
        key = (header.patient, header.study, header.series or str(path.parent))
        if key not in self._files:
            self._files[key] = []
            self._seen[header.series] += 1
        self._files[key].append(path)

    def scattered(self, series: str) -> bool:
        """Whether one series identifier stands in several patients' or studies' files."""
        return self._seen[series] > 1


def _accept_file(intake: Intake, beside: _Beside, scan: Scan, domain: Domain) -> None:
    header = scan.header
    with intake.judge([header.path], "join"):
        sample = intake.accept(
            [header.path],
            kind="dicom",
            domain=domain.name,
            patient=header.patient,
            study=header.study or None,
            series=header.series or None,
            identity=header.sop or None,
            sha256=scan.sha256,
            acquired=header.acquired,
            age=header.age_years,
            sex=header.sex,
            scanner=header.scanner or None,
            modality=header.modality,
            view=header.view or None,
            laterality=header.laterality or None,
            shape=(header.rows, header.columns),
            spacing_mm=header.planes[0].spacing,
            reader="pydicom",
            flags=scan.flags,
            identifiers=(header.accession, *header.names),
        )
        beside.attach(sample, header, one_image=True)


@dataclass(frozen=True)
class _Beside:
    """What lies beside the images: reports and annotations."""

    intake: Intake
    reports: ReportIndex | None
    annotations: Annotations

    def attach(self, sample: str, header: Header, *, one_image: bool) -> None:
        """Give a sample its study's report, and the labels and regions of its identifiers."""
        accession, study = header.accession or None, header.study or None
        text = self.reports.find(accession=accession, study_uid=study) if self.reports else None
        if text:
            self.intake.report(sample, text)
        self.annotations.apply(
            sample,
            sop_uid=header.sop if one_image else None,
            series_uid=header.series,
            study_uid=study,
            accession=accession,
        )


def _accept_series(
    intake: Intake,
    beside: _Beside,
    reading: Reading[Scan],
    series: _SeriesFiles,
    readers: Mapping[str, Domain],
) -> None:
    for files in track(series, "Assembling series"):
        by_path = {scan.header.path: scan for scan in _stored(intake, reading, files)}
        groups = _grouped(by_path)
        volumes = Counter(group.header.series for group in groups if not group.header.localizer)
        for group in groups:
            with intake.judge(group.paths, "series"):
                layout = lay_out(group)
                # Part of a series is not the series: it goes by its bytes.
                name = group.header.series
                whole = volumes[name] == 1 and not series.scattered(name)
                sample = _accept_layout(intake, layout, by_path, readers, whole=whole)
                beside.attach(sample, layout.slices[0].header, one_image=False)


def _grouped(by_path: Mapping[Path, Scan]) -> list[Group]:
    headers = [scan.header for scan in by_path.values()]
    return group_series(headers, digest=lambda path: by_path[path].pixels.digest)


def _stored(intake: Intake, reading: Reading[Scan], files: list[Path]) -> Iterator[Scan]:
    for (path,), scan in intake.read(reading, [(path,) for path in files], ""):
        with intake.judge([path], "read"):
            if isinstance(scan, Verdict):
                raise scan
            yield scan


def _accept_layout(
    intake: Intake,
    layout: Layout,
    by_path: Mapping[Path, Scan],
    readers: Mapping[str, Domain],
    *,
    whole: bool,
) -> str:
    header = layout.slices[0].header
    scans = [by_path[path] for path in layout.paths]
    digests = [scan.sha256 for scan in scans]
    flags = {flag for scan in scans for flag in scan.flags}
    sample = intake.accept(
        layout.paths,
        kind="series",
        domain=readers[header.modality].name,
        patient=header.patient,
        study=header.study or None,
        series=header.series or None,
        identity=(header.series if whole else "") or None,
        sha256=digests[0] if len(digests) == 1 else digest_bytes("".join(digests).encode()),
        acquired=header.acquired,
        age=header.age_years,
        sex=header.sex,
        scanner=header.scanner or None,
        modality=header.modality,
        shape=layout.shape,
        spacing_mm=layout.spacing_mm,
        reader="pydicom",
        flags=(*layout.flags, *sorted(flags)),
        identifiers=(header.accession, *header.names),
    )
    intake.cover(layout.repeated)
    return sample
