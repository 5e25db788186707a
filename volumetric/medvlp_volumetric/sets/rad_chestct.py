"""Source kind ``rad-chestct``: RAD-ChestCT (Draelos et al., Medical Image Analysis 2021).

Reads `trn00001.npz` (Hounsfield units; slices from head to feet, rows from front to back, columns
from right to left), `CT_Scan_Metadata_Complete_35747.csv` and the tables of abnormalities and
where they are. There are no reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    compare,
    leave_rest,
    number,
    presence,
    table_rows,
    take_files,
    the_file,
    with_suffix,
)
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp_volumetric.sets.scans import LABEL, Scan, is_drawn, reading_scans, scan_columns
from medvlp_volumetric.told import Affine, affine_of

SOURCE = "rad-chestct"
SCANS = 3_630
"""Of the part that is public."""

_TABLE = "CT_Scan_Metadata_Complete*.csv"
_COLUMNS = ("VolumeAcc_DEID", "NoteAcc_DEID", "MRN_DEID", "final_spacing", "Set_Assigned")
_LABELS = "Abnormality_and_Location_Labels.csv"
_PARTS = {"trn": "train", "val": "valid", "tst": "test"}
"""How a volume's name begins -> the set's own word for its part."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What the metadata say of one volume."""

    cells: Cells
    affine: Affine


@dataclass(frozen=True, slots=True)
class _Note:
    """What was read from one report, which is not public."""

    labels: Mapping[str, float]
    places: Sequence[tuple[str, str]]
    """Abnormality and where it is."""


@dataclass(slots=True)
class _Notes:
    """All notes, and which of them have a volume."""

    of: dict[str, _Note] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def index_rad_chestct(root: Path, intake: Intake) -> None:
    """Index the public part of RAD-ChestCT with its split."""
    options = intake.options(ListOptions)
    files = list(intake.files())
    volumes = [path for path in with_suffix(files, (".npz",)) if not is_drawn(root, path)]
    rows = _rows(intake, the_file(files, _TABLE), {path.name for path in volumes})
    notes = _Notes(_notes(intake, files))
    lists = SplitLists(intake, options.lists)

    def accept(path: Path, row: _Row, scan: Scan) -> None:
        split, flags = lists.columns(path, row.cells["Set_Assigned"] or None)
        columns = scan_columns(scan, flags, affine=row.affine)
        sample = intake.accept(
            [path],
            kind="array",
            patient=f"{SOURCE}:{row.cells['MRN_DEID']}",
            study=f"{SOURCE}:{row.cells['NoteAcc_DEID']}",
            source_split=split,
            **columns | _person(row.cells),
        )
        note = notes.of.get(row.cells["NoteAcc_DEID"])
        if note is not None:
            notes.used.add(row.cells["NoteAcc_DEID"])
            _label(intake, sample, note)

    reading = reading_scans()
    take_files(intake, volumes, rows, lambda p: p.name, lambda row: reading, accept, LABEL)
    intake.notes["labels_without_image"] += len(notes.of.keys() - notes.used)
    leave_rest(intake)


def _person(cells: Cells) -> dict[str, Any]:
    maker = (cells.get("Manufacturer", ""), cells.get("ManufacturerModelName", ""))
    return {
        "age": cells.get("PatientAge") or None,
        "scanner": " ".join(filter(None, maker)) or None,
    }


def _label(intake: Intake, sample: str, note: _Note) -> None:
    for name, value in note.labels.items():
        intake.label(sample, name, value, SOURCE)
    for name, place in note.places:
        intake.entity(sample, node=None, anatomy=place, observation=name, presence=1, source=SOURCE)


def _rows(intake: Intake, table: Path, there: Iterable[str]) -> dict[str, _Row]:
    """Volume -> its row; the table tells of all 35,747 scans, of which few are public."""
    public = set(there)
    rows: dict[str, _Row] = {}
    for row, cells in table_rows(intake, table, _COLUMNS):
        name = cells["VolumeAcc_DEID"]
        if name not in public:
            intake.notes["rows_without_image"] += 1
            continue
        try:
            if name in rows:
                raise Reject("duplicate_row")
            if not cells["MRN_DEID"]:
                raise Reject("no_patient")
            if cells["Set_Assigned"] != _PARTS.get(name[:3]):
                raise Reject("split_conflict")
            rows[name] = _Row(cells, _affine(number(cells["final_spacing"])))
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
    compare(intake, "volumes", len(public), SCANS)
    return rows


def _affine(spacing_mm: float) -> Affine:
    """Columns run to the left, rows to the back and slices to the feet.

    Raises:
        Reject: ``bad_spacing``.
    """
    if spacing_mm <= 0:
        raise Reject("bad_spacing")
    return affine_of(np.diag([-spacing_mm, -spacing_mm, -spacing_mm, 1.0]))


def _notes(intake: Intake, files: Iterable[Path]) -> dict[str, _Note]:
    notes: dict[str, _Note] = {}
    for table in files:
        if not table.name.endswith(_LABELS):
            continue
        for row, cells in table_rows(intake, table, ("NoteAcc_DEID",)):
            try:
                if cells["NoteAcc_DEID"] in notes:
                    raise Reject("duplicate_row")
                notes[cells["NoteAcc_DEID"]] = _note(cells)
            except Reject as verdict:
                intake.reject_row(table, row, verdict.code)
    return notes


def _note(cells: Cells) -> _Note:
    """Columns are called ``abnormality*place``; an abnormality is present if it is anywhere.

    Raises:
        Reject: ``bad_labels``.
    """
    labels: dict[str, float] = {}
    places: list[tuple[str, str]] = []
    for column, cell in cells.items():
        name, mark, place = column.partition("*")
        if not mark:
            continue
        value = presence(cell)
        if value not in (0, 1):
            raise Reject("bad_labels")
        labels[name] = max(value, labels.get(name, 0.0))
        if value:
            places.append((name, place))
    return _Note(labels, places)
