"""Source kind ``btcv``: the abdomen part of Beyond the Cranial Vault (Landman et al., 2015).

Reads `img0001.nii.gz` and `label0001.nii.gz`, in the folders of the challenge (`Training/img`,
`Training/label`, `Testing/img`) or in those of the Medical Segmentation Decathlon (`imagesTr`,
`labelsTr`, `imagesTs`), which most code expects. A label map holds all 13 organs.
"""

from __future__ import annotations

import re
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp_volumetric.sets.cases import (
    NO_LABELS,
    WITHHELD,
    Case,
    CaseSet,
    mapped_case,
    pair_files,
    take_cases,
)

SOURCE = "btcv"
TRAINING = 30
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
    10: "portal_vein_and_splenic_vein",
    11: "pancreas",
    12: "adrenal_gland_right",
    13: "adrenal_gland_left",
}

_NAME = re.compile(r"(img|label)(\d{4})\.nii(?:\.gz)?", re.IGNORECASE)
_TESTING = {"testing", "imagests"}


def index_btcv(root: Path, intake: Intake) -> None:
    """Index the training part with its label maps, and the testing part, which has none."""
    options = intake.options(ListOptions)
    lists = SplitLists(intake, options.lists)
    cases = [_case(root, *files) for files in pair_files(intake, _key)]
    compare(intake, "cases_with_labels", sum(bool(case.masks) for case in cases), TRAINING)
    take_cases(intake, CaseSet(source=SOURCE, lists=lists), cases)
    leave_rest(intake)


def _key(path: Path) -> tuple[str, bool] | None:
    found = _NAME.fullmatch(path.name)
    return None if found is None else (f"img{found[2]}", found[1].lower() == "label")


def _case(root: Path, name: str, volume: Path, mask: Path | None) -> Case:
    testing = any(part.lower() in _TESTING for part in volume.relative_to(root).parts)
    split, missing = ("test", WITHHELD) if testing else ("train", NO_LABELS)
    return mapped_case(name, volume, mask, ORGANS, split, missing)
