"""Source kind ``abdomenct-1k``: AbdomenCT-1K (Ma et al., TPAMI 2022).

Reads `Case_00001_0000.nii.gz`, in the folders `AbdomenCT-1K-ImagePart1` to `3` or any other, and
the label map `Case_00001.nii.gz` of its four organs. Its volumes come from five older sets (LiTS,
KiTS, two of the Medical Segmentation Decathlon and NIH's pancreas set), so that a model must not
be tested on those after it has learned from this one.
"""

from __future__ import annotations

import re
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp_volumetric.sets.cases import CaseSet, mapped_case, pair_files, take_cases

SOURCE = "abdomenct-1k"
CASES = 1000
"""Of those that are published with label maps."""
ORGANS = {1: "liver", 2: "kidneys", 3: "spleen", 4: "pancreas"}

_NAME = re.compile(r"(Case_\d{5})(_0000)?\.nii(?:\.gz)?")


def index_abdomenct_1k(root: Path, intake: Intake) -> None:
    """Index AbdomenCT-1K; the set has no split."""
    options = intake.options(ListOptions)
    lists = SplitLists(intake, options.lists)
    cases = [mapped_case(*files, ORGANS) for files in pair_files(intake, _key)]
    compare(intake, "cases_with_labels", sum(bool(case.masks) for case in cases), CASES)
    take_cases(intake, CaseSet(source=SOURCE, lists=lists), cases)
    leave_rest(intake)


def _key(path: Path) -> tuple[str, bool] | None:
    found = _NAME.fullmatch(path.name)
    return None if found is None else (found[1], found[2] is None)
