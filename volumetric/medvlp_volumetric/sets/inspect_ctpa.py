"""Source kind ``inspect-ctpa``: INSPECT (Huang et al., NeurIPS 2023), CT of pulmonary embolism.

Reads `CTPA/<image>.nii.gz` and the tables of impressions, labels, splits and of which study,
person and image belong together, as they are published since June 2025 (``_20250611.tsv``). The
health records of OMOP are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    give_text,
    leave_rest,
    row_text,
    table_rows,
    take_files,
    the_file,
)
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.text.document import is_wordless
from medvlp.archive.text.plaintext import Text
from medvlp.archive.verdict import Reject
from medvlp_volumetric.nifti import is_nifti, stem
from medvlp_volumetric.sets.scans import LABEL, Scan, is_drawn, reading_scans, scan_columns

SOURCE = "inspect-ctpa"

_KEY = "impression_id"
_STUDIES = "study_mapping*.tsv"
_IMPRESSIONS = "impressions*.tsv"
_LABELS = "labels*.tsv"
_SPLITS = "splits*.tsv"
_VALUES = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "censored": None, "": None}
"""Of a label; an outcome is censored where the patient's records end before it could show."""
_OTHER = (_KEY, "person_id", "image_id", "split")


@dataclass(frozen=True, slots=True)
class _Study:
    """What the tables say of one image."""

    number: str
    person: str
    acquired: str
    text: Text | None
    labels: Mapping[str, float | None]
    split: str | None


def index_inspect(root: Path, intake: Intake) -> None:
    """Index INSPECT with its split; each study is one volume."""
    options = intake.options(ListOptions)
    files = list(intake.files())
    studies = _studies(intake, files)
    lists = SplitLists(intake, options.lists)

    def accept(path: Path, study: _Study, scan: Scan) -> None:
        split, flags = lists.columns(path, study.split)
        columns = scan_columns(scan, flags)
        sample = intake.accept(
            [path],
            kind="nifti",
            patient=f"{SOURCE}:{study.person}",
            study=f"{SOURCE}:{study.number}",
            acquired=study.acquired or None,
            source_split=split,
            identifiers=[study.person, stem(path)],
            **columns,
        )
        give_text(intake, sample, study.text)
        for name, value in study.labels.items():
            intake.label(sample, name, value, SOURCE)

    volumes = (path for path in files if is_nifti(path) and not is_drawn(root, path))
    reading = reading_scans()
    take_files(intake, volumes, studies, stem, lambda study: reading, accept, LABEL)
    leave_rest(intake)


def _studies(intake: Intake, files: Sequence[Path]) -> dict[str, _Study]:
    """Image -> its study."""
    texts, labels = _texts(intake, files), _labels(intake, files)
    splits = {cells[_KEY]: cells["split"] for _, _, cells in _rows(intake, files, _SPLITS, "split")}
    table = the_file(files, _STUDIES)
    studies: dict[str, _Study] = {}
    for row, cells in table_rows(intake, table, (_KEY, "person_id", "image_id")):
        name, key = stem(Path(cells["image_id"])), cells[_KEY]
        try:
            if not name or not key:
                raise Reject("no_path")
            if not cells["person_id"]:
                raise Reject("no_patient")
            if name in studies:
                raise Reject("duplicate_row")
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
            continue
        studies[name] = _Study(
            number=key,
            person=cells["person_id"],
            acquired=cells.get("procedure_DATETIME", "")[:10],
            text=texts.get(key),
            labels=labels.get(key, {}),
            split=splits.get(key),
        )
    known = {study.number for study in studies.values()}
    intake.notes["reports_without_study"] += len(texts.keys() - known)
    intake.notes["labels_without_image"] += len(labels.keys() - known)
    return studies


def _texts(intake: Intake, files: Sequence[Path]) -> dict[str, Text | None]:
    texts: dict[str, Text | None] = {}
    for table, row, cells in _rows(intake, files, _IMPRESSIONS, "impressions"):
        words = cells["impressions"]
        told = "" if is_wordless(words) else f"IMPRESSION:\n{words}"
        texts[cells[_KEY]] = row_text(intake, table, row, told)
    return texts


def _labels(intake: Intake, files: Sequence[Path]) -> dict[str, Mapping[str, float | None]]:
    labels: dict[str, Mapping[str, float | None]] = {}
    for table, row, cells in _rows(intake, files, _LABELS):
        try:
            labels[cells[_KEY]] = _values(cells)
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
    return labels


def _rows(
    intake: Intake, files: Sequence[Path], pattern: str, *columns: str
) -> Iterator[tuple[Path, int, Cells]]:
    """The rows of a table, if it is there; each study is told of once."""
    if not any(fnmatchcase(path.name, pattern) for path in files):
        return
    table = the_file(files, pattern)
    seen: set[str] = set()
    for row, cells in table_rows(intake, table, (_KEY, *columns)):
        if not cells[_KEY] or cells[_KEY] in seen:
            intake.reject_row(table, row, "duplicate_row" if cells[_KEY] else "no_path")
            continue
        seen.add(cells[_KEY])
        yield table, row, cells


def _values(cells: Cells) -> dict[str, float | None]:
    """A study's labels.

    Raises:
        Reject: ``bad_labels``.
    """
    told = {name: cell.lower() for name, cell in cells.items() if name not in _OTHER}
    if not set(told.values()) <= _VALUES.keys():
        raise Reject("bad_labels")
    return {name: _VALUES[cell] for name, cell in told.items()}
