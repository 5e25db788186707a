"""Source kind ``vindr-cxr``: VinDr-CXR (Nguyen et al., Scientific Data 2022) as PhysioNet ships it.

Reads `train/*.dicom` and `test/*.dicom`, `image_labels_{train,test}.csv` and
`annotations_{train,test}.csv`. In the training part each of three radiologists has a row of labels
and boxes of their own; in the test part there is one row, the consensus of five.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    compare,
    leave_rest,
    number,
    presence,
    table_rows,
    the_file,
    with_suffix,
)
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.cxr.sets.vindr_fusion import Box, Fusion, agreed, fused_boxes
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, Xray, take_images
from medvlp.data.tables import PATIENT_IS_IMAGE

SOURCE = "vindr-cxr"
CLASSES = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
    "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity",
    "Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion",
    "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion",
    "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "No finding",
)  # fmt: skip
"""The 28 labels: 22 that have boxes, then six of the whole image."""

NO_FINDING = "No finding"
IMAGES = {"train": 15_000, "test": 3_000}
READERS = {"train": 3, "test": 1}
"""Rows of labels that each image has."""

SPLITS = {"train": "train_val", "test": "test"}
"""The set has no validation part; training patients are divided by hash."""

_ALIASES = {"Other diseases": "Other disease"}
_CONSENSUS = "consensus"
_CORNERS = ("x_min", "y_min", "x_max", "y_max")

Key = tuple[str, str]
"""Part and image id."""


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class VindrOptions(ListOptions):
    """Settings of the kind."""

    fusion: Fusion = "majority"
    """How many readers of a training image must agree on a label or a box: more than half, any,
    or all. It is kept in the labels' source, as ``vindr-cxr:majority``."""


@dataclass(slots=True)
class _Read:
    """What was said of one image."""

    labels: dict[str, dict[str, float]] = field(default_factory=dict)
    """Reader -> label -> 1 or 0."""

    boxes: dict[str, list[tuple[str, Box]]] = field(default_factory=lambda: defaultdict(list))
    """Class -> reader and box."""


def index_vindr(root: Path, intake: Intake) -> None:
    """Index VinDr-CXR; the set names no patients, so each image is its own."""
    options = intake.options(VindrOptions)
    files = list(intake.files())
    lists = SplitLists(intake, options.lists)
    reads: dict[Key, _Read] = {}
    for part in IMAGES:
        _load_part(intake, files, part, reads)
    short = sum(len(read.labels) != READERS[part] for (part, _), read in reads.items())
    intake.notes["images_with_another_number_of_readers"] += short

    def accept(path: Path, read: _Read, xray: Xray) -> None:
        split, flags = lists.columns(path, SPLITS[path.parent.name])
        columns = xray.columns
        columns["flags"] = (
            *columns["flags"], *flags, PATIENT_IS_IMAGE, *_disagreement(read),
        )  # fmt: skip
        sample = intake.accept(
            [path],
            kind="dicom",
            patient=None,
            study=f"{SOURCE}:{path.stem}",
            source_split=split,
            **columns,
        )
        _describe(intake, sample, read, options.fusion)

    images = with_suffix(files, DICOM_SUFFIXES)
    take_images(intake, images, reads, lambda path: (path.parent.name, path.stem), accept)
    leave_rest(intake)


def _disagreement(read: _Read) -> tuple[str, ...]:
    said = list(read.labels.values())
    return () if all(labels == said[0] for labels in said) else ("readers_disagree",)


def _describe(intake: Intake, sample: str, read: _Read, fusion: Fusion) -> None:
    readers = len(read.labels)
    source = f"{SOURCE}:{_CONSENSUS if readers == 1 else fusion}"
    for name in next(iter(read.labels.values())):
        votes = sum(labels[name] == 1 for labels in read.labels.values())
        intake.label(sample, name, float(agreed(votes, readers, fusion)), source)
    for name, boxes in sorted(read.boxes.items()):
        for box in fused_boxes(boxes, readers, fusion):
            intake.region(sample, name=name, kind="box", geometry=box)


def _load_part(intake: Intake, files: Sequence[Path], part: str, reads: dict[Key, _Read]) -> None:
    """The label rows, then the boxes, of the training or the test part."""
    table = the_file(files, f"image_labels_{part}.csv")
    rows = 0
    for row, cells in table_rows(intake, table, ("image_id",)):
        rows += 1
        read = reads.setdefault((part, cells["image_id"]), _Read())
        reader = cells.get("rad_id") or _CONSENSUS
        try:
            if reader in read.labels:
                raise Reject("duplicate_row")
            read.labels[reader] = _labels(cells)
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
    silent = [key for key, read in reads.items() if not read.labels]
    for key in silent:
        del reads[key]
    compare(intake, f"rows_{part}", rows, IMAGES[part] * READERS[part])
    _load_boxes(intake, the_file(files, f"annotations_{part}.csv"), part, reads)


def _labels(cells: Cells) -> dict[str, float]:
    """Label -> 1 or 0; a label that is blank is no label.

    Raises:
        Reject: ``bad_labels``.
    """
    values = {
        _ALIASES.get(name, name): presence(cell)
        for name, cell in cells.items()
        if name not in ("image_id", "rad_id")
    }
    told = {name: value for name, value in values.items() if value in (0, 1)}
    if told.keys() != set(CLASSES):
        raise Reject("bad_labels", f"{len(told)} of {len(CLASSES)} labels")
    return {name: float(told[name] == 1) for name in CLASSES}


def _load_boxes(intake: Intake, table: Path, part: str, reads: Mapping[Key, _Read]) -> None:
    for row, cells in table_rows(intake, table, ("image_id", "class_name", *_CORNERS)):
        name = _ALIASES.get(cells["class_name"], cells["class_name"])
        if name == NO_FINDING:
            continue  # a reader's word that there is nothing to draw
        try:
            read = reads.get((part, cells["image_id"]))
            reader = cells.get("rad_id") or _CONSENSUS
            if read is None or reader not in read.labels:
                raise Reject("no_sample")
            read.boxes[name].append((reader, _box(cells)))
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)


def _box(cells: Cells) -> Box:
    """Corners in pixels of the stored image.

    Raises:
        Reject: ``not_a_number`` or ``bad_box``.
    """
    x0, y0, x1, y1 = (number(cells[name]) for name in _CORNERS)
    if not (x0 < x1 and y0 < y1):
        raise Reject("bad_box")
    return x0, y0, x1, y1
