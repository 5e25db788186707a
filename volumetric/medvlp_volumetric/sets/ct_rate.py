"""Source kind ``ct-rate``: CT-RATE (Hamamci et al., 2024), chest CT with reports.

Reads `train_1/train_1_a/train_1_a_1.nii.gz` (patient 1, scan a, reconstruction 1), the metadata,
the reports and the labels of the 18 abnormalities, in any folders. Volumes of the first version
hold neither Hounsfield units nor geometry, which the metadata tell; those of the second (folders
`train_fixed`, `valid_fixed`) hold both. Which one a file is, is read from its own header and
values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    compare,
    give_text,
    leave_rest,
    number,
    presence,
    row_text,
    table_rows,
    take_files,
)
from medvlp.archive.tables.annotations import Annotations
from medvlp.archive.tables.listed import listed_numbers
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.tables.tablefile import table_text
from medvlp.archive.text.document import is_wordless
from medvlp.archive.text.plaintext import Text
from medvlp.archive.verdict import Ignore, Reject
from medvlp.config import STRICT
from medvlp.errors import ArchiveError
from medvlp_volumetric.nifti import is_nifti, stem
from medvlp_volumetric.sets.scans import LABEL, Scan, is_drawn, reading_scans, scan_columns
from medvlp_volumetric.told import Affine, affine_of_dicom, is_placeholder

SOURCE = "ct-rate"
LABEL_SOURCE = f"{SOURCE}:classifier"
"""The labels were read from the reports by the publishers' classifier."""
VOLUMES = {"train": 47_149, "valid": 3_039}
ABNORMALITIES = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema",
    "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion",
    "Mosaic attenuation pattern", "Peribronchial thickening", "Consolidation", "Bronchiectasis",
    "Interlobular septal thickening",
)  # fmt: skip

_TABLE = re.compile(r"(?:.*_)?(train|valid)(?:ation)?_(metadata|reports|predicted_labels)\.csv")
_COLUMNS = {
    "metadata": ("RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing"),
    "reports": ("Findings_EN", "Impressions_EN"),
    "predicted_labels": ABNORMALITIES,
}
_NO_CHEST = re.compile(r"(?:.*_)?no_chest_(?:train|valid)\.txt")
_NAME = re.compile(r"((train|valid)_\d+)_([a-z]+)_(\d+)")
_FOLDER = re.compile(r"(train|valid)(_fixed)?")

_SECTIONS = {
    "ClinicalInformation_EN": "CLINICAL INFORMATION",
    "Technique_EN": "TECHNIQUE",
    "Findings_EN": "FINDINGS",
    "Impressions_EN": "IMPRESSION",
}
"""Columns of a report's parts, and the headings under which they are put together."""
_TOLD = ("Findings_EN", "Impressions_EN")
_NOT_GIVEN = "not given"


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class CtRateOptions(ListOptions):
    """Settings of the kind."""

    reconstructions: Literal["all", "first"] = "all"
    """``first`` takes the lowest numbered of a scan's reconstructions, which show the same with
    other sharpness or slices; all of them are one study."""


@dataclass(frozen=True, slots=True)
class _Name:
    """What a volume's name says."""

    patient: str
    part: str
    scan: str
    reconstruction: int

    @property
    def study(self) -> str:
        return f"{self.patient}_{self.scan}"

    @property
    def volume(self) -> str:
        return f"{self.study}_{self.reconstruction}"


@dataclass(slots=True)
class _Known:
    """What the tables say of one volume."""

    scale: tuple[float, float] = (1.0, 0.0)
    affine: Affine | None = None
    cells: Cells = field(default_factory=dict)
    """Of the metadata."""

    text: Text | None = None
    labels: Mapping[str, float | None] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)


def index_ct_rate(root: Path, intake: Intake) -> None:
    """Index CT-RATE; each reconstruction is a sample with its scan's report."""
    options = intake.options(CtRateOptions)
    annotations = Annotations.load(intake)
    files = list(intake.files())
    known = _load(intake, files)
    lists = SplitLists(intake, options.lists)

    def accept(path: Path, told: _Known, scan: Scan) -> None:
        name = _name(stem(path))
        if name is None:
            raise Reject("no_row")
        if told.affine is None and scan.affine is not None and is_placeholder(scan.affine):
            raise Reject("no_geometry")
        split, flags = lists.columns(path, name.part)
        columns = scan_columns(scan, flags, scale=told.scale, affine=told.affine)
        sample = intake.accept(
            [path],
            kind="nifti",
            patient=f"{SOURCE}:{name.patient}",
            study=f"{SOURCE}:{name.study}",
            series=f"{SOURCE}:{name.volume}",
            source_split=split,
            **columns | _person(told.cells),
        )
        give_text(intake, sample, told.text)
        for label, value in told.labels.items():
            intake.label(sample, label, value, LABEL_SOURCE)
        inside = path.relative_to(root).as_posix()
        annotations.apply(sample, accession=name.volume, study_uid=name.study, path=inside)

    volumes = _volumes(root, intake, files, options.reconstructions == "first")
    take_files(intake, volumes, known, stem, lambda told: reading_scans(*told.scale), accept, LABEL)
    leave_rest(intake)


def _name(words: str) -> _Name | None:
    found = _NAME.fullmatch(words)
    return None if found is None else _Name(found[1], found[2], found[3], int(found[4]))


def _person(cells: Cells) -> dict[str, str | None]:
    maker = (cells.get("Manufacturer", ""), cells.get("ManufacturerModelName", ""))
    return {
        "sex": cells.get("PatientSex") or None,
        "age": cells.get("PatientAge") or None,
        "acquired": cells.get("StudyDate", "").removesuffix(".0") or None,
        "scanner": " ".join(filter(None, maker)) or None,
    }


def _volumes(root: Path, intake: Intake, files: Sequence[Path], first: bool) -> list[Path]:
    """The volumes that are wanted, those of the second version before those of the first."""
    named: dict[Path, _Name] = {}
    for path in filter(is_nifti, files):
        name = _name(stem(path))
        if name is not None and not is_drawn(root, path):
            named[path] = name
    excluded = _excluded(intake, files)
    lowest: dict[str, int] = {}
    for name in named.values():
        lowest[name.study] = min(name.reconstruction, lowest.get(name.study, name.reconstruction))
    wanted = []
    for path in sorted(named, key=lambda path: (not _is_fixed(root, path), path)):
        name = named[path]
        with intake.judge([path], "join"):
            if name.volume in excluded:
                raise Ignore("excluded_by_publisher")
            if any(found[1] != name.part for found in _in_folder(root, path, _FOLDER)):
                raise Reject("split_conflict")
            if first and name.reconstruction != lowest[name.study]:
                raise Ignore("not_selected")
            wanted.append(path)
    return wanted


def _in_folder(root: Path, path: Path, wanted: re.Pattern[str]) -> list[re.Match[str]]:
    """The folders below the root that a file lies in, of those that match."""
    return [
        found for part in path.relative_to(root).parts[:-1] if (found := wanted.fullmatch(part))
    ]


def _is_fixed(root: Path, path: Path) -> bool:
    return any(found[2] for found in _in_folder(root, path, _FOLDER))


def _excluded(intake: Intake, files: Iterable[Path]) -> set[str]:
    """Volumes that show no chest, as the publishers list them."""
    names: set[str] = set()
    for path in files:
        if _NO_CHEST.fullmatch(path.name):
            intake.cover([path])
            lines = table_text(path).split()
            names.update(stem(Path(line.rpartition("/")[2])) for line in lines)
    return names


def _load(intake: Intake, files: Iterable[Path]) -> dict[str, _Known]:
    """Volume -> what the tables say of it.

    Raises:
        ArchiveError: There is no table at all.
    """
    known: dict[str, _Known] = {}
    tables = [(path, found) for path in files if (found := _TABLE.fullmatch(path.name))]
    if not tables:
        raise ArchiveError(
            "the source holds no table of CT-RATE",
            remedy="put the metadata, reports and labels beside the volumes, as published",
        )
    for path, found in tables:
        part, what = found[1], found[2]
        for row, cells in table_rows(intake, path, ("VolumeName", *_COLUMNS[what])):
            try:
                told = known.setdefault(_key(cells["VolumeName"], part), _Known())
                if what in told.tables:
                    raise Reject("duplicate_row")
                told.tables.add(what)
                _add(intake, path, row, cells, told, what)
            except Reject as verdict:
                intake.reject_row(path, row, verdict.code)
    for part, published in VOLUMES.items():
        here = [told for name, told in known.items() if name.startswith(part)]
        if any(found.groups() == (part, "metadata") for _, found in tables):
            rows = sum("metadata" in told.tables for told in here)
            compare(intake, f"rows_{part}", rows, published)
    return known


def _key(volume: str, part: str) -> str:
    name = _name(stem(Path(volume.rpartition("/")[2])))
    if name is None:
        raise Reject("no_path")
    if name.part != part:
        raise Reject("split_conflict")
    return name.volume


def _add(intake: Intake, table: Path, row: int, cells: Cells, told: _Known, what: str) -> None:
    """Take over a row, up to the first cell that cannot be read.

    Raises:
        Reject: There is such a cell.
    """
    if what == "metadata":
        told.cells = cells
        told.scale = number(cells["RescaleSlope"]), number(cells["RescaleIntercept"])
        told.affine = _affine(cells)
    elif what == "reports":
        told.text = row_text(intake, table, row, _words(cells))
    else:
        told.labels = {name: presence(cells[name]) for name in ABNORMALITIES}


def _words(cells: Cells) -> str:
    """A report put together from its parts; blank without findings and impression."""
    told = [column for column in _SECTIONS if not _is_blank(cells.get(column, ""))]
    if set(told).isdisjoint(_TOLD):
        return ""
    return "\n\n".join(f"{_SECTIONS[column]}:\n{cells[column]}" for column in told)


def _is_blank(text: str) -> bool:
    return is_wordless(text) or text.strip(" .").lower() == _NOT_GIVEN


def _affine(cells: Cells) -> Affine:
    """Where the voxels lie; position and direction only where they are told."""
    x, y = listed_numbers(cells["XYSpacing"], 2)
    place = {
        name: listed_numbers(cells[column], count)
        for name, column, count in (
            ("position", "ImagePositionPatient", 3),
            ("orientation", "ImageOrientationPatient", 6),
        )
        if cells.get(column)
    }
    return affine_of_dicom((x, y, number(cells["ZSpacing"])), **place)
