"""Source kind ``bimcv-r``: BIMCV-R (Chen et al., MICCAI 2024), chest CT with reports.

Reads `sub-S03049_ses-E06600_..._ct.nii.gz` in any folders and `curated_ct_report_path_En.csv`, with
the reports in Spanish, their translation and labels of PadChest's vocabulary. A report may have
several volumes, which are series of one study.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    compare,
    give_text,
    leave_rest,
    row_text,
    table_rows,
    take_files,
    the_file,
)
from medvlp.archive.tables.listed import listed_words
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.text.plaintext import Text
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp_volumetric.nifti import is_nifti, stem
from medvlp_volumetric.sets.scans import LABEL, Scan, is_drawn, reading_scans, scan_columns

SOURCE = "bimcv-r"
VOLUMES = 8_069

_TABLE = "curated_ct_report_path*.csv"
_NAME = re.compile(r"(?:sub-)?(S\d+)_(?:ses-)?(E\d+)_.*ct")
_PATIENT = re.compile(r"(?:sub-)?(S\d+)")
_REPORT = re.compile(r"(?:ses-)?(E\d+)")
_COLUMN = {"en": "Report_en", "es": "Report"}
_SOURCE = {"en": "report", "es": "report:es"}

Key = tuple[str, str]
"""Patient and report."""


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class BimcvOptions(ListOptions):
    """Settings of the kind."""

    language: Literal["en", "es"] = "en"
    """``en`` takes the publishers' translation, which a machine made; ``es`` what was dictated."""


@dataclass(frozen=True, slots=True)
class _Report:
    text: Text | None
    labels: tuple[str, ...]


def index_bimcv_r(root: Path, intake: Intake) -> None:
    """Index BIMCV-R; each volume is a sample with its study's report; the set has no split."""
    options = intake.options(BimcvOptions)
    files = list(intake.files())
    reports = _reports(intake, the_file(files, _TABLE), options.language)
    lists = SplitLists(intake, options.lists)
    volumes = {path: _key(path) for path in files if is_nifti(path) and not is_drawn(root, path)}
    compare(intake, "volumes", len(volumes), VOLUMES)
    used: set[Key] = set()

    def accept(path: Path, report: _Report, scan: Scan) -> None:
        patient, number = _key(path)
        split, flags = lists.columns(path)
        columns = scan_columns(scan, flags)
        sample = intake.accept(
            [path],
            kind="nifti",
            patient=f"{SOURCE}:{patient}",
            study=f"{SOURCE}:{number}",
            series=f"{SOURCE}:{stem(path)}",
            source_split=split,
            identifiers=[patient, number],
            **columns,
        )
        used.add((patient, number))
        give_text(intake, sample, report.text, _SOURCE[options.language])
        for name in report.labels:
            intake.label(sample, name, 1, SOURCE)

    rows = {path: reports[key] for path, key in volumes.items() if key in reports}
    reading = reading_scans()
    take_files(intake, volumes, rows, lambda path: path, lambda row: reading, accept, LABEL)
    intake.notes["reports_without_study"] += len(reports.keys() - used)
    leave_rest(intake)


def _key(volume: Path) -> Key:
    """What a volume's name says; blank where it says nothing."""
    found = _NAME.fullmatch(stem(volume))
    return ("", "") if found is None else (found[1], found[2])


def _reports(intake: Intake, table: Path, language: str) -> dict[Key, _Report]:
    reports: dict[Key, _Report] = {}
    told: dict[Key, Cells] = {}
    column = _COLUMN[language]
    for row, cells in table_rows(intake, table, ("PatientID", "ReportID", "Labels", column)):
        try:
            key = _told_key(cells)
            if key in told:
                # A report stands in a row of its own for each of its volumes.
                _same(told[key], cells, column)
                continue
            labels = listed_words(cells["Labels"]) or ()
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
            continue
        told[key] = cells
        reports[key] = _Report(row_text(intake, table, row, cells[column]), labels)
    return reports


def _same(first: Cells, again: Cells, column: str) -> None:
    if any(first[name] != again[name] for name in (column, "Labels")):
        raise Reject("label_conflict")


def _told_key(cells: Cells) -> Key:
    patient = _PATIENT.fullmatch(cells["PatientID"])
    report = _REPORT.fullmatch(cells["ReportID"])
    if patient is None or report is None:
        raise Reject("no_key")
    return patient[1], report[1]
