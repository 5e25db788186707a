"""Source kind ``padchest``: PadChest (Bustos et al., Medical Image Analysis 2020).

Reads `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` and the PNG files of 16 bits that it
names, unpacked in any folders. Reports are in Spanish; labels are names of PadChest's own
vocabulary, compared whole: ``pneumonia`` is not said by ``atypical pneumonia``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from medvlp.archive.tables.listed import listed_words
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.text.plaintext import Text
from medvlp.archive.verdict import Ignore, Reject
from medvlp.config import STRICT
from medvlp.cxr.sets.xrays import Xray, take_images

SOURCE = "padchest"
IMAGES = 160_868
TEXT_SOURCE = "report:es"
"""Source of the reports' words, which are Spanish."""

FINDINGS = (
    "normal", "atelectasis", "cardiomegaly", "consolidation", "emphysema", "hiatal hernia",
    "hilar enlargement", "infiltrates", "interstitial pattern", "laminar atelectasis", "mass",
    "nodule", "pleural effusion", "pleural thickening", "pneumonia", "pneumothorax",
    "pulmonary edema", "pulmonary fibrosis", "pulmonary mass", "rib fracture", "tuberculosis",
)  # fmt: skip

_TABLE = "PADCHEST_chest_x_ray_images_labels_160K*.csv*"
_COLUMNS = ("ImageID", "StudyID", "PatientID", "Projection", "Report", "Labels")
_KEPT = (
    "StudyID", "PatientID", "Projection", "MethodLabel", "StudyDate_DICOM", "PatientBirth",
    "PatientSex_DICOM", "Modality_DICOM", "Manufacturer_DICOM",
)  # fmt: skip
"""Columns that a sample is made of, besides report and labels."""

_EXCLUDED = "exclude"
"""Projection, or label, of what is no chest X-ray that its publishers would use."""

_VIEWS = {"L": "LATERAL", "UNK": ""}
_METHODS = {"Physician": "physician", "RNN_model": "network"}


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class PadchestOptions(ListOptions):
    """Settings of the kind."""

    findings: tuple[str, ...] = FINDINGS
    """Names that count as absent where an image's list lacks them. Every name that a list has is
    kept as present, whether it stands here or not."""


@dataclass(frozen=True, slots=True)
class _Image:
    """One row."""

    cells: Cells
    """Those of `_KEPT`; blank where the table lacks the column."""

    labels: tuple[str, ...] | None
    """None where the cell is blank: nobody labelled the image."""

    text: Text | None

    @property
    def excluded(self) -> bool:
        return _EXCLUDED in (self.cells["Projection"].lower(), *(self.labels or ()))


def index_padchest(root: Path, intake: Intake) -> None:
    """Index PadChest with its own patients and studies; the set has no split."""
    options = intake.options(PadchestOptions)
    files = list(intake.files())
    lists = SplitLists(intake, options.lists)
    images = _load(intake, the_file(files, _TABLE))
    named = Counter(name for image in images.values() for name in image.labels or ())
    findings = [name for name in options.findings if named[name]]
    intake.notes["findings_that_no_row_names"] += len(options.findings) - len(findings)

    def accept(path: Path, image: _Image, xray: Xray) -> None:
        if image.excluded:
            raise Ignore("excluded_by_publisher")
        split, flags = lists.columns(path)
        cells = image.cells
        columns = xray.columns
        columns["flags"] = (*columns["flags"], *flags)
        columns["modality"] = cells["Modality_DICOM"] or columns["modality"]
        sample = intake.accept(
            [path],
            kind="image",
            patient=f"{SOURCE}:{cells['PatientID']}",
            study=f"{SOURCE}:{cells['StudyID']}",
            identifiers=[cells["PatientID"], cells["StudyID"]],
            acquired=cells["StudyDate_DICOM"].removesuffix(".0") or None,
            source_split=split,
            **columns | _person(cells) | {"view": _view(cells)},
        )
        give_text(intake, sample, image.text, TEXT_SOURCE)
        _label(intake, sample, image, findings)

    take_images(intake, with_suffix(files, (".png",)), images, lambda path: path.name, accept)
    leave_rest(intake)


def _view(cells: Cells) -> str:
    """PadChest's projection; AP_horizontal is AP of somebody lying, COSTAL shows ribs."""
    told = cells["Projection"]
    return _VIEWS.get(told, told)


def _person(cells: Cells) -> dict[str, Any]:
    """Sex, age by the years of birth and study, and scanner."""
    year, birth = cells["StudyDate_DICOM"][:4], cells["PatientBirth"].removesuffix(".0")
    return {
        "sex": cells["PatientSex_DICOM"] or None,
        "age": int(year) - int(birth) if year.isdecimal() and birth.isdecimal() else None,
        "scanner": cells["Manufacturer_DICOM"] or None,
    }


def _label(intake: Intake, sample: str, image: _Image, findings: Iterable[str]) -> None:
    if image.labels is None:
        return
    method = image.cells["MethodLabel"]
    source = f"{SOURCE}:{_METHODS.get(method, 'unknown')}"
    for name in findings:
        intake.label(sample, name, float(name in image.labels), source)
    for name in image.labels:
        intake.label(sample, name, 1, source)


def _load(intake: Intake, table: Path) -> dict[str, _Image]:
    """Image name -> its row."""
    images: dict[str, _Image] = {}
    for row, cells in table_rows(intake, table, _COLUMNS):
        try:
            if not cells["ImageID"]:
                raise Reject("no_path")
            if cells["ImageID"] in images:
                raise Reject("duplicate_row")
            labels = listed_words(cells["Labels"])
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
            continue
        text = row_text(intake, table, row, cells["Report"])
        kept = {name: cells.get(name, "") for name in _KEPT}
        images[cells["ImageID"]] = _Image(kept, labels, text)
    compare(intake, "rows", len(images), IMAGES)
    intake.notes["rows_without_labels"] += sum(i.labels is None for i in images.values())
    return images
