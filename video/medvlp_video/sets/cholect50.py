"""Source kind ``cholect50``: CholecT50 and CholecT45 (Nwoye et al., Medical Image Analysis 2022).

Frames `VIDnn/NNNNNN.png`, one a second: the number is the second. The labels come in two releases:

- ``labels/VIDnn.json``: for each frame rows ``[triplet, instrument, score, x, y, w, h, verb,
  target, score, x, y, w, h, phase]`` with boxes as fractions of the picture and -1 for what is
  absent.
- ``triplet/VIDnn.txt`` and the same in ``instrument``, ``verb`` and ``target``: a line for each
  frame, its number and a 0 or 1 for each class, whose names stand in ``dict/``. They have no
  phases.

The layouts after github.com/CAMMA-public/cholect50 and cholect45.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.stage.reading import Item
from medvlp.archive.tables.accounts import leave_rest
from medvlp.archive.tables.lists import SplitLists
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp_video.folder import numbered
from medvlp_video.read import is_frames
from medvlp_video.recordings import named
from medvlp_video.sets.label_files import (
    NumberedOptions,
    plain_lines,
    read_frames,
    read_values,
    split_by_number,
    whole,
)
from medvlp_video.sets.recorded import (
    SYNTHETIC,
    Box,
    RecordedSet,
    Told,
    find_recordings,
    runs,
    take_recordings,
    timed_runs,
    words,
)
from medvlp_video.tree import Passage

SOURCE = "cholect50"
TRIPLET, INSTRUMENT, BOX, VERB, TARGET, PHASE, WIDTH = 0, 1, slice(3, 7), 7, 8, 14, 15

FOLDS = (
    (79, 2, 51, 6, 25, 14, 66, 23, 50, 111),
    (80, 32, 5, 15, 40, 47, 26, 48, 70, 96),
    (31, 57, 36, 18, 52, 68, 10, 8, 73, 103),
    (42, 29, 60, 27, 65, 75, 22, 49, 12, 110),
    (78, 43, 62, 35, 74, 1, 56, 4, 13, 92),
)
"""Of the cross-validation (arXiv:2204.05235); CholecT45 lacks the last video of each."""

SPLITS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "rendezvous": {
        "train": (
            1, 15, 26, 40, 52, 65, 79, 2, 18, 27, 43, 56, 66, 92, 4, 22, 31, 47, 57, 68, 96, 5, 23,
            35, 48, 60, 70, 103, 13, 25, 36, 49, 62, 75, 110,
        ),
        "valid": (8, 12, 29, 50, 78),
        "test": (6, 51, 10, 73, 14, 74, 32, 80, 42, 111),
    },
    "challenge": {
        "train": (
            1, 15, 26, 40, 52, 79, 2, 27, 43, 56, 66, 4, 22, 31, 47, 57, 68, 23, 35, 48, 60, 70, 13,
            25, 49, 62, 75, 8, 12, 29, 50, 78, 6, 51, 10, 73, 14, 32, 80, 42,
        ),
        "valid": (5, 18, 36, 65, 74),
        "test": (92, 96, 103, 110, 111),
    },
}  # fmt: skip

_NAME = re.compile(r"(VID\d{2,3})")
_PARTS = ("triplet", "instrument", "verb", "target")
_HELD_BACK = 5
"""Videos of the last fold that the publishers' loader keeps for validation."""


@dataclasses.dataclass(frozen=True)
class Second:
    """One labelled frame, in words."""

    number: int
    phase: str | None = None
    triplets: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()
    boxes: tuple[tuple[str, Box], ...] = ()
    """(instrument, (x0, y0, x1, y1))."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CholecT50Options(NumberedOptions):
    """Settings of the kind."""

    split: Literal["rendezvous", "challenge", "fold-1", "fold-2", "fold-3", "fold-4", "fold-5"] = (
        "rendezvous"
    )
    """Which of the publishers' splits."""


def index_cholect50(root: Path, intake: Intake) -> None:
    """Index a CholecT50 folder; a label file without frames is listed as ``missing_frames``.

    Raises:
        ConfigError: ``options.splits`` puts a video into two splits.
    """
    options = intake.options(CholecT50Options)
    lists = SplitLists(intake, options.lists)
    splits = split_by_number(options.splits or published_split(options.split), "VID{:02d}")
    found = find_recordings(intake, _name)
    told: dict[str, Told] = {}
    for name, seconds, files in _labels(intake):
        one = told[name] = Told(files=files, whole=True)
        if seconds is None:
            one.flags.append("rows_refused")
        elif name in found:
            _tell(intake, one, seconds, found[name])
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named("cholec", name.removeprefix("VID")),
        splits=splits,
    )
    take_recordings(intake, about, found, told)
    leave_rest(intake)


def published_split(name: str) -> Mapping[str, Sequence[int]]:
    """Split -> numbers of videos.

    >>> published_split("fold-5")["valid"]
    [75, 22, 49, 12, 110]
    """
    if name in SPLITS:
        return SPLITS[name]
    place = int(name.removeprefix("fold-")) - 1
    others = [number for fold in (*FOLDS[:place], *FOLDS[place + 1 :]) for number in fold]
    return {
        "train": others[:-_HELD_BACK],
        "valid": others[-_HELD_BACK:],
        "test": FOLDS[place],
    }


def _name(told: str) -> str | None:
    found = _NAME.fullmatch(told)
    return found[1] if found else None


def _labels(intake: Intake) -> Iterator[tuple[str, list[Second] | None, list[Path]]]:
    """Video, labelled frames and label files; None for the frames where a file is bad."""
    files = list(intake.files())
    named_files = [(name, path) for path in files if (name := _name(path.stem))]
    new = {name: path for name, path in named_files if path.suffix.lower() == ".json"}
    parts: dict[str, dict[str, Path]] = {}
    for name, path in named_files:
        if path.suffix.lower() == ".txt" and path.parent.name in _PARTS:
            parts.setdefault(name, {})[path.parent.name] = path
    for name, path in new.items():
        yield name, *_read(intake, [path], partial(read_labels, path))
        for old in parts.pop(name, {}).values():
            intake.ignore(old, "not_read")
    if parts:
        named_parts = (path for path in files if path.parent.name == "dict" and path.stem in _PARTS)
        names = _names(intake, {path.stem: path for path in named_parts})
        for name, own in parts.items():
            read = partial(_old_release, intake, own, names)
            yield name, *_read(intake, list(own.values()), read)


def _read(
    intake: Intake, paths: list[Path], read: Callable[[], list[Second]]
) -> tuple[list[Second] | None, list[Path]]:
    try:
        return read(), paths
    except Reject as verdict:
        for path in paths:
            intake.reject(path, "read", verdict.code, verdict.message)
        return None, []


def _tell(intake: Intake, told: Told, seconds: Iterable[Second], paths: Item) -> None:
    """What is said of the frames that are there: others would be shown for the seconds between."""
    seconds = list(seconds)
    if is_frames(paths):
        present = _numbers(paths)
        shown = [second for second in seconds if second.number in present]
        intake.notes["labels_without_frame"] += len(seconds) - len(shown)
        intake.notes["frames_without_label"] += len(present) - len(shown)
        seconds = shown
    phases = [(s.number, s.phase) for s in seconds if s.phase]
    triplets = [(s.number, name) for s in seconds for name in s.triplets]
    instruments = [(s.number, name) for s in seconds for name in s.instruments]
    for kind, frames in (("phase", phases), ("triplet", triplets), ("instrument", instruments)):
        told.timed += timed_runs(((number, f"{kind}:{name}") for number, name in frames), 1)
    told.passages += _clips(seconds)
    told.boxes += [(f"instrument:{n}", float(s.number), box) for s in seconds for n, box in s.boxes]


def _numbers(paths: Item) -> frozenset[int]:
    try:
        return frozenset(int(number) for number in numbered(paths)[1])
    except Reject:
        # The reading of the frames will say so.
        return frozenset()


def _clips(seconds: Sequence[Second]) -> Iterator[Passage]:
    """A sentence for each run of a triplet within a run of one phase."""
    phases: dict[int, str] = {s.number: s.phase or "" for s in seconds}
    bounds = runs(phases.items())
    for _, start, end in bounds:
        inside = [
            (s.number, name) for s in seconds if start <= s.number < end for name in s.triplets
        ]
        for triplet, first, last in runs(inside):
            yield Passage(
                level="clip", text=sentence(triplet), source=SYNTHETIC, span=(first, last)
            )


def read_labels(path: Path) -> list[Second]:
    """The labelled frames of one JSON file, by number.

    Raises:
        Reject: ``bad_json`` or ``bad_labels``: not this layout.
    """
    values = read_values(path)
    try:
        names = {kind: dict(table) for kind, table in values["categories"].items()}
        rows = {int(number): rows for number, rows in values["annotations"].items()}
        return [_second(number, rows[number], names) for number in sorted(rows)]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise Reject("bad_labels", f"not the CholecT50 layout: {type(error).__name__}") from error


def _second(number: int, rows: list[list[Any]], names: Mapping[str, Mapping[str, str]]) -> Second:
    if any(len(row) != WIDTH for row in rows):
        raise ValueError("a row is not of 15 numbers")
    phases = [names["phase"][str(int(row[PHASE]))] for row in rows if row[PHASE] >= 0]
    triplets = [names["triplet"][str(int(row[TRIPLET]))] for row in rows if row[TRIPLET] >= 0]
    tools = [
        (names["instrument"][str(int(row[INSTRUMENT]))], _box(row[BOX]))
        for row in rows
        if row[INSTRUMENT] >= 0
    ]
    return Second(
        number=number,
        phase=phases[0] if phases else None,
        triplets=tuple(dict.fromkeys(triplets)),
        instruments=tuple(dict.fromkeys(tool for tool, _ in tools)),
        boxes=tuple((tool, box) for tool, box in tools if box is not None),
    )


def _box(values: list[float]) -> Box | None:
    """(x0, y0, x1, y1) from (x, y, w, h), cut at the picture's edge; None where there is none."""
    x, y, width, height = map(float, values)
    if min(x, y) < 0 or min(width, height) <= 0:
        return None
    return x, y, min(x + width, 1.0), min(y + height, 1.0)


def _names(intake: Intake, dictionary: Mapping[str, Path]) -> dict[str, list[str]]:
    """Part of a triplet -> its classes in the order of their numbers."""
    names: dict[str, list[str]] = {}
    for part, path in dictionary.items():
        with intake.judge([path], "read"):
            try:
                told = sorted(_class(line) for line in plain_lines(path))
            except ValueError as error:
                raise Reject("bad_labels", "lines are no number:name") from error
            names[part] = [name for _, name in told]
            intake.cover([path])
    return names


def _class(line: str) -> tuple[int, str]:
    number, _, name = line.partition(":")
    return whole(number.strip()), name.strip()


def _old_release(
    intake: Intake, files: Mapping[str, Path], names: Mapping[str, Sequence[str]]
) -> list[Second]:
    """The labelled frames of one video by the files of the older release.

    Raises:
        Reject: ``bad_labels``: triplets or instruments are missing, or ``dict`` does not name them.
    """
    if not {"triplet", "instrument"} <= files.keys() & names.keys():
        raise Reject("bad_labels", "triplet, instrument and the names of both in dict are needed")
    rows = {
        part: _classes(intake, path, names[part]) for part, path in files.items() if part in names
    }
    triplets, instruments = rows["triplet"], rows["instrument"]
    for place, part in enumerate(_PARTS[1:]):
        told = rows.get(part, {})
        for number, own in triplets.items() if part in rows else ():
            implied = {name.split(",")[place] for name in own}
            if not implied <= {*told.get(number, ())}:
                intake.notes["components_disagree"] += 1
    return [
        Second(number=n, triplets=triplets.get(n, ()), instruments=instruments.get(n, ()))
        for n in sorted(triplets.keys() | instruments.keys())
    ]


def _classes(intake: Intake, path: Path, names: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Number of a frame -> the classes that it has."""
    found: dict[int, tuple[str, ...]] = {}

    def parse(cells: list[str]) -> list[tuple[int, str]]:
        number, *told = cells
        if len(told) != len(names) or not {"0", "1"}.issuperset(told):
            raise ValueError(len(told))
        pairs = zip(names, told, strict=True)
        found[whole(number)] = tuple(name for name, value in pairs if value == "1")
        return []

    read_frames(intake, path, None, parse)
    return found


def sentence(triplet: str) -> str:
    """A triplet in words.

    >>> sentence("hook,dissect,cystic_duct")
    'The hook is used to dissect the cystic duct.'
    >>> sentence("grasper,null_verb,null_target")
    'The grasper is in view.'
    """
    instrument, verb, target = map(words, triplet.split(","))
    if verb == "null verb":
        return f"The {instrument} is in view."
    return f"The {instrument} is used to {verb} the {target}."
