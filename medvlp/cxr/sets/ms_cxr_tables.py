"""The phrases and boxes of MS-CXR, from its CSV file or, where that is not there, its COCO file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import Cells, Numbered, number, table_rows, the_file
from medvlp.archive.text.document import checked_text
from medvlp.archive.verdict import Reject
from medvlp.errors import ArchiveError, ConfigError
from medvlp.plain_files import read_json

CATEGORIES = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Lung Opacity", "Pleural Effusion",
    "Pneumonia", "Pneumothorax",
)  # fmt: skip

_NAME = "MS_CXR_Local_Alignment_v*"
_SIDES = ("x", "y", "w", "h")
_SIZE = ("image_width", "image_height")
_COLUMNS = ("dicom_id", "category_name", "label_text", "path", *_SIDES, *_SIZE)

Box = tuple[float, float, float, float]

Phrase = tuple[str, str]
"""Finding and words."""


@dataclass(slots=True)
class Marks:
    """What is said of one image."""

    path: str
    split: str
    size: tuple[float, float]
    """Rows and columns of the image that the boxes are drawn in."""

    boxes: dict[Phrase, list[Box]] = field(default_factory=dict)
    """Corners in pixels of that image; a phrase may have several."""

    spoilt: set[Phrase] = field(default_factory=set)
    """Phrases of which a box was refused: half their truth is none."""


def load_marks(intake: Intake, files: Sequence[Path]) -> dict[str, Marks]:
    """Image (dicom_id) -> its phrases with their boxes.

    Raises:
        ArchiveError: There is no table, or it is none of MS-CXR.
    """
    found: dict[str, Marks] = {}
    tables = [path for path in files if path.match(f"{_NAME}.csv")]
    if tables or not any(path.match(f"{_NAME}.json") for path in files):
        table = the_file(files, f"{_NAME}.csv")
        rows = table_rows(intake, table, _COLUMNS)
    else:
        table = the_file(files, f"{_NAME}.json")
        rows = _coco_rows(intake, table)
    for row, cells in rows:
        try:
            _take(found, cells)
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
    return found


def _take(found: dict[str, Marks], cells: Cells) -> None:
    if cells["category_name"] not in CATEGORIES:
        raise Reject("bad_labels")
    columns, rows = (number(cells[name]) for name in _SIZE)
    words = checked_text(cells["label_text"]).text.strip()
    new = Marks(path=cells["path"], split=cells.get("split", ""), size=(rows, columns))
    marks = found.setdefault(cells["dicom_id"], new)
    if (marks.path, marks.split, marks.size) != (new.path, new.split, new.size):
        raise Reject("label_conflict")
    phrase = cells["category_name"], words
    try:
        box = _box(cells, marks.size)
    except Reject:
        marks.spoilt.add(phrase)
        raise
    boxes = marks.boxes.setdefault(phrase, [])
    if box in boxes:
        raise Reject("duplicate_row")
    boxes.append(box)


def _box(cells: Cells, size: tuple[float, float]) -> Box:
    """Corners within the image; what sticks out by rounding is cut off.

    Raises:
        Reject: ``not_a_number`` or ``bad_box``.
    """
    x, y, width, height = (number(cells[name]) for name in _SIDES)
    rows, columns = size
    box = max(x, 0.0), max(y, 0.0), min(x + width, columns), min(y + height, rows)
    if not (box[0] < box[2] and box[1] < box[3]):
        raise Reject("bad_box")
    return box


def _coco_rows(intake: Intake, table: Path) -> Iterator[Numbered]:
    """The rows that the CSV would have.

    Raises:
        ArchiveError: It is no COCO file.
    """
    try:
        told = read_json(table)
        categories = {int(c["id"]): str(c["name"]) for c in told["categories"]}
        images = {int(image["id"]): image for image in told["images"]}
        notes = [(int(a["image_id"]), int(a["category_id"]), a) for a in told["annotations"]]
        rows = [
            _coco_cells(images.get(image, {}), categories.get(category, ""), note)
            for image, category, note in notes
        ]
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError):
        raise ArchiveError(
            f"{table.name} is no COCO file", remedy="give the annotations as they are published"
        ) from None
    intake.cover([table])
    yield from enumerate(rows, start=1)


def _coco_cells(image: Mapping[str, Any], category: str, note: Mapping[str, Any]) -> Cells:
    sides = note["bbox"] if isinstance(note["bbox"], list) else []
    path = str(image.get("path") or image.get("file_name") or "")
    return {
        "dicom_id": PurePosixPath(path).stem,
        "category_name": category,
        "label_text": str(note["label_text"]),
        "path": path,
        "split": str(image.get("split") or note.get("split") or ""),
        "image_width": str(image.get("width", "")),
        "image_height": str(image.get("height", "")),
        **dict.fromkeys(_SIDES, ""),
        **dict(zip(_SIDES, map(str, sides), strict=False)),
    }
