"""Source kind ``totalsegmentator``: TotalSegmentator's CT set (Wasserthal et al., 2023).

Reads `meta.csv`, and in each of its folders `s0001/` the volume `ct.nii.gz` and a mask for each
structure in `segmentations/`. Masks of structures that are out of view are empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import Cells, compare, leave_rest, table_rows, the_file
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp_volumetric.nifti import is_nifti, stem
from medvlp_volumetric.sets.cases import NO_LABELS, Case, CaseSet, take_cases

SOURCE = "totalsegmentator"
CASES = 1228
"""Of version 2."""

_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_FOLDER = re.compile(r"s\d{4}")
_VOLUME = ("ct.nii.gz", "ct.nii")
_MASKS = "segmentations"


def index_totalsegmentator(root: Path, intake: Intake) -> None:
    """Index TotalSegmentator's set with its split; each volume is a sample."""
    options = intake.options(ListOptions)
    lists = SplitLists(intake, options.lists)
    rows = _rows(intake, the_file(intake.files(), "meta.csv"))
    volumes = _volumes(intake, rows)
    masks = _masks(intake, {path.parent for path in volumes.values()})
    cases = [
        _case(name, path, masks.get(path.parent, []), rows[name])
        for name, path in sorted(volumes.items())
    ]
    intake.notes["rows_without_image"] += len(rows) - len(cases)
    take_cases(intake, CaseSet(source=SOURCE, lists=lists), cases)
    leave_rest(intake)


def _rows(intake: Intake, table: Path) -> dict[str, Cells]:
    rows: dict[str, Cells] = {}
    for row, cells in table_rows(intake, table, ("image_id", "age", "gender", "split")):
        code = "duplicate_row" if cells["image_id"] in rows else ""
        code = code or ("" if cells["image_id"] else "no_path")
        if code:
            intake.reject_row(table, row, code)
        else:
            rows[cells["image_id"]] = cells
    compare(intake, "rows", len(rows), CASES)
    return rows


def _volumes(intake: Intake, rows: Mapping[str, Cells]) -> dict[str, Path]:
    volumes: dict[str, Path] = {}
    for path in intake.files():
        name = path.parent.name
        if path.name not in _VOLUME or _FOLDER.fullmatch(name) is None:
            continue
        if name not in rows:
            intake.reject(path, "join", "no_row")
        elif volumes.setdefault(name, path) != path:
            intake.reject(path, "join", "duplicate_sample")
    return volumes


def _masks(intake: Intake, places: set[Path]) -> dict[Path, list[Path]]:
    """Folder of a volume -> its masks."""
    masks: dict[Path, list[Path]] = {}
    for path in filter(is_nifti, intake.files()):
        if path.parent.name != _MASKS:
            continue
        if path.parent.parent in places:
            masks.setdefault(path.parent.parent, []).append(path)
        else:
            intake.reject(path, "join", "mask_without_sample")
    return masks


def _case(name: str, volume: Path, masks: list[Path], cells: Cells) -> Case:
    maker = (cells.get("manufacturer", ""), cells.get("scanner_model", ""))
    return Case(
        volume=volume,
        name=name,
        masks={path: {None: stem(path)} for path in masks},
        split=_SPLITS.get(cells["split"].lower()),
        flags=() if masks else (NO_LABELS,),
        columns={
            "age": cells["age"].removesuffix(".0") or None,
            "sex": cells["gender"] or None,
            "site": cells.get("institute") or None,
            "scanner": " ".join(filter(None, maker)) or None,
        },
    )
