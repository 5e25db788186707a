"""The source kind ``dicom``: a hospital's tree of DICOM files of any modality, with reports.

Every file is read, parsed and decoded once (`scan`). Files are then handed to the domain whose
modality they carry, one by one or as series. Nothing is held but one series at a time: what must
be known of all files stands in the run's tables (`conflicts`), and what reading found in the
ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medvlp.archive.containers import SUFFIXES as PACKED
from medvlp.archive.dicom.assembly import Assembler, SeriesOptions
from medvlp.archive.dicom.burned_in import burned_in_flags
from medvlp.archive.dicom.conflicts import Register
from medvlp.archive.dicom.files import is_dicom, may_be_dicom
from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.scan import Scan, scanning
from medvlp.archive.dicom.second import DISAGREES
from medvlp.archive.intake import Intake
from medvlp.archive.spool import Rows
from medvlp.archive.stage.reading import Item, Reading
from medvlp.archive.tables.annotations import Annotations
from medvlp.archive.text.reports import ReportIndex, load_reports
from medvlp.archive.verdict import Verdict
from medvlp.domain import Domain, domains
from medvlp.errors import ArchiveError


def index_dicom(root: Path, intake: Intake) -> None:
    """Take in every radiograph and every CT series under `root`.

    A report found by accession number or StudyInstanceUID is attached to every sample of its
    study, and so are the rows of the annotation tables. Files of modalities that no domain reads
    are ignored, bad ones quarantined, and so are files that contradict each other.

    Raises:
        ArchiveError: No installed domain reads DICOM.
    """
    readers = {modality: d for d in domains().values() for modality in d.modalities}
    if not readers:
        raise ArchiveError(
            "no installed domain reads DICOM", remedy="install the package again: pip install ."
        )
    reports, annotations = load_reports(intake), Annotations.load(intake)
    options = intake.options(SeriesOptions)
    units = {modality: domain.dicom_unit for modality, domain in readers.items()}
    reading = scanning(
        units,
        legacy=options.legacy,
        cross_check=options.cross_check,
        fingerprints=intake.config.duplicates != "exact",
    )
    register, imageless = _registered(intake, reading, readers)
    if options.structured_reports and imageless:
        reports = _with_structured(intake, reports, imageless)
    else:
        for path in imageless:
            intake.ignore(path, "no_pixels")
    beside = _Beside(intake, reports, annotations)
    for (path,), scan in intake.read(reading, register.singles, ""):
        with intake.judge([path], "join"):
            if isinstance(scan, Verdict):
                raise scan
            _accept_file(intake, beside, scan, readers[scan.header.modality])
    for sample, header in Assembler(intake, reading, readers, options).samples(register):
        beside.attach(sample, header, one_image=False)


def _registered(
    intake: Intake, reading: Reading[Scan], readers: Mapping[str, Domain]
) -> tuple[Register, list[Path]]:
    """Read every file; what is bad or contradicts another file is settled.

    Returns:
        The register, and the files without an image, which are not settled.
    """
    register, imageless, disagreed = Register(intake.spool), [], False
    for (path,), scan in intake.read(reading, _candidates(intake), "Reading DICOM"):
        with intake.judge([path], "read"):
            if isinstance(scan, Verdict):
                if scan.code == "no_pixels":
                    imageless.append(path)
                    continue
                disagreed |= scan.code == DISAGREES
                raise scan
            register.add(path, scan, readers[scan.header.modality].dicom_unit)
    _cross_check(intake, reading, register, disagreed=disagreed)
    register.settle()
    for path, verdict in register.refused:
        with intake.judge([path], "conflict"):
            raise verdict
    return register, imageless


def _cross_check(
    intake: Intake, reading: Reading[Scan], register: Register, *, disagreed: bool
) -> None:
    """Check the decoder on one file of each kind; on all where any decoding is in doubt."""
    share = reading.settings["cross_check"]
    if not 0 < share < 1:
        return
    checking = replace(reading, settings={**reading.settings, "cross_check": 1.0})

    def refuse(items: Rows[Item]) -> bool:
        found = intake.read(checking, items, "Checking decoders")
        refused = {path: scan for (path,), scan in found if isinstance(scan, Verdict)}
        register.refuse(refused)
        return bool(refused)

    if refuse(register.codecs) or disagreed:
        refuse(register.compressed)


def _with_structured(
    intake: Intake, reports: ReportIndex | None, imageless: list[Path]
) -> ReportIndex:
    """Structured Reports among the images count where the user's own reports say nothing."""
    index = reports or ReportIndex(intake)
    for path in index.read(imageless, rank=1):
        intake.ignore(path, "no_pixels")
    return index


def _candidates(intake: Intake) -> Iterator[Item]:
    for path in intake.files():
        if may_be_dicom(path) or path.suffix.lower() in PACKED or is_dicom(path):
            yield (path,)
        else:
            intake.ignore(path, "not_dicom")


def _accept_file(intake: Intake, beside: _Beside, scan: Scan, domain: Domain) -> None:
    header = scan.header
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
        spacing_mm=header.spacing_mm,
        reader="pydicom",
        flags=(*scan.flags, *burned_in_flags(header, intake.config.burned_in)),
        pixels_digest=scan.pixels.digest,
        fingerprint=scan.pixels.fingerprint,
        identifiers=header.known,
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
        if self.reports:
            self.reports.attach(
                sample, accession=accession, study_uid=study, patient=header.patient
            )
        self.annotations.apply(
            sample,
            sop_uid=header.sop if one_image else None,
            series_uid=header.series,
            study_uid=study,
            accession=accession,
        )
