"""The tables beside MIMIC-CXR-JPG's images, with or without gzip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from medvlp.archive.intake import Intake
from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.accounts import compare, presence, table_rows, the_file

IMAGES = 377_110
LABELLED = 227_827
"""Studies that both labellers read."""

Labeller = Literal["chexpert", "negbio"]
Labels = Mapping[str, float | None]

_NAME = "mimic-cxr-*-{}.csv*"
_KEYS = ("subject_id", "study_id")
_VIEWS = {"LL": "LATERAL", "RL": "LATERAL", "LAT": "LATERAL"}


@dataclass(frozen=True, slots=True)
class Image:
    """One row of the metadata, with its split."""

    subject: str
    study: str
    view: str
    date: str
    split: str | None


@dataclass(frozen=True, slots=True)
class Tables:
    """What the tables tell."""

    images: Mapping[str, Image]
    """By dicom_id."""
    labels: Mapping[str, Labels]
    """By study."""


def load_tables(intake: Intake, files: Sequence[Path], labeller: Labeller) -> Tables:
    """Read metadata, and split and labels where they are there.

    Raises:
        ArchiveError: There is no metadata table, or one lacks its columns.
    """
    splits = _splits(intake, files)
    images: dict[str, Image] = {}
    table = the_file(files, _NAME.format("metadata"))
    for row, cells in table_rows(intake, table, ("dicom_id", *_KEYS, "ViewPosition")):
        view = cells["ViewPosition"].upper()
        image = Image(
            cells["subject_id"],
            cells["study_id"],
            _VIEWS.get(view, view),
            cells.get("StudyDate", ""),
            splits.pop(cells["dicom_id"], None),
        )
        if images.setdefault(cells["dicom_id"], image) is not image:
            intake.reject_row(table, row, "duplicate_row")
    intake.notes["split_rows_without_metadata"] += len(splits)
    compare(intake, "rows", len(images), IMAGES)
    return Tables(images, _labels(intake, files, labeller))


def _optional(files: Sequence[Path], what: str) -> list[Path]:
    name = _NAME.format(what)
    return [the_file(files, name)] if any(fnmatchcase(p.name, name) for p in files) else []


def _splits(intake: Intake, files: Sequence[Path]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for table in _optional(files, "split"):
        for row, cells in table_rows(intake, table, ("dicom_id", "split")):
            if cells["dicom_id"] in splits:
                intake.reject_row(table, row, "duplicate_row")
            else:
                splits[cells["dicom_id"]] = cells["split"]
    return splits


def _labels(intake: Intake, files: Sequence[Path], labeller: Labeller) -> dict[str, Labels]:
    """Study -> finding -> 1, 0, -1 or None (not mentioned)."""
    labels: dict[str, Labels] = {}
    for table in _optional(files, labeller):
        for row, cells in table_rows(intake, table, _KEYS):
            study = cells["study_id"]
            try:
                if study in labels:
                    raise Reject("duplicate_row")
                labels[study] = {n: presence(c) for n, c in cells.items() if n not in _KEYS}
            except Reject as verdict:
                intake.reject_row(table, row, verdict.code)
        compare(intake, "labelled_studies", len(labels), LABELLED)
    return labels
