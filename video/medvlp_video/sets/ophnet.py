"""Source kind ``ophnet``: OphNet2024 (Hu et al., ECCV 2024), eye surgery by phase and operation.

Reads untrimmed videos `case_0002.mp4`, one of the publishers' tables `OphNet2024_loca_*.csv` (spans
with split and the numbers of surgery, phase and operation) and `OphNet2024_surgery.csv` (surgeries
of all videos). The numbers' names stand in a sheet beside the set; a user's copy of it is read as a
table with columns ``kind`` (surgery, phase, operation), ``id`` and ``name``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import Cells, leave_rest, number, table_rows, the_file
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp_video.recordings import named
from medvlp_video.sets.label_files import whole
from medvlp_video.sets.recorded import RecordedSet, Timed, Told, find_recordings, take_recordings
from medvlp_video.spans import SLACK_S

SOURCE = "ophnet"

_TABLES = {
    "all": "OphNet2024_loca_all.csv",
    "challenge": "OphNet2024_loca_challenge.csv",
    "challenge-phase": "OphNet2024_loca_challenge_phase.csv",
}
_SURGERIES = "OphNet2024_surgery.csv"
_NAME = re.compile(r"(case_\d{4})")
_REGION = {"phase": "phase", "operation": "step"}

Names = Mapping[tuple[str, str], str]
"""Kind and number -> name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OphNetOptions(ListOptions):
    """Settings of the kind."""

    annotation: Literal["all", "challenge", "challenge-phase"] = "all"
    """Which table: all labels; rare ones merged; or phases alone, merged where they follow."""

    names: Path | None = None
    """The names of the numbers; without it regions are called ``phase:3``, and no sentences are
    made of them."""

    synthetic_text: bool = True
    """Write sentences made from phases and operations, with the source ``synthetic:labels``."""


def index_ophnet(root: Path, intake: Intake) -> None:
    """Index OphNet with its own split: phases and operations (as steps) become timed regions."""
    options = intake.options(OphNetOptions)
    lists = SplitLists(intake, options.lists)
    names = _names(intake, options.names)
    told: dict[str, Told] = {}
    files = list(intake.files())
    _read_spans(intake, the_file(files, _TABLES[options.annotation]), names, told)
    for path in files:
        if path.name == _SURGERIES:
            _read_surgeries(intake, path, names, told)
        elif path.name in _TABLES.values() and path.name != _TABLES[options.annotation]:
            intake.ignore(path, "not_selected")
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named(SOURCE, name.removeprefix("case_")),
        sentences=options.synthetic_text and options.names is not None,
    )
    take_recordings(intake, about, find_recordings(intake, _name), told)
    leave_rest(intake)


def _name(words: str) -> str | None:
    found = _NAME.fullmatch(words)
    return found[1] if found else None


def _names(intake: Intake, path: Path | None) -> Names:
    if path is None:
        return {}
    table = intake.locate(path)
    return {
        (cells["kind"].lower(), cells["id"]): cells["name"]
        for _, cells in table_rows(intake, table, ("kind", "id", "name"))
    }


def _read_spans(intake: Intake, path: Path, names: Names, told: dict[str, Told]) -> None:
    columns = ("video_id", "start", "end", "split", "surgery_id", "phase_id")
    for row, cells in table_rows(intake, path, columns):
        try:
            name = _name(cells["video_id"])
            if name is None:
                raise Reject("no_path")
            one = told.setdefault(name, Told(split=cells["split"]))
            if one.split != cells["split"]:
                raise Reject("split_conflict")
            one.timed += _timed(cells, names, (path, row))
            one.labels[_called("surgery", cells["surgery_id"], names)] = 1.0
        except Reject as verdict:
            intake.reject_row(path, row, verdict.code)
    for one in told.values():
        one.timed = [*_joined(one.timed, "phase:"), *(t for t in one.timed if _is_step(t))]


def _timed(cells: Cells, names: Names, place: tuple[Path, int]) -> list[Timed]:
    span = number(cells["start"]), number(cells["end"])
    return [
        Timed(_called(kind, cells[f"{kind}_id"], names, region), span, place)
        for kind, region in _REGION.items()
        if f"{kind}_id" in cells
    ]


def _called(kind: str, cell: str, names: Names, region: str | None = None) -> str:
    try:
        told = str(whole(cell))
    except ValueError:
        raise Reject("bad_labels") from None
    return f"{region or kind}:{names.get((kind, told), told)}"


def _is_step(one: Timed) -> bool:
    return one.name.startswith("step:")


def _joined(timed: Sequence[Timed], begins: str) -> list[Timed]:
    """A phase of several operations has a row for each; rows that follow each other become one."""
    own = sorted((one for one in timed if one.name.startswith(begins)), key=lambda one: one.span)
    cuts = [
        place
        for place, (a, b) in enumerate(pairwise(own), start=1)
        if a.name != b.name or b.span[0] > a.span[1] + SLACK_S
    ]
    bounds = pairwise((0, *cuts, len(own))) if own else ()
    return [
        Timed(own[a].name, (own[a].span[0], max(one.span[1] for one in own[a:b])), own[a].place)
        for a, b in bounds
    ]


def _read_surgeries(intake: Intake, path: Path, names: Names, told: dict[str, Told]) -> None:
    for row, cells in table_rows(intake, path, ("video_id", "surgery")):
        try:
            name = _name(cells["video_id"])
            if name is None:
                raise Reject("no_path")
            numbers = [
                _called("surgery", part.strip(), names) for part in cells["surgery"].split(",")
            ]
            told.setdefault(name, Told()).labels.update(dict.fromkeys(numbers, 1.0))
        except Reject as verdict:
            intake.reject_row(path, row, verdict.code)
