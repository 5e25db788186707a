"""The tables beside MIMIC-CXR-JPG's images, with or without gzip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Literal

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import Cells, compare, presence, table_rows, the_file
from medvlp.archive.verdict import Reject

IMAGES = 377_110
LABELLED = 227_827
"""Studies that both labellers read."""

Labeller = Literal["chexpert", "negbio"]
Labels = Mapping[str, float | None]
Moment = tuple[str, float]

_NAME = "mimic-cxr-*-{}.csv*"
METADATA = _NAME.format("metadata")
"""The name of the table of metadata, with ``*`` where versions differ."""

STUDY = re.compile(r"s(\d+)")
SUBJECT = re.compile(r"p(\d+)")
_KEYS = ("subject_id", "study_id")


@dataclass(frozen=True, slots=True)
class Image:
    """One row of the metadata, with its split."""

    subject: str
    study: str
    view: str
    """As the table says it."""
    date: str
    order: int
    """The study's place among its patient's, by date and time."""
    split: str | None


@dataclass(frozen=True, slots=True)
class Tables:
    """What the tables tell."""

    images: Mapping[str, Image]
    """By dicom_id."""
    labels: Mapping[str, Labels]
    """By study."""


def patient_id(subject: str) -> str:
    """The patient's number, shared by all kinds that read MIMIC-CXR's images."""
    return f"mimic-cxr:{subject}"


def study_id(study: str) -> str:
    """The study's number, shared likewise."""
    return f"mimic-cxr:{study}"


def place_of(path: PurePath) -> tuple[str, str] | None:
    """Subject and study by the folders that an image lies in.

    >>> place_of(PurePath("files/p10/p10000032/s50414267/x.jpg"))
    ('10000032', '50414267')
    """
    study = STUDY.fullmatch(path.parent.name)
    subject = SUBJECT.fullmatch(path.parent.parent.name)
    return (subject[1], study[1]) if study and subject else None


def load_tables(intake: Intake, files: Sequence[Path], labeller: Labeller) -> Tables:
    """Read metadata, and split and labels where they are there.

    Raises:
        ArchiveError: There is no metadata table, or one lacks its columns.
    """
    images = load_images(intake, files)
    compare(intake, "rows", len(images), IMAGES)
    return Tables(images, _labels(intake, files, labeller))


def load_images(intake: Intake, files: Sequence[Path]) -> dict[str, Image]:
    """Read metadata and split; the images by dicom_id.

    Raises:
        ArchiveError: There is no metadata table, or one lacks its columns.
    """
    splits = _splits(intake, files)
    rows: dict[str, Cells] = {}
    table = the_file(files, METADATA)
    for row, cells in table_rows(intake, table, ("dicom_id", *_KEYS, "ViewPosition")):
        if rows.setdefault(cells["dicom_id"], cells) is not cells:
            intake.reject_row(table, row, "duplicate_row")
    orders = _orders(rows.values())
    images = {
        name: Image(
            cells["subject_id"],
            cells["study_id"],
            cells["ViewPosition"],
            cells.get("StudyDate", ""),
            orders[cells["study_id"]],
            splits.pop(name, None),
        )
        for name, cells in rows.items()
    }
    intake.notes["split_rows_without_metadata"] += len(splits)
    return images


def _orders(rows: Iterable[Cells]) -> dict[str, int]:
    """Study -> its place among its patient's, from 1; studies of one moment share a place."""
    first: dict[str, dict[str, Moment]] = {}
    for cells in rows:
        moments = first.setdefault(cells["subject_id"], {})
        moment = _moment(cells)
        moments[cells["study_id"]] = min(moment, moments.get(cells["study_id"], moment))
    orders: dict[str, int] = {}
    for moments in first.values():
        places = {m: place for place, m in enumerate(sorted(set(moments.values())), start=1)}
        orders |= {study: places[moment] for study, moment in moments.items()}
    return orders


def _moment(cells: Cells) -> Moment:
    """Day and time of day: ``93015.5`` is half past nine. Without a day the time tells nothing."""
    day, time = cells.get("StudyDate", ""), cells.get("StudyTime", "")
    told = day and time.replace(".", "", 1).isdecimal()
    return day, float(time) if told else 0.0


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
