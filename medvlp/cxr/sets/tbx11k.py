"""Source kind ``tbx11k``: TBX11K (Liu et al., CVPR 2020), as published and in its simplified form.

As published: images under `imgs/`, COCO files under `annotations/json/`, and lists under `lists/`.
Simplified: images and one `data.csv` of fname, bbox (a Python dictionary in words, or none) and
target, with a row for each box. The labels of the published test part are withheld: its images are
taken in without labels, for an image without a box would else pass for one without tuberculosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest, with_suffix
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.cxr.sets.tbx11k_tables import Marks, coco_marks, list_splits, simplified_marks
from medvlp.cxr.sets.xrays import PICTURES, Xray, take_images
from medvlp.data.tables import PATIENT_IS_IMAGE

SOURCE = "tbx11k"
WITHHELD = "labels_withheld"
IMAGES = 11_200
SIMPLIFIED_IMAGES = 8_399
"""Those that BenchX's lists name."""


def index_tbx11k(root: Path, intake: Intake) -> None:
    """Index TBX11K; the set names no patients, so each image is its own."""
    options = intake.options(ListOptions)
    files = list(intake.files())
    lists = SplitLists(intake, options.lists)
    table = next((path for path in files if path.name == "data.csv"), None)
    splits: Mapping[str, str] = {}
    if table is not None:
        marks: Mapping[str, Marks | None] = simplified_marks(intake, table)
        compare(intake, "images_in_table", len(marks), SIMPLIFIED_IMAGES)
    else:
        splits = list_splits(intake, files)
        marks = coco_marks(intake, files, splits)
        compare(intake, "images_in_table", len(marks), IMAGES)
    images = with_suffix(files, PICTURES)
    names = _names(images, marks)

    def accept(path: Path, found: Marks | None, xray: Xray) -> None:
        split, flags = lists.columns(path, splits.get(names[path]))
        columns = xray.columns
        withheld = (WITHHELD,) if found is None else ()
        columns["flags"] = (*columns["flags"], *flags, *withheld, PATIENT_IS_IMAGE)
        sample = intake.accept(
            [path],
            kind="image",
            patient=None,
            study=f"{SOURCE}:{names[path]}",
            source_split=split,
            **columns,
        )
        if found is not None:
            _describe(intake, sample, found)

    take_images(intake, images, marks, lambda path: names.get(path), accept)
    leave_rest(intake)


def _names(images: Sequence[Path], marks: Mapping[str, Marks | None]) -> dict[Path, str]:
    """How the tables call each image: by its name, or by its folder and name."""
    return {
        path: name
        for path in images
        for name in (f"{path.parent.name}/{path.name}", path.name)
        if name in marks
    }


def _describe(intake: Intake, sample: str, found: Marks) -> None:
    for name, value in found.labels.items():
        intake.label(sample, name, float(value), SOURCE)
    for name, box in found.boxes:
        intake.region(sample, name=name, kind="box", geometry=box)
