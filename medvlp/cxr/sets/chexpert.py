"""Source kind ``chexpert``: CheXpert (Irvin et al., AAAI 2019) in any of its published forms.

Reads `train.csv`, `valid.csv` (or `val_labels.csv`) and `test.csv` (or `test_labels.csv`), those
that are there, of Path, Sex, Age, Frontal/Lateral, AP/PA and 14 labels, and the images that they
name, whatever folders stand before `patient00001/study1/view1_frontal.jpg`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    Cells,
    compare,
    leave_rest,
    presence,
    table_rows,
    with_suffix,
)
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.cxr.sets.chexpert_places import (
    FINDINGS,
    Labels,
    Place,
    patient_id,
    place_of,
    study_id,
    told_place,
    view_told,
)
from medvlp.cxr.sets.xrays import PICTURES, Xray, take_images
from medvlp.errors import ArchiveError

IMAGES = {"train": 223_414, "valid": 234, "test": 668}

_TRAIN = {
    "chexpert": "train.csv",
    "chexbert": "train_cheXbert.csv",
    "visualchexbert": "train_visualCheXbert.csv",
}
_READ = {
    "valid.csv": "valid",
    "val_labels.csv": "valid",
    "test.csv": "test",
    "test_labels.csv": "test",
}
"""Tables of the parts that radiologists labelled."""

_RADIOLOGISTS = "radiologists"


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class ChexpertOptions:
    """Settings of the kind."""

    labeller: Literal["chexpert", "chexbert", "visualchexbert"] = "chexpert"
    """Whose labels of the training part are taken: `train.csv`, `train_cheXbert.csv` or
    `train_visualCheXbert.csv`."""


@dataclass(frozen=True, slots=True)
class _Image:
    """One row."""

    place: Place
    part: str
    view: str
    sex: str
    age: str
    labels: Labels
    source: str


def index_chexpert(root: Path, intake: Intake) -> None:
    """Index CheXpert with its own patients, studies and parts."""
    options = intake.options(ChexpertOptions)
    files = list(intake.files())
    images: dict[Place, _Image] = {}
    for table, part, source in _tables(files, options.labeller):
        before = len(images)
        _load(intake, table, part, source, images)
        compare(intake, f"rows_{part}", len(images) - before, IMAGES[part])

    def accept(path: Path, image: _Image, xray: Xray) -> None:
        columns = xray.columns | {
            "view": image.view,
            "sex": image.sex or None,
            "age": image.age or None,
        }
        sample = intake.accept(
            [path],
            kind="image",
            patient=patient_id(image.place),
            study=study_id(image.place),
            study_order=int(image.place.study),
            source_split=image.part,
            **columns,
        )
        for name, value in image.labels.items():
            intake.label(sample, name, value, image.source)

    take_images(intake, with_suffix(files, PICTURES), images, place_of, accept)
    leave_rest(intake)


def _tables(files: Sequence[Path], labeller: str) -> Iterator[tuple[Path, str, str]]:
    """Table, part and whose labels it holds.

    Raises:
        ArchiveError: There is none, or a part has two.
    """
    known: Mapping[str, tuple[str, str]] = {
        _TRAIN[labeller]: ("train", labeller),
        **{name: (part, _RADIOLOGISTS) for name, part in _READ.items()},
    }
    found = [(path, *known[path.name]) for path in files if path.name in known]
    parts = [part for _, part, _ in found]
    if not found or len(set(parts)) < len(parts):
        raise ArchiveError(
            f"the source holds {'two tables of one part' if found else 'no table'} of CheXpert",
            remedy=f"name the folder with {_TRAIN[labeller]}, valid.csv and the images, each once",
        )
    yield from found


def _load(intake: Intake, table: Path, part: str, source: str, images: dict[Place, _Image]) -> None:
    for row, cells in table_rows(intake, table, ("Path", *FINDINGS)):
        try:
            image = _image(cells, part, source)
            if image.place in images:
                raise Reject("duplicate_row")
            images[image.place] = image
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)


def _image(cells: Cells, part: str, source: str) -> _Image:
    """One row, checked.

    Raises:
        Reject: ``no_path`` or ``bad_labels``.
    """
    place = told_place(cells["Path"])
    if place is None:
        raise Reject("no_path")
    side, frontal = cells.get("Frontal/Lateral", ""), cells.get("AP/PA", "")
    return _Image(
        place=place,
        part=part,
        view=view_told(side, frontal, place),
        sex=cells.get("Sex", ""),
        age=cells.get("Age", ""),
        labels={name: presence(cells[name]) for name in FINDINGS},
        source=source,
    )
