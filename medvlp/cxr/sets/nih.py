"""Source kind ``nih-cxr14``: NIH ChestX-ray14 (Wang et al., CVPR 2017) as NIH ships it.

Reads `Data_Entry_2017*.csv` (or a `labels.csv` of the same columns) beside images in any folders,
`BBox_List_2017.csv` or `bbox.csv`, and `train_val_list.txt` with `test_list.txt`. Other lists, such
as those of BenchX (Zhou et al., NeurIPS 2024), come by `options.lists`.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest, with_suffix
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.tables.tablefile import table_text
from medvlp.config import STRICT, read_yaml
from medvlp.cxr.sets.xrays import PICTURES, Xray, take_images
from medvlp.data.randomness import generator
from medvlp.errors import ArchiveError

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
    "Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
NO_FINDING = "No Finding"
SOURCE = "nih-cxr14"

IMAGES = 112_120
BENCHX_LISTS = {"train": 78_468, "valid": 11_219, "test": 22_433}
"""Lines of BenchX's lists, in which no patient stands twice."""

_BOX_SIZE = 1024
"""Boxes are in pixels of the published 1024 x 1024 images, whatever the size of these."""

_ALIASES = {"Infiltrate": "Infiltration"}
_LISTS = {"train_val_list.txt": "train_val", "test_list.txt": "test"}
_BOXES = ("bbox_list_2017.csv", "bbox.csv")
_ABSENT_SENTENCES = 2

Box = tuple[str, float, float, float, float]
Cells = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NihOptions(ListOptions):
    """Settings of the kind."""

    synthetic_text: bool = True
    """Write sentences made from the labels, with the source ``synthetic:labels``."""


def index_nih(root: Path, intake: Intake) -> None:
    """Index NIH ChestX-ray14; the patient is the number at the head of an image's name."""
    options = intake.options(NihOptions)
    files = list(intake.files())
    entries, boxes = _entries(intake, files), _boxes(intake, files)
    official = _official(intake, files)
    lists = SplitLists(intake, options.lists, BENCHX_LISTS)
    compare(intake, "rows", len(entries), IMAGES)

    def accept(path: Path, cells: Cells, found: Xray) -> None:
        own = official.pop(path.name, None) or _folder_split(cells)
        sample = _accept(intake, path, cells, found, lists.columns(path, own))
        _boxes_of(intake, sample, boxes.pop(path.name, ()), found.shape)
        _labels_of(intake, sample, cells, options)

    take_images(intake, with_suffix(files, PICTURES), entries, lambda path: path.name, accept)
    intake.notes["listed_without_image"] += len(official)
    intake.notes["boxes_without_image"] += sum(map(len, boxes.values()))
    leave_rest(intake)


def _accept(
    intake: Intake, path: Path, cells: Cells, found: Xray, split: tuple[str | None, tuple[str, ...]]
) -> str:
    measured = found.measured
    patient, _, number = path.stem.partition("_")
    return intake.accept(
        [path],
        kind="image",
        patient=f"{SOURCE}:{int(patient)}" if patient.isdigit() else None,
        study=f"{SOURCE}:{patient}_{number}",
        study_order=int(number) if number.isdecimal() else None,
        age=cells.get("Patient Age"),
        sex=cells.get("Patient Gender") or cells.get("Patient Sex"),
        view=cells.get("View Position") or None,
        source_split=split[0],
        **{
            **measured.columns,
            "modality": "DX",
            "spacing_mm": _spacing(cells, found.shape),
            "flags": (*measured.probe.flags, *split[1]),
        },
    )


def _spacing(cells: Cells, shape: Sequence[int]) -> tuple[float, float] | None:
    """Pixel size of this image in mm (row, column), from that of the original detector image."""
    try:
        width, height = float(cells["width"]), float(cells["height"])
        x_mm, y_mm = float(cells["spacing_x"]), float(cells["spacing_y"])
    except (KeyError, ValueError):
        return None
    return y_mm * height / shape[0], x_mm * width / shape[1]


def _folder_split(cells: Cells) -> str | None:
    head = Path(cells.get("path", "")).parts[:1]
    return head[0] if head and head[0] in ("train", "valid", "test") else None


def _labels_of(intake: Intake, sample: str, cells: Cells, options: NihOptions) -> None:
    names = [_canonical(name) for name in cells["Finding Labels"].split("|")]
    present = [name for name in FINDINGS if name in names]
    for name in FINDINGS:
        intake.label(sample, name, float(name in present), SOURCE)
    intake.label(sample, NO_FINDING, float(not present), SOURCE)
    if options.synthetic_text:
        intake.report(sample, label_sentences(sample, present), "synthetic:labels")


def _boxes_of(intake: Intake, sample: str, boxes: Sequence[Box], shape: Sequence[int]) -> None:
    rows, columns = (size / _BOX_SIZE for size in shape)
    for name, x, y, width, height in boxes:
        box = (x * columns, y * rows, (x + width) * columns, (y + height) * rows)
        intake.region(sample, name=name, kind="box", geometry=box)


def label_sentences(sample: str, present: Sequence[str]) -> str:
    """A paragraph made from labels, worded differently from sample to sample.

    Args:
        sample: Pseudonymous id; the same id gives the same words.
        present: The findings of `FINDINGS` that are labelled.
    """
    rng = generator(0, 0, sample, "nih wording")
    words = _wording()
    absent = [name for name in FINDINGS if name not in present]
    denied = rng.choice(absent, size=min(_ABSENT_SENTENCES, len(absent)), replace=False)
    said = [_sentence(rng, words["present"], words["findings"][name]) for name in present]
    if not present:
        said.append(str(rng.choice(words["normal"])))
    order = rng.permutation(len(said))
    said = [said[i] for i in order]
    said += [_sentence(rng, words["absent"], words["findings"][str(name)]) for name in denied]
    return " ".join(said)


def _sentence(rng: np.random.Generator, forms: Sequence[str], phrases: Sequence[str]) -> str:
    text = str(rng.choice(list(forms))).format(finding=str(rng.choice(list(phrases))))
    return text[0].upper() + text[1:]


@cache
def _wording() -> Any:
    return read_yaml(Path(__file__).with_name("nih_wording.yaml"))


def _canonical(name: str) -> str:
    stripped = name.strip()
    return _ALIASES.get(stripped, stripped)


def _entries(intake: Intake, files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Image name -> the cells of its row."""
    tables = [p for p in files if p.suffix == ".csv" and p.name.lower() not in _BOXES]
    found: dict[str, dict[str, str]] = {}
    for path in tables:
        rows = list(_records(path))
        if not rows or not {"Image Index", "Finding Labels"} <= rows[0].keys():
            continue
        intake.cover([path])
        for number, row in enumerate(rows, start=1):
            if "Finding Labels" not in row:
                intake.reject_row(path, number, "ragged_row")
            elif found.setdefault(row["Image Index"].strip(), row) is not row:
                intake.reject_row(path, number, "duplicate_row")
    if not found:
        raise ArchiveError(
            "no table with the columns Image Index and Finding Labels in the source",
            remedy="name the folder that holds Data_Entry_2017.csv and the images",
        )
    return found


def _records(path: Path) -> Iterator[dict[str, str]]:
    """Rows by column name; the header's two unquoted brackets are put right first.

    ``OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]`` splits into four columns, as
    its values do; a trailing comma adds a fifth that holds nothing.
    """
    lines = csv.reader(io.StringIO(table_text(path), newline=""))
    header = [_column(name) for name in next(lines, [])]
    for cells in lines:
        if cells:
            yield {name: cell for name, cell in zip(header, cells, strict=False) if name}


def _column(name: str) -> str:
    halves = {
        "OriginalImage[Width": "width",
        "Height]": "height",
        "OriginalImagePixelSpacing[x": "spacing_x",
        "y]": "spacing_y",
    }
    return halves.get(name.strip(), name.strip())


def _boxes(intake: Intake, files: Sequence[Path]) -> dict[str, list[Box]]:
    """Image name -> boxes; columns by place, for the header ``Bbox [x,y,w,h]`` splits on commas."""
    found: dict[str, list[Box]] = defaultdict(list)
    for path in (p for p in files if p.name.lower() in _BOXES):
        lines = csv.reader(io.StringIO(table_text(path), newline=""))
        next(lines, None)
        intake.cover([path])
        for number, cells in enumerate(lines, start=1):
            try:
                x, y, width, height = (float(c) for c in cells[2:6])
            except ValueError:
                intake.reject_row(path, number, "bad_box")
                continue
            found[cells[0].strip()].append((_canonical(cells[1]), x, y, width, height))
    return found


def _official(intake: Intake, files: Sequence[Path]) -> dict[str, str]:
    """Image name -> the official list that names it."""
    found: dict[str, str] = {}
    for path in (p for p in files if p.name in _LISTS):
        intake.cover([path])
        names = table_text(path).split()
        found |= dict.fromkeys(names, _LISTS[path.name])
    return found
