"""Source kind ``merlin``: Merlin's abdominal CT set (Blankemeier et al., 2024).

Reads `merlin_data/<study id>.nii.gz`, `reports_final.xlsx` and, where it is there,
`zero_shot_findings_disease_cls.csv`, the labels of the zero-shot findings. The tables name studies
and no patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    compare,
    give_text,
    leave_rest,
    presence,
    row_text,
    table_rows,
    take_files,
    the_file,
)
from medvlp.archive.tables.annotations import Annotations
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.text.plaintext import Text
from medvlp.archive.verdict import Reject
from medvlp.data.tables import PATIENT_IS_IMAGE
from medvlp_volumetric.nifti import is_nifti, stem
from medvlp_volumetric.sets.scans import LABEL, Scan, is_drawn, reading_scans, scan_columns

SOURCE = "merlin"
STUDIES = 25_494

_REPORTS = "reports_final.*"
_FINDINGS = "zero_shot_findings_disease_cls.csv"
_KEY = "study id"
_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_HEADING = "FINDINGS:"

Labels = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Study:
    text: Text | None
    split: str | None


def index_merlin(root: Path, intake: Intake) -> None:
    """Index Merlin with its split; each study is one volume."""
    options = intake.options(ListOptions)
    annotations = Annotations.load(intake)
    files = list(intake.files())
    studies = _studies(intake, the_file(files, _REPORTS))
    labels = _labels(intake, files)
    lists = SplitLists(intake, options.lists)

    def accept(path: Path, study: _Study, scan: Scan) -> None:
        split, flags = lists.columns(path, study.split)
        columns = scan_columns(scan, (*flags, PATIENT_IS_IMAGE))
        name = stem(path)
        sample = intake.accept(
            [path],
            kind="nifti",
            patient=None,
            study=f"{SOURCE}:{name}",
            source_split=split,
            identifiers=[name],
            **columns,
        )
        give_text(intake, sample, study.text)
        for label, value in labels.pop(name, {}).items():
            intake.label(sample, label, value, SOURCE)
        inside = path.relative_to(root).as_posix()
        annotations.apply(sample, accession=name, study_uid=name, path=inside)

    volumes = (path for path in files if is_nifti(path) and not is_drawn(root, path))
    reading = reading_scans()
    take_files(intake, volumes, studies, stem, lambda study: reading, accept, LABEL)
    intake.notes["labels_without_image"] += len(labels)
    leave_rest(intake)


def _studies(intake: Intake, table: Path) -> dict[str, _Study]:
    studies: dict[str, _Study] = {}
    for row, cells in table_rows(intake, table, (_KEY, "Findings", "Split")):
        name = cells[_KEY]
        if not name or name in studies:
            intake.reject_row(table, row, "duplicate_row" if name else "no_path")
            continue
        words = cells["Findings"]
        headed = words.upper().startswith(_HEADING) or not words
        text = row_text(intake, table, row, words if headed else f"{_HEADING}\n{words}")
        studies[name] = _Study(text, _SPLITS.get(cells["Split"].lower()))
    compare(intake, "rows", len(studies), STUDIES)
    return studies


def _labels(intake: Intake, files: Iterable[Path]) -> dict[str, Labels]:
    """Study -> its findings; -1 stands where its report says nothing, which is not known."""
    labels: dict[str, Labels] = {}
    for table in (path for path in files if path.name == _FINDINGS):
        for row, cells in table_rows(intake, table, (_KEY,)):
            try:
                if cells[_KEY] in labels:
                    raise Reject("duplicate_row")
                told = {name: presence(cell) for name, cell in cells.items() if name != _KEY}
            except Reject as verdict:
                intake.reject_row(table, row, verdict.code)
                continue
            labels[cells[_KEY]] = {
                name: value for name, value in told.items() if value is not None and value >= 0
            }
    return labels
