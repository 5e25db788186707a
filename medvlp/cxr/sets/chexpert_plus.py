"""Source kind ``chexpert-plus``: CheXpert Plus (Chambon et al., 2024), CheXpert with its reports.

Reads `df_chexpert_plus_240401.csv` and the images that it names, as DICOM, PNG or CheXpert's JPEG,
whatever folders stand before `patient00001/study1/view1_frontal`; labels of
`chexbert_labels/*_fixed.json` where they are there. Patients and studies are those of kind
``chexpert``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    compare,
    give_text,
    leave_rest,
    row_text,
    table_rows,
    the_file,
    with_suffix,
)
from medvlp.archive.tables.tablefile import table_text
from medvlp.archive.text.document import is_wordless
from medvlp.archive.text.plaintext import Text
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.cxr.sets.chexpert_places import (
    FINDINGS,
    Labels,
    Place,
    patient_id,
    place_of,
    study_id,
    told_place,
    view_told,
)
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, PICTURES, Xray, take_images

SOURCE = "chexpert-plus"
IMAGES = {"train": 223_228, "valid": 234}

_TABLE = "df_chexpert_plus_*.csv*"
_COLUMNS = (
    "path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "age", "sex", "race", "split",
    "report", "section_findings", "section_impression",
)  # fmt: skip
_SECTIONS = {
    "section_clinical_history": "CLINICAL HISTORY",
    "section_history": "HISTORY",
    "section_comparison": "COMPARISON",
    "section_technique": "TECHNIQUE",
    "section_procedure_comments": "PROCEDURE COMMENTS",
    "section_findings": "FINDINGS",
    "section_impression": "IMPRESSION",
}
"""Columns of a report's parts, and the headings under which they are put together."""

_TOLD = ("section_findings", "section_impression")
_FORMS = (*sorted(DICOM_SUFFIXES), *PICTURES)
"""Where an image is there in several forms, the first of these is taken."""

_VALUES: Mapping[float | None, float | None] = {None: None, 1: 1.0, 0: 0.0, -1: -1.0}
_UNKNOWN = ("", "unknown", "nan")


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class PlusOptions:
    """Settings of the kind."""

    labels: Literal["none", "findings", "impression", "report"] = "impression"
    """Which part of the reports CheXbert's labels come from, if their file is there."""

    text: Literal["sections", "report"] = "sections"
    """``sections`` puts the report together from the parts that the set ships; ``report`` divides
    the whole report here. A report without findings and impression is divided here anyway."""

    race: bool = False
    """Keep the race that the set names, as labels such as ``race: white``, for subgroups. Together
    with age and sex it makes people easier to recognise, so it is left out unless asked for."""


@dataclass(frozen=True, slots=True)
class _Image:
    """One row."""

    place: Place
    part: str
    view: str
    order: int
    sex: str
    age: str
    race: str
    text: Text | None


def index_chexpert_plus(root: Path, intake: Intake) -> None:
    """Index CheXpert Plus; each view is a sample with its study's report."""
    options = intake.options(PlusOptions)
    files = list(intake.files())
    images = _load(intake, the_file(files, _TABLE), options)
    labels = _labels(intake, files, options.labels)
    races = sorted({image.race for image in images.values()} - set(_UNKNOWN))

    def accept(path: Path, image: _Image, xray: Xray) -> None:
        columns = xray.columns | {"view": image.view}
        columns |= {"sex": image.sex or columns["sex"], "age": image.age or columns["age"]}
        sample = intake.accept(
            [path],
            kind="dicom" if path.suffix.lower() in DICOM_SUFFIXES else "image",
            patient=patient_id(image.place),
            study=study_id(image.place),
            study_order=image.order,
            source_split=image.part or None,
            **columns,
        )
        give_text(intake, sample, image.text)
        for name, value in labels.pop(image.place, {}).items():
            intake.label(sample, name, value, f"chexbert:{options.labels}")
        for race in races if options.race and image.race in races else ():
            intake.label(sample, f"race: {race}", float(image.race == race), SOURCE)

    there = sorted(with_suffix(files, _FORMS), key=lambda p: (_FORMS.index(p.suffix.lower()), p))
    take_images(intake, there, images, place_of, accept)
    intake.notes["labels_without_image"] += len(labels)
    leave_rest(intake)


def _load(intake: Intake, table: Path, options: PlusOptions) -> dict[Place, _Image]:
    images: dict[Place, _Image] = {}
    for row, cells in table_rows(intake, table, _COLUMNS):
        try:
            place = told_place(cells["path_to_image"] or cells.get("path_to_dcm", ""))
            if place is None:
                raise Reject("no_path")
            if place in images:
                raise Reject("duplicate_row")
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
            continue
        named = cells["deid_patient_id"].removeprefix("patient")
        intake.notes["patients_named_otherwise_than_by_path"] += named != place.patient
        images[place] = _Image(
            place=place,
            part=cells["split"],
            view=view_told(cells["frontal_lateral"], cells["ap_pa"], place),
            order=_order(cells, place),
            sex=cells["sex"],
            age=cells["age"],
            race=cells["race"].lower(),
            text=_text(intake, table, row, cells, options),
        )
    for part, published in IMAGES.items():
        here = sum(image.part == part for image in images.values())
        compare(intake, f"rows_{part}", here, published)
    return images


def _order(cells: Cells, place: Place) -> int:
    """The place of the report among its patient's; the study's number where it is not told."""
    told = cells.get("patient_report_date_order", "").removesuffix(".0")
    return int(told if told.isdecimal() else place.study)


def _text(intake: Intake, table: Path, row: int, cells: Cells, options: PlusOptions) -> Text | None:
    """A row's report; one without words is listed, and its image stays."""
    told = {column for column in _SECTIONS if not is_wordless(cells.get(column, ""))}
    parts = [f"{_SECTIONS[column]}:\n{cells[column]}" for column in _SECTIONS if column in told]
    divided = not told.isdisjoint(_TOLD)
    wanted = divided and (options.text == "sections" or is_wordless(cells["report"]))
    return row_text(intake, table, row, "\n\n".join(parts) if wanted else cells["report"])


def _labels(intake: Intake, files: Sequence[Path], wanted: str) -> dict[Place, Labels]:
    """Labels of CheXbert by image; of one row too many each is listed."""
    labels: dict[Place, Labels] = {}
    for table in (path for path in files if path.name == f"{wanted}_fixed.json"):
        intake.cover([table])
        for row, told in _lines(table):
            place = told_place(str(told.get("path_to_image", "")))
            try:
                if place is None:
                    raise Reject("no_path")
                if place in labels:
                    raise Reject("duplicate_row")
                labels[place] = {name: _value(told.get(name)) for name in FINDINGS}
            except Reject as verdict:
                intake.reject_row(table, row, verdict.code)
    return labels


def _lines(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and values of each line, a JSON object; what is none has no values."""
    for row, line in enumerate(table_text(table).splitlines(), start=1):
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        if line.strip():
            yield row, told if isinstance(told, dict) else {}


def _value(told: Any) -> float | None:
    """A label.

    Raises:
        Reject: ``bad_labels``.
    """
    if isinstance(told, bool) or not isinstance(told, int | float | None) or told not in _VALUES:
        raise Reject("bad_labels")
    return _VALUES[told]
