"""Source kind ``grasp``: GraSP (Ayobi et al., 2024), phases and steps of prostatectomies.

Reads folders of frames `CASE001` or videos, and `grasp_long-term_{train,test}.json` in the form of
COCO: categories, images with the video and number of a frame, and a phase and a step for each.
Labelled frames are a second apart; their numbers count 1, 30 or 45 a second, after the release and
the case. Instruments and actions (`grasp_short-term_*.json`, masks) are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp_video.recordings import named
from medvlp_video.sets.label_files import read_values
from medvlp_video.sets.recorded import (
    Clock,
    RecordedSet,
    Timed,
    Told,
    find_recordings,
    runs,
    take_recordings,
)

SOURCE = "grasp"

_LONG = re.compile(r"grasp_long-term_(train|test|fold1|fold2)\.json")
_NAME = re.compile(r"(CASE\d{3})")
_MASKS = "segmentations"
_NOT_READ = re.compile(r"grasp_short-term_.*\.json")


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class GraspOptions(ListOptions):
    """Settings of the kind."""

    validation: Literal["fold1", "fold2"] | None = None
    """The half of the training cases that is kept for validation; by default none."""

    synthetic_text: bool = True
    """Write sentences made from phases and steps, with the source ``synthetic:labels``."""


@dataclass(frozen=True, slots=True)
class _Labels:
    """Case -> number of a frame -> names of its phase and step."""

    cases: Mapping[str, Mapping[int, tuple[str, str]]]


def index_grasp(root: Path, intake: Intake) -> None:
    """Index GraSP with its own split: phases and steps become timed regions."""
    options = intake.options(GraspOptions)
    lists = SplitLists(intake, options.lists)
    told: dict[str, Told] = {}
    held_back: set[str] = set()
    for path in list(intake.files()):
        if path.parent.parent.name == _MASKS:
            intake.ignore(path, "label_map")
        elif found := _LONG.fullmatch(path.name):
            with intake.judge([path], "read"):
                _add(intake, path, found[1], told, held_back, options.validation)
        elif _NOT_READ.fullmatch(path.name):
            intake.ignore(path, "not_read")
    for name in held_back & told.keys():
        told[name].split = "valid"
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named(SOURCE, name.removeprefix("CASE")),
        sentences=options.synthetic_text,
    )
    take_recordings(intake, about, find_recordings(intake, _name), told)
    leave_rest(intake)


def _add(
    intake: Intake,
    path: Path,
    part: str,
    told: dict[str, Told],
    held_back: set[str],
    validation: str | None,
) -> None:
    if part not in ("train", "test", validation):
        intake.ignore(path, "not_selected")
        return
    labels = _read(path)
    if part == validation:
        held_back.update(labels.cases)
    elif labels.cases.keys() & told.keys():
        raise Reject("split_conflict")
    else:
        told.update({name: _tell(frames, part) for name, frames in labels.cases.items()})
    intake.cover([path])


def _name(words: str) -> str | None:
    found = _NAME.fullmatch(words)
    return found[1] if found else None


def _read(path: Path) -> _Labels:
    values = read_values(path)
    try:
        phases, steps = (
            {row["id"]: str(row["name"]) for row in values[f"{kind}_categories"]}
            for kind in ("phases", "steps")
        )
        images = {row["id"]: (row["video_name"], int(row["frame_num"])) for row in values["images"]}
        cases: dict[str, dict[int, tuple[str, str]]] = {}
        for row in values["annotations"]:
            case, number = images[row["image_id"]]
            if not _name(case) or number < 0:
                raise ValueError(case)
            cases.setdefault(case, {})[number] = phases[row["phases"]], steps[row["steps"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Reject("bad_labels", f"another layout: {type(error).__name__}") from error
    return _Labels(cases)


def _tell(frames: Mapping[int, tuple[str, str]], split: str) -> Told:
    numbers = sorted(frames)
    rate = median_low([b - a for a, b in pairwise(numbers)] or [1])
    first = 1 if rate == 1 and numbers[0] > 0 else 0
    timed = [*_spans(frames, numbers, rate, first, 0), *_spans(frames, numbers, rate, first, 1)]
    return Told(split=split, timed=timed, clock=Clock(float(rate), first), whole=True)


def _spans(
    frames: Mapping[int, tuple[str, str]], numbers: Sequence[int], rate: int, first: int, part: int
) -> list[Timed]:
    """Runs of labelled frames; how far apart their numbers are varies a little in some cases."""
    kind = ("phase", "step")[part]
    ends: list[Any] = [*numbers[1:], numbers[-1] + rate]
    found = runs((place, frames[number][part]) for place, number in enumerate(numbers))
    return [
        Timed(f"{kind}:{name}", ((numbers[a] - first) / rate, (ends[b - 1] - first) / rate))
        for name, a, b in found
    ]
