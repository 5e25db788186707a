"""Source kind ``table``: the user's own table of files, patients, texts and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlp.archive.intake import Intake
from medvlp.archive.measure import Measured, measuring
from medvlp.archive.options import TableOptions
from medvlp.archive.tables.accounts import give_text
from medvlp.archive.tables.annotations import Annotations
from medvlp.archive.tables.columns import UserTable
from medvlp.archive.text.document import checked_text
from medvlp.archive.text.reports import OF_REPORTS, ReportIndex, load_reports
from medvlp.archive.verdict import Reject, Verdict
from medvlp.digest import digest_bytes
from medvlp.domain import Domain, get_domain
from medvlp.errors import ArchiveError, ConfigError

_FIELDS = (
    "path", "patient", "study", "study_uid", "accession", "series", "text", "date", "modality",
    "view", "laterality", "sex", "age", "site", "scanner", "split", "label_list", "labels", "names",
)  # fmt: skip
_LABEL_VALUES = {
    "1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0,
    "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0,
    "-1": -1.0, "-1.0": -1.0, "uncertain": -1.0,
}  # fmt: skip
_UNKNOWN = ("", "nan", "none", "null", "na")
_SUFFIX_KINDS = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".tif": "image", ".tiff": "image",
    ".nii": "nifti", ".gz": "nifti",
    ".mp4": "video", ".avi": "video", ".mov": "video", ".mkv": "video", ".mpg": "video",
}  # fmt: skip

Labels = Mapping[str, float | None]


@dataclass(frozen=True)
class _Line:
    """A usable row; `path` is None where the table describes texts alone."""

    row: int
    cells: Mapping[str, Any]
    labels: Labels
    path: Path | None


@dataclass(frozen=True)
class _Beside:
    """What lies beside the table: reports and annotations."""

    reports: ReportIndex | None
    annotations: Annotations


def index_table(root: Path, intake: Intake) -> None:
    """Index a CSV or Parquet table; its paths are relative to the table's folder.

    Needs ``domain`` and a patient column, and a path column or (for texts without pixels) a text
    column. Label columns are 1, 0, -1 (uncertain) or blank.
    """
    if not root.is_file():
        raise ArchiveError(
            "kind table takes the table's file, not a folder", remedy="name the CSV or Parquet file"
        )
    if intake.domain is None:
        raise ConfigError("kind table needs a domain", remedy="add --set domain=cxr or another")
    domain = get_domain(intake.domain)
    options = _options(intake, domain)
    elsewhere = OF_REPORTS if intake.config.reports else ()
    table = UserTable(root, intake.config.columns, _FIELDS, ("patient",), elsewhere)
    if not {"path", "text"} & set(table.column):
        raise ConfigError(
            f"{root.name} has neither a path nor a text column "
            f"(columns there: {', '.join(table.frame.columns)})",
            remedy="give --set columns.path=<one of them> or columns.text=<one of them>",
        )
    intake.cover([root])
    table.list_refused(intake.reject_row)
    beside = _Beside(load_reports(intake), Annotations.load(intake))
    if beside.reports is not None:
        table.check_all(beside.reports.columns, OF_REPORTS)
    lines = list(_lines(intake, table))
    with_files = {line.path: line for line in lines if line.path is not None}
    items = ((path,) for path in with_files)
    reading = measuring(
        domain.name, burned_in=intake.config.burned_in, accept_not_hu=options.accept_not_hu
    )
    for (path,), found in intake.read(reading, items, "Reading files"):
        _take_file(intake, domain, beside, with_files[path], found)
    for line in lines:
        if line.path is None:
            _take_text(intake, beside, root, line)


def _options(intake: Intake, domain: Domain) -> TableOptions:
    options = intake.options(TableOptions)
    if options.accept_not_hu and "CT" not in domain.modalities:
        raise ConfigError(
            f"options.accept_not_hu is for CT, not for {domain.name}", remedy="leave it out"
        )
    return options


def _lines(intake: Intake, table: UserTable) -> Iterator[_Line]:
    labels = _labels(table)
    has_paths = "path" in table.column
    seen: set[Path] = set()
    for row, cells in table.rows():
        line = _Line(row, cells, labels[row - 1], None)
        if cells["patient"] is None:
            intake.reject_row(table.path, row, "no_patient")
        elif not has_paths:
            yield line
        elif cells["path"] is None:
            intake.reject_row(table.path, row, "no_path")
        else:
            path = table.path.parent / str(cells["path"])
            code = "missing_file" if not path.exists() else "duplicate_path" * (path in seen)
            if code:
                intake.reject_row(table.path, row, code)
                continue
            seen.add(path)
            yield replace(line, path=path)


def _take_file(
    intake: Intake, domain: Domain, beside: _Beside, line: _Line, found: Measured | Verdict
) -> None:
    assert line.path is not None
    files = found.paths if isinstance(found, Measured) else _files(line.path)
    for file in files:
        intake.find(file)
    cells = line.cells
    with intake.judge(files, "read"):
        if isinstance(found, Verdict):
            raise found
        modality = cells.get("modality") or found.probe.modality or None
        identity = "\x1f".join(str(cells.get(f)) for f in ("patient", "study", "path"))
        sample = intake.accept(
            found.paths,
            kind=_kind(found.paths, domain),
            identity=f"table\x1f{identity}",
            **{**found.columns, "modality": modality},
            **_common(cells),
        )
        _describe(intake, beside, sample, line)


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _take_text(intake: Intake, beside: _Beside, root: Path, line: _Line) -> None:
    cells = line.cells
    try:
        digest = digest_bytes(checked_text(str(cells.get("text") or "")).text.encode())
        sample = intake.accept(
            [root],
            kind="report",
            identity="\x1f".join(("table", cells["patient"], cells.get("study") or "", digest)),
            sha256=digest,
            modality=cells.get("modality"),
            **_common(cells),
        )
    except Verdict as verdict:
        intake.reject_row(root, line.row, verdict.code)
        return
    _describe(intake, beside, sample, line)


def _common(cells: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "patient": cells["patient"],
        "study": cells.get("study") or cells.get("study_uid") or cells.get("accession"),
        "series": cells.get("series"),
        "acquired": cells.get("date"),
        "age": cells.get("age"),
        "sex": cells.get("sex"),
        "site": cells.get("site"),
        "scanner": cells.get("scanner"),
        "view": cells.get("view"),
        "laterality": cells.get("laterality"),
        "source_split": cells.get("split"),
        "identifiers": [
            *(c for f in ("study_uid", "accession") if (c := cells.get(f))),
            *cells.get("names", ()),
        ],
    }


def _describe(intake: Intake, beside: _Beside, sample: str, line: _Line) -> None:
    _attach_report(intake, beside.reports, sample, line)
    for name, value in line.labels.items():
        intake.label(sample, name, value, intake.config.label_source)
    cells = line.cells
    path = None if line.path is None else str(cells["path"])
    uid, accession = cells.get("study_uid") or cells.get("study"), cells.get("accession")
    beside.annotations.apply(sample, path=path, study_uid=uid, accession=accession)


def _attach_report(intake: Intake, reports: ReportIndex | None, sample: str, line: _Line) -> None:
    cells = line.cells
    if cells.get("text"):
        try:
            text = checked_text(str(cells["text"]))
        except Reject as verdict:
            intake.reject_row(intake.root, line.row, verdict.code, verdict.message)
            return
        give_text(intake, sample, text)
    elif reports is not None:
        reports.attach(
            sample,
            accession=cells.get("accession"),
            study_uid=cells.get("study_uid"),
            name=None if cells.get("study_uid") else cells.get("study"),
            patient=cells.get("patient"),
        )


def _kind(paths: Sequence[Path], domain: Domain) -> str:
    if len(paths) > 1 or paths[0].is_dir():
        return "series" if domain.dicom_unit == "series" else "frames"
    return _SUFFIX_KINDS.get(paths[0].suffix.lower(), "dicom")


def _labels(table: UserTable) -> list[Labels]:
    """Each row's labels, from wide columns or from one column of names."""
    config_columns = table.columns
    wide = {name: _wide(table, name) for name in config_columns.labels}
    rows: list[dict[str, float | None]] = [
        {name: values[i] for name, values in wide.items()} for i in range(table.frame.height)
    ]
    if "label_list" in table.column:
        listed = _listed(table, config_columns.label_separator)
        known = sorted({name for names in listed if names for name in names})
        for row, names in zip(rows, listed, strict=True):
            row |= {n: None if names is None else float(n in names) for n in known}
    return list(rows)


def _wide(table: UserTable, name: str) -> list[float | None]:
    cells = ["" if c is None else str(c).strip().lower() for c in table.frame[name].to_list()]
    bad = sum(c not in _LABEL_VALUES and c not in _UNKNOWN for c in cells)
    if bad:
        raise ConfigError(
            f"label column {name!r} holds something else than 1, 0, -1 or blank in {bad} rows",
            remedy="correct the column, or leave it out of columns.labels",
        )
    return [_LABEL_VALUES.get(c) for c in cells]


def _listed(table: UserTable, separator: str) -> list[Sequence[str] | None]:
    cells = table.frame[table.column["label_list"]].to_list()
    return [_names(cell, separator) for cell in cells]


def _names(cell: Any, separator: str) -> list[str] | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    names = cell if isinstance(cell, list) else str(cell).split(separator)
    return [name for n in names if n is not None and (name := str(n).strip())]
