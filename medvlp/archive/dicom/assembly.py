"""Series of an archive to samples: laid out, judged, recorded, and taken in or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.archive.dicom.burned_in import burned_in_flags
from medvlp.archive.dicom.conflicts import Register
from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.scan import Scan
from medvlp.archive.dicom.second import SHARE
from medvlp.archive.intake import Intake
from medvlp.archive.series.bodypart import Facts, body_part_flags
from medvlp.archive.series.grouping import Group, group_series
from medvlp.archive.series.hounsfield import Values
from medvlp.archive.series.layout import Layout
from medvlp.archive.series.policy import INTERPOLATED, RESAMPLED, Policy, part_of
from medvlp.archive.series.qc import SeriesFinding, examine_group
from medvlp.archive.stage.reading import Reading
from medvlp.archive.verdict import Verdict
from medvlp.config import STRICT
from medvlp.digest import digest_bytes, digest_plain
from medvlp.domain import Domain
from medvlp.progress import track


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SeriesOptions(Policy):
    """Settings of the kind ``dicom``: ``--set options.tilt=resample``."""

    body_part: str = ""
    """What the archive ought to show, such as CHEST; a series that says otherwise is flagged."""

    structured_reports: bool = True
    """Take Structured Reports that lie among the images as reports of their studies."""

    legacy: bool = False
    """Take files without preamble and magic, as they were written before 1993, with a flag."""

    accept_not_hu: bool = False
    """Take in CT series whose values cannot be Hounsfield units, with a flag."""

    cross_check: Annotated[float, Field(ge=0, le=1)] = SHARE
    """The part of all compressed files that a second decoder must read likewise."""


class Assembler:
    """Takes in the series of one run."""

    def __init__(
        self,
        intake: Intake,
        reading: Reading[Scan],
        readers: Mapping[str, Domain],
        options: SeriesOptions,
    ) -> None:
        self.intake = intake
        self.reading = reading
        self.readers = readers
        self.options = options
        self.policy = Policy(missing=options.missing, tilt=options.tilt)

    def samples(self, register: Register) -> Iterator[tuple[str, Header]]:
        """Take in every sound series, and yield the sample's id with one of its headers."""
        for series in track(self._series(register), "Assembling series", total=register.series):
            scans = {scan.header.path: scan for scan in series}
            findings = self._findings(scans)
            volumes = sum(_is_volume(finding.group) for finding in findings)
            # A file may hold a good volume beside a bad one: then it belongs to a sample.
            for finding in sorted(findings, key=lambda finding: finding.verdict is not None):
                name = finding.group.header.series
                # Part of a series is not the series: it goes by its bytes.
                whole = volumes == 1 and not register.scattered(name)
                sample = self._settle(finding, scans, name if whole else "")
                self._record(finding, sample)
                if sample:
                    yield sample, finding.group.header

    def _series(self, register: Register) -> Iterator[list[Scan]]:
        """What reading found of the files that could share a volume, one volume after the other."""
        read = self.intake.read(self.reading, register.slices, "")
        pairs = zip(read, register.buckets, strict=True)
        for _, members in groupby(pairs, key=itemgetter(1)):
            scans = []
            for ((path,), scan), _ in members:
                with self.intake.judge([path], "read"):
                    if isinstance(scan, Verdict):
                        raise scan
                    scans.append(scan)
            yield scans

    def _findings(self, scans: Mapping[Path, Scan]) -> list[SeriesFinding]:
        def measured(path: Path) -> Values:
            pixels = scans[path].pixels
            return Values(low=pixels.low, high=pixels.high, counts=pixels.counts)

        def examined(group: Group) -> SeriesFinding:
            believe = self.options.accept_not_hu
            finding = examine_group(group, self.policy, measured, believe=believe)
            read = {flag for path in group.paths for flag in scans[path].flags}
            flags = {*finding.flags, *read, *self._body_flags(finding)}
            return replace(finding, qc={**finding.qc, "flags": sorted(flags)})

        headers = [scan.header for scan in scans.values()]
        groups = group_series(headers, self.policy, lambda path: scans[path].pixels.digest)
        return [examined(group) for group in groups]

    def _body_flags(self, finding: SeriesFinding) -> tuple[str, ...]:
        header, layout, hu = finding.group.header, finding.layout, finding.hu
        flags = body_part_flags(self.options.body_part, header.body_part)
        check = self.readers[header.modality].check_volume
        if check is None or layout is None or hu is None:
            return flags
        facts = Facts(
            shape=layout.shape,
            spacing_mm=layout.spacing_mm,
            counts=hu.counts,
            body_part=header.body_part or self.options.body_part.upper(),
        )
        return (*flags, *check.load()(facts))

    def _settle(self, finding: SeriesFinding, scans: Mapping[Path, Scan], name: str) -> str:
        """Take a series in or refuse it; the sample's id, empty if there is none."""
        sample = ""
        with self.intake.judge(finding.group.paths, "series"):
            if finding.verdict is not None:
                raise finding.verdict
            if finding.layout is not None:
                sample = self._accept(finding, finding.layout, scans, name)
        return sample

    def _accept(
        self, finding: SeriesFinding, layout: Layout, scans: Mapping[Path, Scan], name: str
    ) -> str:
        header = layout.slices[0].header
        sample = self.intake.accept(
            layout.paths,
            kind="series",
            domain=self.readers[header.modality].name,
            patient=header.patient,
            study=header.study or None,
            series=header.series or None,
            identity=name or None,
            sha256=_digest(layout, scans),
            acquired=header.acquired,
            age=header.age_years,
            sex=header.sex,
            scanner=header.scanner or None,
            modality=header.modality,
            shape=layout.shape,
            spacing_mm=layout.spacing_mm,
            reader="pydicom",
            flags=(
                *finding.qc["flags"],
                *burned_in_flags(header, self.intake.config.burned_in),
            ),
            pixels_digest=digest_plain([scans[path].pixels.digest for path in layout.paths]),
            fingerprint=scans[layout.paths[len(layout.paths) // 2]].pixels.fingerprint,
            identifiers=header.known,
        )
        self.intake.cover(layout.repeated)
        return sample

    def _record(self, finding: SeriesFinding, sample: str) -> None:
        series = finding.group.header.series
        pseudonym = self.intake.pseudonyms.series(series) if series else ""
        source = self.intake.source(list(finding.group.paths))
        record = {"sample": sample or None, "source": source, **finding.qc}
        self.intake.record(pseudonym or source, record)


def _is_volume(group: Group) -> bool:
    return not group.header.localizer and not group.header.captured


def _digest(layout: Layout, scans: Mapping[Path, Scan]) -> str:
    """Of the files' bytes, and of what a reader makes of them if that is no plain reading."""
    digests = [scans[path].sha256 for path in layout.paths]
    flags = layout.flags
    digests += [flag for flag in flags if flag in (INTERPOLATED, RESAMPLED) or part_of([flag])]
    return digests[0] if len(digests) == 1 else digest_bytes("".join(digests).encode())
