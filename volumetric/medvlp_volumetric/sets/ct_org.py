"""Source kind ``ct-org``: CT-ORG (Rister et al., Scientific Data 2020).

Reads `volume-0.nii.gz` and the label map `labels-0.nii.gz` of its six organs. Most of the volumes
are those of LiTS.
"""

from __future__ import annotations

import re
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp_volumetric.sets.cases import Case, CaseSet, mapped_case, pair_files, take_cases

SOURCE = "ct-org"
CASES = 140
ORGANS = {1: "liver", 2: "urinary_bladder", 3: "lungs", 4: "kidneys", 5: "bone", 6: "brain"}

_NAME = re.compile(r"(volume|labels)-(\d{1,3})\.nii(?:\.gz)?")
_LAST_TEST = 20
"""The first volumes, whose label maps people have corrected most, are the publishers' test part."""


def index_ct_org(root: Path, intake: Intake) -> None:
    """Index CT-ORG with its publishers' split."""
    options = intake.options(ListOptions)
    lists = SplitLists(intake, options.lists)
    cases = [_case(*files) for files in pair_files(intake, _key)]
    compare(intake, "cases", len(cases), CASES)
    take_cases(intake, CaseSet(source=SOURCE, lists=lists), cases)
    leave_rest(intake)


def _key(path: Path) -> tuple[str, bool] | None:
    found = _NAME.fullmatch(path.name)
    return None if found is None else (f"volume-{int(found[2])}", found[1] == "labels")


def _case(name: str, volume: Path, mask: Path | None) -> Case:
    testing = int(name.rpartition("-")[2]) <= _LAST_TEST
    return mapped_case(name, volume, mask, ORGANS, "test" if testing else "train")
