"""Source kind ``rsna-pneumonia``: RSNA Pneumonia Detection Challenge of 2018 (Shih et al., 2019).

Reads `stage_2_train_images/*.dcm`, `stage_2_train_labels.csv` (a row for each box) and
`stage_2_detailed_class_info.csv`. What the set calls patientId is the number of an image: NIH's
patients, from whom the images come, cannot be told from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    compare,
    leave_rest,
    number,
    table_rows,
    the_file,
    with_suffix,
)
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, Xray, take_images
from medvlp.data.tables import PATIENT_IS_IMAGE

SOURCE = "rsna-pneumonia"
PNEUMONIA = "Pneumonia"
CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")
ROWS = 30_227
IMAGES = 26_684

_LABELS = "stage_2_train_labels.csv"
_CLASSES = "stage_2_detailed_class_info.csv"
_SIDES = ("x", "y", "width", "height")


@dataclass(slots=True)
class _Read:
    """What the tables say of one image."""

    target: str
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    name: str = ""
    """One of `CLASSES`."""


def index_rsna(root: Path, intake: Intake) -> None:
    """Index the labelled part; the challenge's test images have no public labels."""
    options = intake.options(ListOptions)
    files = list(intake.files())
    reads = _labels(intake, the_file(files, _LABELS))
    _classes(intake, files, reads)
    lists = SplitLists(intake, options.lists)

    def accept(path: Path, read: _Read, xray: Xray) -> None:
        split, flags = lists.columns(path)
        columns = xray.columns
        columns["flags"] = (*columns["flags"], *flags, PATIENT_IS_IMAGE)
        sample = intake.accept(
            [path],
            kind="dicom",
            patient=None,
            study=f"{SOURCE}:{path.stem}",
            source_split=split,
            **columns,
        )
        intake.label(sample, PNEUMONIA, float(read.target), SOURCE)
        for name in CLASSES if read.name else ():
            intake.label(sample, name, float(name == read.name), SOURCE)
        for box in read.boxes:
            intake.region(sample, name=PNEUMONIA, kind="box", geometry=box)

    take_images(intake, with_suffix(files, DICOM_SUFFIXES), reads, lambda p: p.stem, accept)
    leave_rest(intake)


def _labels(intake: Intake, table: Path) -> dict[str, _Read]:
    """Image -> target and boxes; an image with a row that contradicts another keeps the first."""
    reads: dict[str, _Read] = {}
    rows = 0
    for row, cells in table_rows(intake, table, ("patientId", *_SIDES, "Target")):
        rows += 1
        try:
            boxes = _boxes(cells)
            read = reads.setdefault(cells["patientId"], _Read(cells["Target"]))
            if read.target != cells["Target"]:
                raise Reject("label_conflict")
            read.boxes += boxes
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
    compare(intake, "rows", rows, ROWS)
    compare(intake, "images_in_table", len(reads), IMAGES)
    return reads


def _boxes(cells: Cells) -> list[tuple[float, float, float, float]]:
    """The row's box, in pixels of the stored image; none where the target is 0.

    Raises:
        Reject: ``bad_labels``, ``bad_box`` or ``not_a_number``.
    """
    sides = [cells[name] for name in _SIDES]
    if cells["Target"] == "0" and not any(sides):
        return []
    if cells["Target"] != "1":
        raise Reject("bad_labels" if cells["Target"] != "0" else "bad_box")
    x, y, width, height = (number(side) for side in sides)
    if width <= 0 or height <= 0:
        raise Reject("bad_box")
    return [(x, y, x + width, y + height)]


def _classes(intake: Intake, files: Sequence[Path], reads: dict[str, _Read]) -> None:
    """The three-way class of each image, told once for each of its boxes."""
    table = next((path for path in files if path.name == _CLASSES), None)
    if table is None:
        intake.notes["images_without_class"] += len(reads)
        return
    for row, cells in table_rows(intake, table, ("patientId", "class")):
        read, name = reads.get(cells["patientId"]), cells["class"]
        code = "no_sample" if read is None else "" if name in CLASSES else "bad_labels"
        if read is not None and not code:
            read.name = read.name or name
            code = "" if read.name == name else "label_conflict"
        if code:
            intake.reject_row(table, row, code)
