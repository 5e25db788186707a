"""Recordings with what a published set tells of them: what the sets of surgical video share.

A set's reader finds the videos and folders of frames, says of each what the set tells, in seconds
from its beginning, and hands both over. These sets name no patients: each recording counts as one,
under a name that sets of the same recordings share (`medvlp_video.recordings`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.measure import Measured
from medvlp.archive.stage.reading import Item
from medvlp.archive.tables.lists import SplitLists
from medvlp.archive.verdict import Reject, Verdict
from medvlp.data.tables import PATIENT_IS_VIDEO, TEXT_ONLY
from medvlp.digest import digest_plain
from medvlp_video.check import looking
from medvlp_video.folder import DEFAULT_RATE, numbered
from medvlp_video.read import is_frames
from medvlp_video.source import add_box, fast_files, list_bad_frames, videos_among
from medvlp_video.spans import SLACK_S, Span, checked_span
from medvlp_video.tree import Passage, Place, remark_hierarchy, write_texts

SYNTHETIC = "synthetic:labels"
"""Source of sentences made from labels: marked, lest anybody takes them for a surgeon's."""

Box = tuple[float, float, float, float]
Name = Callable[[str], str | None]
"""A file's or folder's name, without its ending -> the recording's name in the set."""

_AT_ONCE = ("phase", "step")
_FAR_S = 10.0
"""Frames may go on for so long, and for as long as the labels do, where the labels have ended."""
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Timed:
    """A label that holds for a time."""

    name: str
    """Such as ``phase:Preparation``."""

    span: Span
    """Seconds from the recording's beginning."""

    place: Place | None = None
    """The row that says so, if there is one to be listed."""


@dataclass(frozen=True, slots=True)
class Clock:
    """What the numbers of frame files mean: the frame ``first + rate * t`` shows second t."""

    rate: float = DEFAULT_RATE
    first: int | None = 0
    """None: 0 where there is a frame 0, else 1."""

    def shift_s(self, paths: Sequence[Path]) -> float:
        """By how much a folder's own time line, which counts from the number 0, is ahead.

        Raises:
            Reject: ``duplicate_frames``.
        """
        first = self.first
        if first is None:
            first = 0 if numbered(paths)[1][0] == 0 else 1
        return first / self.rate


@dataclass(slots=True, kw_only=True)
class Told:
    """What a set tells of one recording."""

    study: str | None = None
    """Its name where the set's rule does not give it."""

    split: str | None = None
    site: str | None = None
    timed: list[Timed] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    labels: dict[str, float] = field(default_factory=dict)
    boxes: list[tuple[str, float, Box]] = field(default_factory=list)
    """Name, second, and corners in fractions of the picture."""

    files: list[Path] = field(default_factory=list)
    """Its own label files: taken in with it, and refused without it."""

    flags: list[str] = field(default_factory=list)
    clock: Clock | None = None
    """How its frames are numbered, where it differs from the set's."""

    whole: bool = False
    """Whether its labels run to the end of the recording, so that frames far beyond them show that
    their numbers mean something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSet:
    """What holds for all recordings of a set."""

    source: str
    """Its kind, which is the source of its labels."""

    lists: SplitLists
    study: Callable[[str], str]
    """A recording's name in the set -> the name that sets of the same recordings share."""

    splits: Mapping[str, str] = field(default_factory=dict)
    """The set's own split of each recording."""

    clock: Clock = Clock()
    sentences: bool = True
    """Whether phases and steps become sentences, too."""

    texts_alone: bool = False
    """Whether the texts of a recording that is not there are taken in without it."""

    table: Path | None = None
    """The file of all texts, where recordings have none of their own."""


def read_into(
    intake: Intake, told: Told, path: Path, read: Callable[[Path], Iterable[Timed]]
) -> None:
    """Add what a label file says; a bad file is quarantined, and the recording says so."""
    try:
        told.timed.extend(read(path))
    except Reject as verdict:
        intake.reject(path, "read", verdict.code, verdict.message)
        told.flags.append("rows_refused")
    else:
        told.files.append(path)


def find_recordings(intake: Intake, name: Name) -> dict[str, Item]:
    """The videos and frames of a set by their name in it; all other files stay open.

    Frames may lie in a folder of the recording's name, or carry the name themselves. Of a recording
    that is there twice, the video is taken, and the other is ``duplicate_sample``. A video without
    a name in the set is ``no_row``; a picture without one is an illustration, and ignored.
    """
    found, _ = videos_among(list(intake.files()))
    recordings: dict[str, Item] = {}
    for paths in sorted(found, key=is_frames):
        for key, own in _by_name(paths, name).items():
            if key is not None and key not in recordings:
                recordings[key] = tuple(own)
                continue
            for path in own:
                if key is not None:
                    intake.reject(path, "join", "duplicate_sample")
                elif is_frames(paths):
                    intake.ignore(path, "not_of_the_set")
                else:
                    intake.reject(path, "join", "no_row")
    return recordings


def _by_name(paths: Item, name: Name) -> Mapping[str | None, list[Path]]:
    folder = name(paths[0].parent.name) if is_frames(paths) else None
    own: defaultdict[str | None, list[Path]] = defaultdict(list)
    for path in paths:
        own[folder or name(path.stem)].append(path)
    return own


def take_recordings(
    intake: Intake, about: RecordedSet, found: Mapping[str, Item], told: Mapping[str, Told]
) -> None:
    """Take in recordings with what is told of them.

    A recording of which nothing is told carries ``no_labels``. Label files of recordings that are
    not there, or cannot be read, are quarantined as ``missing_frames``; recordings that only a
    table of the whole set tells of are counted in the note ``recordings_without_video``.
    """
    taken: set[str] = set()
    for clock, names in _by_clock(about, found, told):
        reading = looking(clock.rate)
        items = {found[name]: name for name in names}
        fast = fast_files(intake, reading, list(items))
        for paths, result in intake.read(reading, items, "Checking videos"):
            name = items[paths]
            with intake.judge(paths, "decode"):
                if isinstance(result, Verdict):
                    raise result
                reader = "decord" if paths in fast else None
                _Taking(intake, about, name, told.get(name, Told()), clock).take(result, reader)
                taken.add(name)
    for name in sorted(told.keys() - taken):
        own = told[name]
        if about.texts_alone and own.passages and name not in found:
            _Taking(intake, about, name, own, about.clock).take_texts()
            continue
        for path in own.files:
            intake.reject(path, "join", "missing_frames")
        if not own.files and name not in found:
            intake.notes["recordings_without_video"] += 1


def _by_clock(
    about: RecordedSet, found: Mapping[str, Item], told: Mapping[str, Told]
) -> Iterable[tuple[Clock, list[str]]]:
    """Recordings whose numbers mean the same are read together."""
    alike: defaultdict[Clock, list[str]] = defaultdict(list)
    for name in found:
        own = told[name].clock if name in told else None
        alike[own or about.clock].append(name)
    return alike.items()


class _Taking:
    """One recording on its way into the manifest."""

    def __init__(
        self, intake: Intake, about: RecordedSet, name: str, told: Told, clock: Clock
    ) -> None:
        self._intake, self._about, self._name = intake, about, name
        self._told, self._clock = told, clock
        self._shift_s = self._duration_s = 0.0
        self._refused = 0

    def take(self, found: Measured, reader: str | None) -> None:
        """Accept the files, and write down all that is told of them.

        Raises:
            Reject: ``frame_numbers``, or what `Intake.accept` raises.
        """
        told, about, intake = self._told, self._about, self._intake
        self._duration_s = found.probe.duration_s or 0.0
        if is_frames(found.paths):
            self._shift_s = self._clock.shift_s(found.paths)
            self._check_numbers()
        regions = [
            (one.name, span) for one in told.timed if (span := self._span(one.span, one.place))
        ]
        sentences = _sentences(told.timed) if about.sentences else ()
        passages = [
            dataclasses.replace(passage, span=span)
            for passage in (*told.passages, *sentences)
            if (span := self._span(passage.span, passage.place)) or passage.span is None
        ]
        sample = self._accept(found, reader)
        intake.cover(told.files)
        list_bad_frames(intake, found)
        write_texts(intake, sample, passages)
        for name, span in regions:
            intake.region(sample, name=name, kind="interval", geometry=span)
        for label, value in told.labels.items():
            intake.label(sample, label, value, about.source)
        for name, second, box in told.boxes:
            add_box(intake, sample, name, second + self._shift_s, box)
        remark_hierarchy(intake, sample, passages, regions)

    def take_texts(self) -> None:
        """Accept what is said of a recording that is not there."""
        told, about, intake = self._told, self._about, self._intake
        self._duration_s = math.inf
        passages = [p for p in told.passages if p.span is None or self._span(p.span, p.place)]
        split, listed = self._split()
        files = told.files or [path for path in (about.table,) if path]
        words_digest = digest_plain([[p.level, p.source, p.span, p.text] for p in passages])
        sample = intake.accept(
            files,
            kind=TEXT_ONLY,
            patient=None,
            study=told.study or about.study(self._name),
            identity=f"{about.source}:{self._name}",
            sha256=words_digest,
            source_split=split,
            flags=(*told.flags, *listed, PATIENT_IS_VIDEO),
        )
        write_texts(intake, sample, passages)
        remark_hierarchy(intake, sample, passages, ())

    def _split(self) -> tuple[str | None, tuple[str, ...]]:
        own = self._told.split or self._about.splits.get(self._name)
        return self._about.lists.columns(Path(self._name), own)

    def _accept(self, found: Measured, reader: str | None) -> str:
        told, about = self._told, self._about
        split, listed = self._split()
        silent = not (told.timed or told.passages or told.labels)
        columns = found.columns
        flags = [*columns["flags"], *told.flags, *listed, PATIENT_IS_VIDEO]
        flags += ["no_labels"] if silent else []
        flags += ["rows_refused"] if self._refused else []
        return self._intake.accept(
            found.paths,
            kind="frames" if is_frames(found.paths) else "video",
            patient=None,
            study=told.study or about.study(self._name),
            site=told.site,
            source_split=split,
            **columns | {"reader": reader or columns["reader"], "flags": flags},
        )

    def _span(self, span: Span | None, place: Place | None) -> Span | None:
        """A span on the files' own time line; one that leaves it is listed, or else counted."""
        if span is None:
            return None
        start_s, end_s = span[0] + self._shift_s, span[1] + self._shift_s
        if place is None and start_s < self._duration_s < end_s - SLACK_S:
            self._intake.notes["labels_without_frame"] += 1
            end_s = self._duration_s
        try:
            return checked_span((start_s, end_s), self._duration_s)
        except Reject as verdict:
            self._refused += 1
            if place is None:
                self._intake.notes["labels_without_frame"] += 1
            else:
                self._intake.reject_row(*place, verdict.code, verdict.message)
        return None

    def _check_numbers(self) -> None:
        """Refuse frames that go on for long where the labels have ended: a number is no second."""
        labelled_s = max((one.span[1] for one in self._told.timed), default=0.0)
        if self._told.whole and labelled_s and self._duration_s > 2 * labelled_s + _FAR_S:
            raise Reject("frame_numbers", f"{self._duration_s:g} s of {labelled_s:g} s labelled")


def _sentences(timed: Iterable[Timed]) -> Iterable[Passage]:
    """A sentence for each phase and step."""
    for one in timed:
        level, _, name = one.name.partition(":")
        if level in _AT_ONCE:
            yield Passage(
                level=level, text=f"{words(name).capitalize()}.", source=SYNTHETIC, span=one.span
            )


def words(name: str) -> str:
    """A label as words.

    >>> words("carlot-triangle-dissection"), words("ClippingCutting"), words("Id_Bladder_Neck")
    ('calot triangle dissection', 'clipping cutting', 'id bladder neck')
    """
    parts = _HUMP.sub(" ", name).replace("_", " ").replace("-", " ").lower()
    return parts.replace("carlot", "calot")


def runs(frames: Iterable[tuple[int, str]], step: int = 1) -> list[tuple[str, int, int]]:
    """(name, first number, end) of each run of frames that carry a name.

    Args:
        frames: Numbers, each with a name that it carries, in any order.
        step: From one frame's number to the next one's; a wider gap ends a run.

    >>> runs([(1, "a"), (2, "a"), (2, "b"), (5, "a")])
    [('a', 1, 3), ('b', 2, 3), ('a', 5, 6)]
    """
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for number, name in frames:
        numbers[name].append(number)
    found = []
    for name, own in numbers.items():
        places = sorted(set(own))
        cuts = [i for i, (a, b) in enumerate(pairwise(places), start=1) if b > a + step]
        for start, stop in pairwise((0, *cuts, len(places))):
            found.append((name, places[start], places[stop - 1] + step))
    return sorted(found, key=lambda run: (run[1], run[0]))


def timed_runs(frames: Iterable[tuple[int, str]], rate: float) -> list[Timed]:
    """Labels of frames, `rate` of which are a second, as labels that hold for a time.

    The frame 0 is at the recording's beginning.
    """
    return [Timed(name, (start / rate, end / rate)) for name, start, end in runs(frames)]
