"""The source kind ``dicom``: a hospital's tree of DICOM files of any modality, with reports.

Every file is read once: digest, header and, for radiographs, a trial decoding come from the same
bytes. Files are then handed to the domain whose modality they carry, one by one or as series.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from medvlp.archive.annotations import Annotations
from medvlp.archive.dicom import may_be_dicom, open_image, read_bytes, xray
from medvlp.archive.grouping import group_series
from medvlp.archive.header import Header
from medvlp.archive.intake import Intake
from medvlp.archive.layout import Layout, lay_out
from medvlp.archive.reports import ReportIndex, load_reports
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.digest import digest_bytes
from medvlp.domain import Domain, domains
from medvlp.errors import ArchiveError
from medvlp.progress import track

_POOL_FROM = 256
"""Fewer files are read before a pool of processes has started."""
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Scan:
    """What one reading of a file found; either a header or a verdict."""

    path: Path
    sha256: str = ""
    header: Header | None = None
    flags: tuple[str, ...] = ()
    verdict: Verdict | None = None


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
    units = {modality: domain.dicom_unit for modality, domain in readers.items()}
    series: list[Scan] = []
    for scan in scan_files(_candidates(intake), units, intake.config.workers):
        header = scan.header
        if header is None:
            _settle(intake, scan)
        elif units[header.modality] == "series":
            series.append(scan)
        else:
            _accept_file(intake, beside, scan, header, readers[header.modality])
    _accept_series(intake, beside, series, readers)


def _candidates(intake: Intake) -> list[Path]:
    candidates = []
    for path in intake.files():
        if may_be_dicom(path):
            candidates.append(path)
        else:
            intake.ignore(path, "not_dicom")
    return candidates


def scan_files(paths: Sequence[Path], units: Mapping[str, str], workers: int) -> Iterator[Scan]:
    """Scan files in order, in a pool of processes if there are many, behind a progress bar.

    A file on which a decoder takes its process down is quarantined (``decoder_crash``), and the
    run goes on in new processes.
    """
    modalities = dict(units)
    few = workers < 2 or len(paths) < _POOL_FROM
    scans: Iterator[Scan] = (
        (scan_file(path, modalities) for path in paths)
        if few
        else _scan_pooled(paths, modalities, workers)
    )
    yield from track(scans, "Reading DICOM", total=len(paths))


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the parent runs threads of its own.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _scan_pooled(paths: Sequence[Path], units: dict[str, str], workers: int) -> Iterator[Scan]:
    waiting = deque(paths[k : k + _CHUNK] for k in range(0, len(paths), _CHUNK))
    while waiting:
        with _pool(workers) as pool:
            futures = [pool.submit(_scan_chunk, chunk, units) for chunk in waiting]
            try:
                for future in futures:
                    yield from future.result()
                    waiting.popleft()
            except BrokenProcessPool:
                yield from _scan_singly(waiting.popleft(), units)
            finally:
                pool.shutdown(cancel_futures=True)


def _scan_chunk(paths: Sequence[Path], units: dict[str, str]) -> list[Scan]:
    return [scan_file(path, units) for path in paths]


def _scan_singly(paths: Sequence[Path], units: dict[str, str]) -> Iterator[Scan]:
    """One file at a time, so that it shows which of them brings its process down."""
    rest = deque(paths)
    while rest:
        with _pool(1) as pool:
            while rest:
                path = rest.popleft()
                try:
                    yield pool.submit(scan_file, path, units).result()
                except BrokenProcessPool:
                    yield Scan(path, verdict=Reject("decoder_crash"))
                    break


def scan_file(path: Path, units: Mapping[str, str]) -> Scan:
    """Read a file once; never raises for bad input.

    Args:
        path: The file.
        units: Modality to ``file`` or ``series``; pixels of ``file`` modalities must decode.
    """
    try:
        data = read_bytes(path)
        dataset, header, flags = open_image(data, path)
        if header.modality not in units:
            raise Ignore("other_modality" if header.modality else "no_modality")
        if units[header.modality] == "file":
            values = xray(dataset, header)
            if values.min() == values.max():
                flags = (*flags, "no_information")
        return Scan(path, digest_bytes(data), header, flags)
    except Verdict as verdict:
        return Scan(path, verdict=verdict)


def _settle(intake: Intake, scan: Scan) -> None:
    if isinstance(scan.verdict, Reject):
        intake.reject(scan.path, "read", scan.verdict.code, scan.verdict.message)
    elif scan.verdict is not None:
        intake.ignore(scan.path, scan.verdict.code)


def _accept_file(
    intake: Intake, beside: _Beside, scan: Scan, header: Header, domain: Domain
) -> None:
    with intake.judge([scan.path], "join"):
        sample = intake.accept(
            [scan.path],
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
    scans: Sequence[Scan],
    readers: Mapping[str, Domain],
) -> None:
    by_path = {scan.path: scan for scan in scans}
    groups = group_series(scan.header for scan in scans if scan.header is not None)
    volumes = Counter(group.header.series for group in groups if not group.header.localizer)
    for group in track(groups, "Assembling series"):
        with intake.judge(group.paths, "series"):
            layout = lay_out(group)
            # Part of a series is not the series: it goes by its bytes.
            whole = volumes[group.header.series] == 1
            sample = _accept_layout(intake, layout, by_path, readers, whole=whole)
            beside.attach(sample, layout.slices[0].header, one_image=False)


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
