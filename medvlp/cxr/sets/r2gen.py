"""Source kind ``iu-xray``: IU X-Ray in the form of R2Gen (Chen et al., EMNLP 2020).

Reads `annotation.json`, {train, val, test: [{id, report, image_path: [two views]}]}, and the images
that it names. Its reports are cut to the findings. A study's number is that of Open-I, so under one
key its patients are those of kind ``open-i``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest, the_file, with_suffix
from medvlp.archive.text.document import checked_text
from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.xrays import PICTURES, Xray, take_images
from medvlp.errors import ArchiveError, ConfigError
from medvlp.plain_files import read_json

SOURCE = "iu-xray"
STUDIES = {"train": 2_069, "val": 296, "test": 590}

_TABLE = "annotation.json"

Key = tuple[str, str]
"""Folder and name of an image."""


@dataclass(frozen=True, slots=True)
class _Study:
    """One entry."""

    id: str
    part: str
    text: str
    images: tuple[Key, ...]

    @property
    def patient(self) -> str:
        """Open-I's number, one a report: ``CXR2384`` of ``CXR2384_IM-0942``."""
        return self.id.partition("_")[0]


def index_iu_xray(root: Path, intake: Intake) -> None:
    """Index IU X-Ray with R2Gen's split; each view is a sample with its study's report."""
    files = list(intake.files())
    table = the_file(files, _TABLE)
    intake.cover([table])
    studies: dict[Key, _Study] = {}
    ids: set[str] = set()
    for row, (part, entry) in enumerate(_entries(intake, table), start=1):
        try:
            study = _study(part, entry)
            if study.id in ids or not studies.keys().isdisjoint(study.images):
                raise Reject("duplicate_row")
            ids.add(study.id)
            studies |= dict.fromkeys(study.images, study)
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)

    def accept(path: Path, study: _Study, xray: Xray) -> None:
        sample = intake.accept(
            [path],
            kind="image",
            patient=f"open-i:{study.patient}",
            study=f"open-i:{study.patient}",
            identity=f"{SOURCE}:{study.id}/{path.name}",
            source_split=study.part,
            **xray.columns,
        )
        intake.report(sample, study.text)

    take_images(intake, with_suffix(files, PICTURES), studies, _key, accept)
    leave_rest(intake)


def _key(path: Path | PurePosixPath) -> Key:
    return path.parent.name, path.name


def _entries(intake: Intake, table: Path) -> Iterator[tuple[str, Any]]:
    try:
        told = read_json(table)
    except ConfigError:
        told = None
    if not isinstance(told, dict) or not all(isinstance(told.get(part), list) for part in STUDIES):
        raise ArchiveError(
            f"{table.name} holds no lists train, val and test",
            remedy="give the annotation.json of R2Gen's IU X-Ray",
        )
    for part, published in STUDIES.items():
        compare(intake, f"studies_{part}", len(told[part]), published)
        yield from ((part, entry) for entry in told[part])


def _study(part: str, entry: Any) -> _Study:
    """One entry, checked.

    Raises:
        Reject: ``bad_json``: a field is missing or of another type; ``empty_report``, ...
    """
    if not isinstance(entry, dict):
        raise Reject("bad_json")
    name, report, images = (entry.get(field) for field in ("id", "report", "image_path"))
    if not (isinstance(name, str) and isinstance(report, str) and isinstance(images, list)):
        raise Reject("bad_json")
    if not all(isinstance(image, str) for image in images):
        raise Reject("bad_json")
    text = checked_text(report).text
    return _Study(name, part, text, tuple(_key(PurePosixPath(image)) for image in images))
