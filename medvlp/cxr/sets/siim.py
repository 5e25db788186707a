"""Source kind ``siim-acr``: the SIIM-ACR Pneumothorax Segmentation Challenge of 2019.

Two forms are read. The challenge's own: DICOM files in nested folders and a table `*rle*.csv` (or
`stage_2_train.csv`) of ImageId, the SOPInstanceUID, and EncodedPixels. And the PNG form:
`png_images/424_train_1_.png`, a mask of the same name in `png_masks/`, and
`stage_1_{train,test}_images.csv` of new_filename, ImageId and has_pneumo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medvlp.archive.intake import Intake
from medvlp.archive.pictures import read_grey
from medvlp.archive.tables.accounts import (
    compare,
    leave_rest,
    table_rows,
    with_suffix,
)
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.siim_rle import decode_rle, is_empty
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, Xray, take_images
from medvlp.data.regions import mask_runs
from medvlp.data.tables import PATIENT_IS_IMAGE
from medvlp.errors import ArchiveError

SOURCE = "siim-acr"
PNEUMOTHORAX = "Pneumothorax"
IMAGES = 12_047

_SIDE = 1024
"""Rows and columns of every published image, to which the run lengths refer."""

_SPLITS = {"train": "train_val", "test": "test"}
_TEST_FOLDERS = frozenset({"dicom-images-test", "test"})
_TABLES = ("*rle*.csv", "stage_2_train.csv")
_PNG_TABLES = {"stage_1_train_images.csv": "train", "stage_1_test_images.csv": "test"}
_MASKS = "masks"

Codes = list[tuple[int, str]]
"""Row of the table and its run lengths."""


def index_siim(root: Path, intake: Intake) -> None:
    """Index SIIM-ACR; the set names no patients, so each image is its own."""
    lists = SplitLists(intake, intake.options(ListOptions).lists)
    files = list(intake.files())
    tables = [path for path in files if path.name in _PNG_TABLES]
    if tables:
        _index_png(intake, files, tables, lists)
    else:
        _index_dicom(intake, files, lists)
    leave_rest(intake)


def _index_dicom(intake: Intake, files: Sequence[Path], lists: SplitLists) -> None:
    table = _rle_table(files)
    rows: dict[str, Codes] = {}
    for row, cells in table_rows(intake, table, ("ImageId", "EncodedPixels")):
        rows.setdefault(cells["ImageId"], []).append((row, cells["EncodedPixels"]))
    compare(intake, "images_in_table", len(rows), IMAGES)
    images = with_suffix(files, DICOM_SUFFIXES)
    # One part alone is no split.
    parts = {_part(path) for path in images if path.stem in rows}
    splits = {path: _SPLITS[_part(path)] for path in images} if len(parts) > 1 else {}

    def accept(path: Path, codes: Codes, xray: Xray) -> None:
        geometry = _geometry(intake, table, codes, xray)
        sample = _accept(intake, path, xray, "dicom", splits.get(path), lists)
        intake.label(sample, PNEUMOTHORAX, float(bool(geometry)), SOURCE)
        if geometry:
            intake.region(sample, name=PNEUMOTHORAX, kind="runs", geometry=geometry)

    take_images(intake, images, rows, lambda path: path.stem, accept)


def _rle_table(files: Sequence[Path]) -> Path:
    found = [path for path in files if any(path.match(pattern) for pattern in _TABLES)]
    if len(found) != 1:
        raise ArchiveError(
            f"the source holds {len(found)} tables of run lengths",
            remedy="name the folder of the images and of one table, train-rle.csv or "
            "stage_2_train.csv",
        )
    return found[0]


def _part(path: Path) -> str:
    return "test" if not _TEST_FOLDERS.isdisjoint(path.parts[:-1]) else "train"


def _geometry(intake: Intake, table: Path, codes: Codes, xray: Xray) -> list[float]:
    """The union of an image's masks as runs; nothing where all its rows say that there is none.

    Raises:
        Reject: ``bad_mask`` or ``label_conflict``: what is wrong with any row is wrong with the
            image, as half a mask is no truth; the row is listed as well.
    """
    union = np.zeros(xray.shape, bool)
    positive = any(not is_empty(code) for _, code in codes)
    for row, code in codes:
        try:
            if is_empty(code) and positive:
                raise Reject("label_conflict")
            if not is_empty(code):
                if xray.shape != (_SIDE, _SIDE):
                    raise Reject("mask_size")
                union |= decode_rle(code, xray.shape)
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code)
            raise
    return mask_runs(union) if positive else []


def _index_png(
    intake: Intake, files: Sequence[Path], tables: Sequence[Path], lists: SplitLists
) -> None:
    rows: dict[str, tuple[str, str]] = {}
    for table in tables:
        part = _PNG_TABLES[table.name]
        for row, cells in table_rows(intake, table, ("new_filename", "has_pneumo")):
            name, label = cells["new_filename"], cells["has_pneumo"]
            code = "bad_labels" if label not in ("0", "1") else "duplicate_row" * (name in rows)
            if code:
                intake.reject_row(table, row, code)
            else:
                rows[name] = part, label
    compare(intake, "images_in_table", len(rows), IMAGES)
    pictures = with_suffix(files, (".png",))
    masks = {path.name: path for path in pictures if _MASKS in path.parent.name}
    images = [path for path in pictures if _MASKS not in path.parent.name]
    parts = {part for part, _ in rows.values()}

    def accept(path: Path, row: tuple[str, str], xray: Xray) -> None:
        part, label = row
        mask = masks.get(path.name)
        shown = _shown(mask, xray)
        if shown != (label == "1"):
            raise Reject("label_conflict")
        split = _SPLITS[part] if len(parts) > 1 else None
        sample = _accept(intake, path, xray, "image", split, lists)
        intake.label(sample, PNEUMOTHORAX, float(label), SOURCE)
        intake.cover([mask] if mask else [])
        if mask and shown:
            intake.region(sample, name=PNEUMOTHORAX, kind="mask", ref=intake.source(mask))

    take_images(intake, images, rows, lambda path: path.name, accept)
    _leave_masks(intake, masks)


def _shown(mask: Path | None, xray: Xray) -> bool:
    """Whether a mask shows anything; no file shows nothing.

    Raises:
        Reject: ``mask_size``: it is of another size than its image; or it cannot be read.
    """
    if mask is None:
        return False
    values = read_grey(mask).values
    if values.shape != xray.shape:
        raise Reject("mask_size")
    return bool(values.any())


def _leave_masks(intake: Intake, masks: Mapping[str, Path]) -> None:
    left = set(intake.files())
    for mask in masks.values():
        if mask in left:
            intake.reject(mask, "join", "mask_without_sample")


def _accept(
    intake: Intake, path: Path, xray: Xray, kind: str, own: str | None, lists: SplitLists
) -> str:
    split, flags = lists.columns(path, own)
    columns = xray.columns
    columns["flags"] = (*columns["flags"], *flags, PATIENT_IS_IMAGE)
    return intake.accept(
        [path],
        kind=kind,
        patient=None,
        study=f"{SOURCE}:{path.stem}",
        source_split=split,
        **columns,
    )
