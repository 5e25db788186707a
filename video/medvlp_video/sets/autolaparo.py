"""Source kind ``autolaparo``: AutoLaparo (Wang et al., MICCAI 2022), its task of phases.

Reads `01.mp4` or folders of frames `01`, and `label_01.txt` with a line for each second: frames are
numbered from 1, phases from 1. The folders of its other tasks are passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest
from medvlp.archive.tables.lists import SplitLists
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

SOURCE = "autolaparo"
PHASES = (
    "Preparation", "Dividing Ligament and Peritoneum", "Dividing Uterine Vessels and Ligament",
    "Transecting the Vagina", "Specimen Removal", "Suturing", "Washing",
)  # fmt: skip
"""In the order of their numbers, which begin at 1."""

SPLITS = {"train": range(1, 11), "valid": range(11, 15), "test": range(15, 22)}

_NAME = re.compile(r"(?:video)?(\d\d)(?:_\d+)?", re.IGNORECASE)
_LABELS = re.compile(r"label_(\d\d)\.txt", re.IGNORECASE)
_OTHER_TASKS = re.compile(r"task[-_ ]?[23]", re.IGNORECASE)
_VIDEOS = range(1, 22)


def index_autolaparo(root: Path, intake: Intake) -> None:
    """Index AutoLaparo with its own split: phases become timed regions."""
    options = intake.options(ExtractedOptions)
    lists = SplitLists(intake, options.lists)
    told: dict[str, Told] = {}
    for path in list(intake.files()):
        if any(_OTHER_TASKS.match(part) for part in path.relative_to(root).parts[:-1]):
            intake.ignore(path, "not_read")
        elif found := _LABELS.fullmatch(path.name):
            if found[1] in told:
                intake.reject(path, "join", "duplicate_sample")
                continue
            told[found[1]] = one = Told(whole=True)
            read_into(intake, one, path, lambda path: _phases(intake, path))
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named(SOURCE, name),
        splits=split_by_number(options.splits or SPLITS, "{:02d}"),
        clock=Clock(options.frame_rate, options.first_frame),
        sentences=options.synthetic_text,
    )
    take_recordings(intake, about, find_recordings(intake, _name), told)
    leave_rest(intake)


def _name(words: str) -> str | None:
    found = _NAME.fullmatch(words)
    return found[1] if found and int(found[1]) in _VIDEOS else None


def _phases(intake: Intake, path: Path) -> list[Timed]:
    def parse(cells: list[str]) -> Frames:
        frame, phase = map(whole, cells)
        if frame < 1 or not 1 <= phase <= len(PHASES):
            raise ValueError(cells)
        return [(frame - 1, f"phase:{PHASES[phase - 1]}")]

    return timed_runs(read_frames(intake, path, "frame", parse), 1)
