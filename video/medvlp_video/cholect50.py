"""Source kind ``cholect50``: CholecT50's JSON labels beside folders of frames.

Layout: ``labels/VIDnn.json`` and ``videos/VIDnn/NNNNNN.png`` at one frame a second. Each frame
carries rows ``[triplet, instrument, score, x, y, w, h, verb, target, score, x, y, w, h, phase]``
with boxes as fractions of the picture and -1 for what is absent (Nwoye et al., Medical Image
Analysis 2022; the layout after github.com/CAMMA-public/cholect50).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.verdict import Reject, Verdict
from medvlp.config import STRICT
from medvlp.errors import ConfigError
from medvlp_video.check import looking
from medvlp_video.folder import FRAME_SUFFIXES, numbered
from medvlp_video.source import add_box

SOURCE = "synthetic:labels"
"""Sentences made from labels are marked, lest anybody takes them for a surgeon's."""

TRIPLET, INSTRUMENT, BOX, VERB, TARGET, PHASE, WIDTH = 0, 1, slice(3, 7), 7, 8, 14, 15


@dataclasses.dataclass(frozen=True)
class Second:
    """One labelled frame, in words."""

    number: int
    phase: str | None
    triplets: tuple[str, ...]
    instruments: tuple[str, ...]
    boxes: tuple[tuple[str, tuple[float, float, float, float]], ...]
    """(instrument, (x0, y0, x1, y1))."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CholecT50Options:
    """Settings of the kind."""

    splits: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Split -> published numbers of its videos, such as ``test: [6, 10, 14]``; a video that is
    named nowhere is split like any other patient."""


def index_cholect50(root: Path, intake: Intake) -> None:
    """Index a CholecT50 folder; a label file without frames is listed as ``missing_frames``.

    Raises:
        ConfigError: ``options.splits`` puts a video into two splits.
    """
    splits = _split_of(intake.options(CholecT50Options))
    frames, labels = _sort_out(intake)
    names = {tuple(paths): name for name, paths in frames.items()}
    for paths, result in intake.read(looking(), names, "Reading frames"):
        name = names[paths]
        with intake.judge(paths, "decode"):
            if isinstance(result, Verdict):
                raise result
            ordered, numbers_F = numbered(paths)
            columns, flags = result.columns, () if name in labels else ("no_labels",)
            sample = intake.accept(
                ordered,
                kind="frames",
                patient=name,
                source_split=splits.get(name),
                **{**columns, "flags": (*columns["flags"], *flags)},
            )
            if name in labels:
                _label(intake, sample, labels[name], frozenset(int(n) for n in numbers_F))


def _split_of(options: CholecT50Options) -> dict[str, str]:
    """Video -> its published split."""
    places = Counter(number for numbers in options.splits.values() for number in numbers)
    if twice := sorted(number for number, count in places.items() if count > 1):
        raise ConfigError(
            f"options.splits: videos {', '.join(map(str, twice))} stand there twice",
            remedy="name each video once",
        )
    return {f"VID{n:02d}": split for split, numbers in options.splits.items() for n in numbers}


def _sort_out(intake: Intake) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """Frames by video, and label files by video; what is neither is set aside."""
    frames: dict[str, list[Path]] = {}
    labels: dict[str, Path] = {}
    for path in intake.files():
        if path.suffix.lower() in FRAME_SUFFIXES:
            frames.setdefault(path.parent.name, []).append(path)
        elif path.suffix.lower() == ".json":
            labels[path.stem] = path
        else:
            intake.ignore(path, "no_video")
    for name in labels.keys() - frames.keys():
        intake.reject(
            labels.pop(name), "join", "missing_frames", "labels of a video without frames"
        )
    return frames, labels


def _label(intake: Intake, sample: str, path: Path, present: frozenset[int]) -> None:
    with intake.judge([path], "read"):
        seconds = read_labels(path)
        intake.cover([path])
        shown = [second for second in seconds if second.number in present]
        intake.notes["labels_without_frame"] += len(seconds) - len(shown)
        intake.notes["frames_without_label"] += len(present) - len(shown)
        _intervals(intake, sample, shown)
        _sentences(intake, sample, shown)
        for second in shown:
            for instrument, box in second.boxes:
                add_box(intake, sample, f"instrument:{instrument}", second.number, box)


def read_labels(path: Path) -> list[Second]:
    """The labelled frames of one JSON file, by number.

    Raises:
        Reject: ``bad_json`` or ``bad_labels``: not this layout.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Reject("bad_json", type(error).__name__) from error
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


def _box(values: list[float]) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) from (x, y, w, h), cut at the picture's edge; None where there is none."""
    x, y, width, height = map(float, values)
    if min(x, y) < 0 or min(width, height) <= 0:
        return None
    return x, y, min(x + width, 1.0), min(y + height, 1.0)


def _intervals(intake: Intake, sample: str, seconds: list[Second]) -> None:
    """Runs of frames, a second apart, that carry the same phase, triplet or instrument."""
    for kind, named in (
        ("phase", {s.number: (s.phase,) if s.phase else () for s in seconds}),
        ("triplet", {s.number: s.triplets for s in seconds}),
        ("instrument", {s.number: s.instruments for s in seconds}),
    ):
        for name, start, end in runs(named):
            region = f"{kind}:{name}"
            intake.region(sample, name=region, kind="interval", geometry=(start, end))


def runs(named: Mapping[int, tuple[str, ...]]) -> Iterator[tuple[str, int, int]]:
    """(name, first second, end) of each run of consecutive seconds that carry a name.

    >>> list(runs({1: ("a",), 2: ("a", "b"), 5: ("a",)}))
    [('a', 1, 3), ('a', 5, 6), ('b', 2, 3)]
    """
    for name in dict.fromkeys(name for names in named.values() for name in names):
        seconds = sorted(second for second, names in named.items() if name in names)
        starts = [seconds[0], *(b for a, b in pairwise(seconds) if b > a + 1)]
        ends = [*(a for a, b in pairwise(seconds) if b > a + 1), seconds[-1]]
        for start, end in zip(starts, ends, strict=True):
            yield name, start, end + 1


def _sentences(intake: Intake, sample: str, seconds: list[Second]) -> None:
    """A text node for each run of a phase, and below it one for each run of a triplet."""
    phases = runs({s.number: (s.phase,) if s.phase else () for s in seconds})
    for order, (phase, start, end) in enumerate(sorted(phases, key=lambda run: run[1])):
        parent = intake.node(
            sample, level="phase", text=f"{_words(phase).capitalize()}.", source=SOURCE,
            start_s=start, end_s=end, order=order,
        )  # fmt: skip
        inside = {s.number: s.triplets for s in seconds if start <= s.number < end}
        done = sorted(runs(inside), key=lambda run: run[1])
        for place, (triplet, first, last) in enumerate(done):
            intake.node(
                sample, level="clip", text=sentence(triplet), source=SOURCE, parent=parent,
                start_s=first, end_s=last, order=place,
            )  # fmt: skip


def sentence(triplet: str) -> str:
    """A triplet in words.

    >>> sentence("hook,dissect,cystic_duct")
    'The hook is used to dissect the cystic duct.'
    >>> sentence("grasper,null_verb,null_target")
    'The grasper is in view.'
    """
    instrument, verb, target = map(_words, triplet.split(","))
    if verb == "null verb":
        return f"The {instrument} is in view."
    return f"The {instrument} is used to {verb} the {target}."


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").replace("carlot", "calot")
