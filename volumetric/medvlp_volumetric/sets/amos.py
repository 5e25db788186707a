"""Source kind ``amos``: AMOS 2022 (Ji et al., NeurIPS 2022), its CT part.

Reads `dataset.json`, and `amos_0001.nii.gz` in `imagesTr`, `imagesVa` and `imagesTs` with the label
map of the same name in `labelsTr` and `labelsVa`. Volumes numbered above 500 are MR and left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest, the_file
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.tables.tablefile import table_text
from medvlp.errors import ArchiveError
from medvlp_volumetric.sets.cases import (
    NO_LABELS,
    WITHHELD,
    Case,
    CaseSet,
    mapped_case,
    pair_files,
    take_cases,
)

SOURCE = "amos"
ORGANS = {
    1: "spleen",
    2: "kidney_right",
    3: "kidney_left",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior_vena_cava",
    10: "pancreas",
    11: "adrenal_gland_right",
    12: "adrenal_gland_left",
    13: "duodenum",
    14: "urinary_bladder",
    15: "prostate_or_uterus",
}
NOT_ALWAYS = ("urinary_bladder", "prostate_or_uterus")
"""Organs that the set's publishers drew in part of the volumes only."""

_AS_NAMED = {
    "right kidney": "kidney_right",
    "left kidney": "kidney_left",
    "right kidnet": "kidney_right",
    "left kidnet": "kidney_left",
    "gall bladder": "gallbladder",
    "arota": "aorta",
    "postcava": "inferior_vena_cava",
    "right adrenal gland": "adrenal_gland_right",
    "left adrenal gland": "adrenal_gland_left",
    "bladder": "urinary_bladder",
    "prostate/uterus": "prostate_or_uterus",
}
"""Organs as `dataset.json` writes them, its misspellings among them."""

_NAME = re.compile(r"(amos_(\d{4}))\.nii(?:\.gz)?")
_LAST_CT = 500
_SPLITS = {"imagestr": "train", "imagesva": "valid", "imagests": "test"}
_MASKS = ("labelstr", "labelsva", "labelsts")


def index_amos(root: Path, intake: Intake) -> None:
    """Index the CT volumes of AMOS with its own split."""
    options = intake.options(ListOptions)
    lists = SplitLists(intake, options.lists)
    _check_organs(intake, the_file(intake.files(), "dataset.json"))
    _leave_mr(intake, list(intake.files()))

    def key(path: Path) -> tuple[str, bool] | None:
        found, folder = _NAME.fullmatch(path.name), path.parent.name.lower()
        if found is None or folder not in (*_SPLITS, *_MASKS):
            return None
        return found[1], folder in _MASKS

    cases = [_case(*files) for files in pair_files(intake, key)]
    take_cases(intake, CaseSet(source=SOURCE, lists=lists, untold=NOT_ALWAYS), cases)
    leave_rest(intake)


def _check_organs(intake: Intake, path: Path) -> None:
    """Compare the values that the copy at hand gives its organs with those that are read here.

    Raises:
        ArchiveError: They differ, or it is no description of a set.
    """
    try:
        told = json.loads(table_text(path))["labels"]
        labels = {int(value): str(name).strip().lower() for value, name in told.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        labels = {}
    if not _same(labels):
        raise ArchiveError(
            f"{path.name} does not list the 15 organs of AMOS under the values 1 to 15",
            remedy="give the file as it is published",
        )
    intake.cover([path])


def _same(labels: Mapping[int, str]) -> bool:
    named = {value: _AS_NAMED.get(name, name) for value, name in labels.items() if value}
    return named == ORGANS


def _leave_mr(intake: Intake, files: Sequence[Path]) -> None:
    for path in files:
        found = _NAME.fullmatch(path.name)
        if found is not None and int(found[2]) > _LAST_CT:
            intake.ignore(path, "other_modality")


def _case(name: str, volume: Path, mask: Path | None) -> Case:
    split = _SPLITS[volume.parent.name.lower()]
    return mapped_case(
        name, volume, mask, ORGANS, split, WITHHELD if split == "test" else NO_LABELS
    )
