"""Source kind ``cholec80``: Cholec80 (Twinanda et al., IEEE TMI 2017), videos or frames.

Reads `video01.mp4` or folders of frames, `video01-phase.txt` (a line for each frame at 25 frames a
second, counted from 0), `video01-tool.txt` (a line for each second, named by its frame) and, for
videos without phases, the tables of PeskaVLP, `video01.csv` (a line for each second; phases are
numbered from 1). The frames that the publishers extracted are numbered from 1, one a second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest
from medvlp.archive.tables.lists import SplitLists
from medvlp.config import STRICT
from medvlp_video.recordings import named
from medvlp_video.sets.label_files import (
    ExtractedOptions,
    Frames,
    read_frames,
    split_by_number,
    whole,
)
from medvlp_video.sets.recorded import (
    Clock,
    RecordedSet,
    Timed,
    Told,
    find_recordings,
    read_into,
    take_recordings,
    timed_runs,
)

SOURCE = "cholec80"
RATE = 25
PHASES = (
    "Preparation", "CalotTriangleDissection", "ClippingCutting", "GallbladderDissection",
    "GallbladderPackaging", "CleaningCoagulation", "GallbladderRetraction",
)  # fmt: skip
"""In the order of their numbers, which begin at 1 in PeskaVLP's tables and at 0 in CholecT50."""

TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")
INSTRUMENTS = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator", "specimen_bag")
"""The same, as CholecT50 names them."""

SPLITS = {
    "surgvlp-32": {"train": range(1, 41), "valid": range(41, 49), "test": range(49, 81)},
    "tecno-40": {"train": range(1, 33), "valid": range(33, 41), "test": range(41, 81)},
}
"""Of the protocols of these names; the publishers gave none."""

_NAME = re.compile(r"video[-_ ]?0*([1-9]\d?)(?!\d).*", re.IGNORECASE)
_LABELS = re.compile(r"(video\d+)(-phase\.txt|-tool\.txt|\.csv)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cholec80Options(ExtractedOptions):
    """Settings of the kind."""

    split: Literal["surgvlp-32", "tecno-40"] = "surgvlp-32"
    """Whose test part: videos 49 to 80 or 41 to 80."""


def index_cholec80(root: Path, intake: Intake) -> None:
    """Index Cholec80: phases and instruments become timed regions."""
    options = intake.options(Cholec80Options)
    lists = SplitLists(intake, options.lists)
    told = {name: _tell(intake, files) for name, files in _label_files(intake).items()}
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named("cholec", name.removeprefix("video")),
        splits=split_by_number(options.splits or SPLITS[options.split], "video{:02d}"),
        clock=Clock(options.frame_rate, options.first_frame),
        sentences=options.synthetic_text,
    )
    take_recordings(intake, about, find_recordings(intake, _name), told)
    leave_rest(intake)


def _name(words: str) -> str | None:
    found = _NAME.fullmatch(words)
    return f"video{int(found[1]):02d}" if found and int(found[1]) <= 80 else None


def _label_files(intake: Intake) -> dict[str, dict[str, Path]]:
    """Video -> ending of the name -> label file."""
    files: dict[str, dict[str, Path]] = {}
    for path in list(intake.files()):
        found = _LABELS.fullmatch(path.name)
        name = _name(found[1]) if found else None
        if found and name:
            own = files.setdefault(name, {})
            if own.setdefault(found[2].lower(), path) != path:
                intake.reject(path, "join", "duplicate_sample")
    return files


def _tell(intake: Intake, files: Mapping[str, Path]) -> Told:
    told = Told(whole=True)
    if "-phase.txt" in files:
        read_into(intake, told, files["-phase.txt"], lambda path: _phases(intake, path))
        if ".csv" in files:
            intake.ignore(files[".csv"], "not_read")
    elif ".csv" in files:
        read_into(intake, told, files[".csv"], lambda path: _numbered_phases(intake, path))
    if "-tool.txt" in files:
        read_into(intake, told, files["-tool.txt"], lambda path: _tools(intake, path))
    return told


def _phases(intake: Intake, path: Path) -> list[Timed]:
    def parse(cells: list[str]) -> Frames:
        frame, phase = cells
        return [(whole(frame), f"phase:{PHASES[PHASES.index(phase)]}")]

    return timed_runs(read_frames(intake, path, "frame", parse), RATE)


def _numbered_phases(intake: Intake, path: Path) -> list[Timed]:
    def parse(cells: list[str]) -> Frames:
        name, phase = cells
        return [(whole(name.rpartition(".")[0].rpartition("_")[2]), _phase(whole(phase)))]

    return timed_runs(read_frames(intake, path, "path", parse), 1)


def _tools(intake: Intake, path: Path) -> list[Timed]:
    def parse(cells: list[str]) -> Frames:
        frame, *present = cells
        if len(present) != len(TOOLS) or not {"0", "1"}.issuperset(present):
            raise ValueError(cells)
        second = whole(frame) // RATE
        pairs = zip(INSTRUMENTS, present, strict=True)
        return [(second, f"instrument:{name}") for name, told in pairs if told == "1"]

    return timed_runs(read_frames(intake, path, "frame", parse), 1)


def _phase(number: int) -> str:
    if not 1 <= number <= len(PHASES):
        raise ValueError(number)
    return f"phase:{PHASES[number - 1]}"
