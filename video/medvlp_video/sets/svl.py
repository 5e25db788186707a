"""Source kind ``svl``: lectures in the layout of SurgVLP, HecVL and PeskaVLP (arXiv:2410.00263).

Reads `videos/<video>.mp4` and, for each video, tables of texts with columns ``start, end, text`` in
folders of these names: `<system>_narration_texts` (what a speech recogniser heard: clips),
`keystep_texts` (phases; the column ``step``, where there is one, holds the title and ``text`` what
a language model made of it) and `abstract_texts` (the procedure). `splits/train*.csv`, `val*.csv`
and `test*.csv` list videos in a column ``video_path``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.text.document import is_wordless
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp_video.recordings import named
from medvlp_video.sets.label_files import read_table
from medvlp_video.sets.recorded import RecordedSet, Told, find_recordings, take_recordings
from medvlp_video.spans import Span, seconds_of
from medvlp_video.tree import Passage

SOURCE = "svl"
KEYSTEP = "keystep"
ENRICHED = "llm:keystep"

_TEXTS = re.compile(r"(?:(?P<system>\w+)_narration|(?P<kind>keystep|abstract))_texts")
_SPLIT = re.compile(r"(train|val|test)\w*\.csv")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SvlOptions(ListOptions):
    """Settings of the kind."""

    without_video: bool = False
    """Take in the texts of videos that are not there, as samples without pictures."""


def index_svl(root: Path, intake: Intake) -> None:
    """Index lectures with their texts of all levels."""
    options = intake.options(SvlOptions)
    lists = SplitLists(intake, options.lists)
    told: dict[str, Told] = {}
    for path in list(intake.files()):
        folder = _TEXTS.fullmatch(path.parent.name)
        if folder and path.suffix.lower() == ".csv":
            _add(intake, path, folder, told.setdefault(path.stem, Told()))
    splits = _splits(intake)
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named(SOURCE, name),
        splits=splits,
        texts_alone=options.without_video,
    )
    known = told.keys() | splits.keys()
    found = find_recordings(intake, lambda words: words if words in known else None)
    take_recordings(intake, about, found, told)
    leave_rest(intake)


def _add(intake: Intake, path: Path, folder: re.Match[str], told: Told) -> None:
    try:
        rows = read_table(path, ("start", "end", "text"))
    except Reject as verdict:
        intake.reject(path, "read", verdict.code, verdict.message)
        told.flags.append("rows_refused")
        return
    told.files.append(path)
    for number, cells in rows.believed(intake):
        try:
            told.passages += _passages(cells, folder, path, number)
        except Reject as verdict:
            intake.reject_row(path, number, verdict.code, verdict.message)
            told.flags.append("rows_refused")


def _passages(
    cells: Mapping[str, str], folder: re.Match[str], path: Path, number: int
) -> Iterator[Passage]:
    """The texts of a row: one, or for a key step its title and its description.

    Raises:
        Reject: ``blank``, ``half_span`` or ``not_a_time``.
    """
    start_s, end_s = seconds_of(cells["start"] or None), seconds_of(cells["end"] or None)
    if start_s is None or end_s is None:
        raise Reject("half_span", "start or end is missing")
    told = [words for words in _told(cells, folder) if not is_wordless(words[2])]
    if not told:
        raise Reject("blank", "no words")
    span: Span = start_s, end_s
    for level, source, text in told:
        yield Passage(level=level, text=text, source=source, span=span, place=(path, number))


def _told(cells: Mapping[str, str], folder: re.Match[str]) -> list[tuple[str, str, str]]:
    """Level, source and words."""
    if system := folder["system"]:
        return [("clip", f"asr:{system}", cells["text"])]
    if folder["kind"] == "abstract":
        return [("procedure", "abstract", cells["text"])]
    if "step" in cells:
        return [("phase", KEYSTEP, cells["step"]), ("phase", ENRICHED, cells["text"])]
    return [("phase", KEYSTEP, cells["text"])]


def _splits(intake: Intake) -> dict[str, str]:
    """Video -> split, of the lists that the set brings; the first that names a video counts."""
    splits: dict[str, str] = {}
    for path in list(intake.files()):
        found = _SPLIT.fullmatch(path.name)
        if not found or path.parent.name != "splits":
            continue
        with intake.judge([path], "read"):
            rows = read_table(path, ("video_path",))
            intake.cover([path])
            for number, cells in rows.believed(intake):
                name = Path(cells["video_path"]).stem
                split = "valid" if found[1] == "val" else found[1]
                if not name:
                    intake.reject_row(path, number, "no_path")
                elif splits.setdefault(name, split) != split:
                    intake.reject_row(path, number, "split_conflict")
    return splits
