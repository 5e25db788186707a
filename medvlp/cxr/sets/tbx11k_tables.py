"""The tables of TBX11K: COCO files and lists, or the simplified `data.csv`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import Cells, number, table_rows
from medvlp.archive.tables.tablefile import table_text
from medvlp.archive.verdict import Reject
from medvlp.errors import ArchiveError, ConfigError
from medvlp.plain_files import read_json

TUBERCULOSIS = "Tuberculosis"

_TB, _NO_TB = "tb", "no_tb"
_SIDES = ("xmin", "ymin", "width", "height")
_GROUPS = {"health": "Healthy", "sick": "Sick without tuberculosis"}
_SPLITS = {"train": "train", "val": "valid", "test": "test"}

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Marks:
    """What is known of one image."""

    labels: dict[str, bool] = field(default_factory=dict)
    boxes: list[tuple[str, Box]] = field(default_factory=list)
    """Category and corners in pixels."""


def simplified_marks(intake: Intake, table: Path) -> dict[str, Marks]:
    """Image name -> marks, from `data.csv`; a row that contradicts an earlier one is refused."""
    marks: dict[str, Marks] = {}
    for row, cells in table_rows(intake, table, ("fname", "bbox", "target")):
        try:
            boxes = _row_boxes(cells)
            present = cells["target"] == _TB
            found = marks.setdefault(cells["fname"], Marks({TUBERCULOSIS: present}))
            if found.labels[TUBERCULOSIS] != present:
                raise Reject("label_conflict")
            found.boxes += boxes
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
    return marks


def _row_boxes(cells: Cells) -> list[tuple[str, Box]]:
    if cells["target"] not in (_TB, _NO_TB):
        raise Reject("bad_labels")
    if cells["bbox"].lower() in ("", "none"):
        return []
    if cells["target"] == _NO_TB:
        raise Reject("label_conflict")
    return [(TUBERCULOSIS, dict_box(cells["bbox"]))]


def dict_box(words: str) -> Box:
    """The box in a Python dictionary's words; nothing is evaluated.

    Raises:
        Reject: ``bad_box``.

    >>> dict_box("{'xmin': 2.5, 'ymin': 3, 'width': 10, 'height': 4}")
    (2.5, 3.0, 12.5, 7.0)
    """
    try:
        sides = json.loads(words.replace("'", '"'))
    except ValueError:
        raise Reject("bad_box") from None
    if not isinstance(sides, dict) or sides.keys() != set(_SIDES):
        raise Reject("bad_box")
    return _box([sides[name] for name in _SIDES])


def _box(sides: Any) -> Box:
    """Corners from x, y, width and height."""
    if not isinstance(sides, list) or len(sides) != len(_SIDES):
        raise Reject("bad_box")
    if any(isinstance(side, bool) or not isinstance(side, int | float) for side in sides):
        raise Reject("bad_box")
    x, y, width, height = (number(str(side)) for side in sides)
    if width <= 0 or height <= 0:
        raise Reject("bad_box")
    return x, y, x + width, y + height


def list_splits(intake: Intake, files: Sequence[Path]) -> dict[str, str]:
    """Image name -> split, from `lists/*_{train,val,test}.txt`; other lists repeat these.

    Raises:
        ArchiveError: Two lists put an image into two splits.
    """
    splits: dict[str, str] = {}
    for path in files:
        split = _SPLITS.get(path.stem.rpartition("_")[2])
        if path.suffix != ".txt" or path.parent.name != "lists":
            continue
        intake.cover([path])
        for name in table_text(path).split() if split else ():
            if splits.setdefault(name, split or "") != split:
                raise ArchiveError(
                    "the lists of TBX11K put an image into two splits",
                    remedy="keep the lists of one release",
                )
    return splits


def coco_marks(
    intake: Intake, files: Sequence[Path], splits: Mapping[str, str]
) -> dict[str, Marks | None]:
    """Image name -> marks, None where they are withheld.

    Raises:
        ArchiveError: There is no COCO file, or one cannot be read.
    """
    marks: dict[str, Marks | None] = {name: None for name, s in splits.items() if s == "test"}
    tables = [path for path in files if path.suffix == ".json"]
    seen: set[tuple[str, str, Box]] = set()
    for table in tables:
        _load_coco(intake, table, marks, seen)
    if not tables:
        raise ArchiveError(
            "the source holds neither data.csv nor a COCO file of TBX11K",
            remedy="name the folder with imgs, annotations and lists, or with data.csv",
        )
    return marks


def _load_coco(
    intake: Intake,
    table: Path,
    marks: dict[str, Marks | None],
    seen: set[tuple[str, str, Box]],
) -> None:
    """One file's images and boxes; several files tell the same ones (train, trainval, all)."""
    try:
        told = read_json(table)
        categories = {int(c["id"]): str(c["name"]) for c in told["categories"]}
        names = {int(i["id"]): str(i["file_name"]) for i in told["images"]}
        rows = [(int(a["image_id"]), int(a["category_id"]), a["bbox"]) for a in told["annotations"]]
    except (ConfigError, KeyError, TypeError, ValueError):
        raise ArchiveError(
            f"{table.name} is no COCO file", remedy="give the annotations as they are published"
        ) from None
    intake.cover([table])
    for name in names.values():
        if name not in marks:
            marks[name] = Marks(_group_labels(name))
    for row, (image, category, sides) in enumerate(rows, start=1):
        try:
            if image not in names or category not in categories:
                raise Reject("no_sample")
            _add_box(marks, names[image], categories[category], _box(sides), seen)
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)


def _add_box(
    marks: Mapping[str, Marks | None],
    name: str,
    category: str,
    box: Box,
    seen: set[tuple[str, str, Box]],
) -> None:
    found = marks[name]
    if found is None:
        raise Reject("label_conflict", "a box of the test part, whose labels are withheld")
    if (name, category, box) in seen:
        return
    seen.add((name, category, box))
    found.boxes.append((category, box))
    found.labels[TUBERCULOSIS] = True


def _group_labels(name: str) -> dict[str, bool]:
    """What the folder says, such as ``health`` of ``health/h0001.png``."""
    group = name.rpartition("/")[0].rpartition("/")[2]
    return {
        TUBERCULOSIS: group == _TB,
        **({label: group == folder for folder, label in _GROUPS.items()} if group else {}),
    }
