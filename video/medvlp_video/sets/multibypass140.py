"""Source kind ``multibypass140``: MultiBypass140 (Lavanchy et al., IJCARS 2024), gastric bypass.

Reads `BBP01.mp4` (Bern), `SBP01.mp4` (Strasbourg) or folders of their frames, which are numbered
from 1, one a second. `1fps_0.pickle` and `1fps_100_0.pickle` in the folders train, val and test say
for fold 0 which videos each part has, and the phase and step of each second that published numbers
are about. `BBP01.mp4.json` has the same as spans in milliseconds, with the times at which the
camera is out of the body; its phases and steps are taken where no pickle tells of the video.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.stage.child import Limits
from medvlp.archive.stage.reading import Reading
from medvlp.archive.tables.accounts import leave_rest
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject, Verdict
from medvlp.config import STRICT
from medvlp.domain import Ref
from medvlp_video.recordings import named
from medvlp_video.sets.label_files import read_values
from medvlp_video.sets.plain_pickle import read_plain_pickle
from medvlp_video.sets.recorded import (
    Clock,
    RecordedSet,
    Timed,
    Told,
    find_recordings,
    read_into,
    runs,
    take_recordings,
)

SOURCE = "multibypass140"
PHASES = (
    "Preparation", "Gastric pouch creation", "Omentum division", "Gastrojejunal anastomosis",
    "Anastomosis test", "Jejunal separation", "Petersen space closure",
    "Jejunojejunal anastomosis", "Mesenteric defect closure", "Cleaning & Coagulation",
    "Disassembling", "Other intervention",
)  # fmt: skip
"""In the order of their numbers; the label files write them as words of a program."""

STEPS = (
    "null_step", "cavity_exploration", "trocar_placement", "retractor_placement",
    "crura_dissection", "his_angle_dissection", "horizontal_stapling", "retrogastric_dissection",
    "vertical_stapling", "gastric_remnant_reinforcement", "gastric_pouch_reinforcement",
    "gastric_opening", "omental_lifting", "omental_section", "adhesiolysis",
    "treitz_angle_identification", "biliary_limb_measurement", "jejunum_opening",
    "gastrojejunal_stapling", "gastrojejunal_defect_closing", "mesenteric_opening",
    "jejunal_section", "gastric_tube_placement", "jejunal_clamping", "ink_injection",
    "visual_assessment", "gastrojejunal_anastomosis_reinforcement", "petersen_space_exposure",
    "petersen_space_closing", "biliary_limb_opening", "alimentary_limb_measurement",
    "alimentary_limb_opening", "jejunojejunal_stapling", "jejunojejunal_defect_closing",
    "jejunojejunal_anastomosis_reinforcement", "staple_line_reinforcement",
    "mesenteric_defect_exposure", "mesenteric_defect_closing", "anastomosis_fixation",
    "coagulation", "irrigation_aspiration", "parietal_closure", "trocar_removal", "calibration",
    "drainage_insertion", "specimen_retrieval",
)  # fmt: skip
"""In the order of their numbers, as the label files spell them behind a number."""

EVENTS = {12: "out_of_body", 13: "severe_index"}
"""What the label files list among the phases, and what lies across them."""

CENTRES = {"B": "bern", "S": "strasbourg"}

MOST_ROWS = 1_000_000
"""Seconds in one pickle; 140 videos have some 800,000."""

_NAME = re.compile(r"([BS]BP\d\d)(?:[_.].*)?")
_PICKLE = re.compile(r"1fps(?:_100)?_(\d)\.pickle")
_JSON = re.compile(r"([BS]BP\d\d)\.mp4\.json")
_PARTS = {"train": "train", "val": "valid", "test": "test"}


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class MultiBypassOptions(ListOptions):
    """Settings of the kind."""

    fold: Literal[0, 1, 2, 3, 4] = 0
    """Which of the five splits."""

    centre: Literal["both", "bern", "strasbourg"] = "both"
    synthetic_text: bool = True
    """Write sentences made from phases and steps, with the source ``synthetic:labels``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """What a pickle tells of each of its videos: number of phase or step, first second, end."""

    phases: Mapping[str, list[tuple[int, int, int]]]
    steps: Mapping[str, list[tuple[int, int, int]]]


_READING = Reading(
    read=Ref("medvlp_video.sets.multibypass140:read_fold"),
    result=Fold,
    version=1,
    limits=Limits(time_s=120),
)


def index_multibypass140(root: Path, intake: Intake) -> None:
    """Index MultiBypass140 with the split of a fold: phases and steps become timed regions."""
    options = intake.options(MultiBypassOptions)
    lists = SplitLists(intake, options.lists)
    told: dict[str, Told] = {}
    _read_pickles(intake, options.fold, told)
    for path in list(intake.files()):
        if found := _JSON.fullmatch(path.name):
            one = told.setdefault(found[1], Told())
            read_into(intake, one, path, partial(_spans, events_only=bool(one.timed)))
    _leave_other_centre(intake, options.centre, told)
    for name, one in told.items():
        one.site = CENTRES[name[0]].capitalize()
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named(SOURCE, name),
        clock=Clock(first=1),
        sentences=options.synthetic_text,
    )
    take_recordings(intake, about, find_recordings(intake, _name), told)
    leave_rest(intake)


def _name(words: str) -> str | None:
    found = _NAME.fullmatch(words)
    return found[1] if found else None


def _read_pickles(intake: Intake, fold: int, told: dict[str, Told]) -> None:
    folds = [(found, path) for path in intake.files() if (found := _PICKLE.fullmatch(path.name))]
    wanted = [path for found, path in folds if int(found[1]) == fold]
    for path in {path for _, path in folds}.difference(wanted):
        intake.ignore(path, "not_selected")
    wanted = [path for path in wanted if path.parent.name in _PARTS]
    for (path,), result in intake.read(_READING, ((path,) for path in wanted), "Reading folds"):
        with intake.judge([path], "read"):
            if isinstance(result, Verdict):
                raise result
            if result.phases.keys() & told.keys():
                raise Reject("split_conflict")
            intake.cover([path])
            for name in result.phases:
                told[name] = Told(split=_PARTS[path.parent.name], timed=_numbered(result, name))


def _numbered(fold: Fold, name: str) -> list[Timed]:
    phases = ((f"phase:{PHASES[n]}", start, end) for n, start, end in fold.phases[name])
    steps = ((f"step:{STEPS[n]}", start, end) for n, start, end in fold.steps[name])
    return [Timed(word, (start, end)) for word, start, end in (*phases, *steps)]


def read_fold(paths: Sequence[Path]) -> Fold:
    """The phases and steps of the videos in one pickle.

    Raises:
        Reject: What `read_plain_pickle` raises, or ``bad_labels``: another layout.
    """
    (path,) = paths
    values = read_plain_pickle(path)
    try:
        if sum(len(rows) for rows in values.values()) > MOST_ROWS:
            raise Reject("text_too_large", f"more than {MOST_ROWS:,} rows")
        if not all(_NAME.fullmatch(name) for name in values):
            raise ValueError("not a video of the set")
        return Fold(
            phases={name: _runs(rows, "Phase_gt", len(PHASES)) for name, rows in values.items()},
            steps={name: _runs(rows, "Step_gt", len(STEPS)) for name, rows in values.items()},
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Reject("bad_labels", f"another layout: {type(error).__name__}") from error


def _runs(rows: Iterable[Mapping[str, Any]], column: str, count: int) -> list[tuple[int, int, int]]:
    """(number, first second, end) of each run. The frame is numbered from 1, the second from 0."""
    frames: list[tuple[int, str]] = []
    for row in rows:
        second, number = row["Original_frame_id"], row[column]
        if type(second) is not int or type(number) is not int:
            raise TypeError(column)
        if second < 0 or not 0 <= number < count:
            raise ValueError(column)
        frames.append((second, str(number)))
    return [(int(number), start, end) for number, start, end in runs(frames)]


def _spans(path: Path, *, events_only: bool) -> list[Timed]:
    """The spans of one video; where its phases are known from a pickle, those across them alone."""
    names = {number: f"phase:{name}" for number, name in enumerate(PHASES)}
    names |= {number: f"event:{name}" for number, name in EVENTS.items()}
    steps = {number: f"step:{name}" for number, name in enumerate(STEPS)}
    values = read_values(path)
    try:
        rows = [(row, names) for row in values["phases"]] + [
            (row, steps) for row in values["steps"]
        ]
        timed = [
            Timed(
                known[row["label_id"]],
                (float(row["start"]) / 1000, float(row["end"]) / 1000),
                (path, number),
            )
            for number, (row, known) in enumerate(rows, start=1)
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Reject("bad_labels", f"another layout: {type(error).__name__}") from error
    return [one for one in timed if not events_only or one.name.startswith("event:")]


def _leave_other_centre(intake: Intake, centre: str, told: dict[str, Told]) -> None:
    if centre == "both":
        return
    for path in list(intake.files()):
        name = _name(path.name) or _name(path.parent.name)
        if name and CENTRES[name[0]] != centre:
            intake.ignore(path, "not_selected")
    for name in [name for name in told if CENTRES[name[0]] != centre]:
        del told[name]
