"""Source kind ``cataract-1k``: Cataract-1K (Ghamsarian et al., Scientific Data 2024), its phases.

Reads `case_4687.mp4`, `case_4687_annotations_phases.csv` with the first and last frame and second
of each action phase, and `case_4687_video.csv`, whose fifth column is the rate at which the frames
were counted; it is needed where a row gives no seconds. The set has no split for its phases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest, number
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp_video.recordings import named
from medvlp_video.sets.label_files import read_table
from medvlp_video.sets.recorded import (
    RecordedSet,
    Timed,
    Told,
    find_recordings,
    read_into,
    take_recordings,
)

SOURCE = "cataract-1k"
PHASES = (
    "Incision", "Viscoelastic", "Capsulorhexis", "Hydrodissection", "Phacoemulsification",
    "Irrigation/Aspiration", "Capsule Polishing", "Lens Implantation", "Lens Positioning",
    "Viscoelastic Suction", "Anterior Chamber Flushing", "Tonifying/Antibiotics",
)  # fmt: skip

_AS_WRITTEN = {name.lower(): name for name in PHASES} | {"capsule pulishing": "Capsule Polishing"}
"""Names in small letters, one misspelling of the tables among them."""

_NAME = re.compile(r"(case_\d+)")
_LABELS = re.compile(r"(case_\d+)_(annotations(?:_phases)?|video)\.csv")
_RATE = 4
"""Place of the column that holds the frames a second."""

_COLUMNS = 4
"""Case, phase, first and last frame; then the same in seconds. The columns go by their places, as
their names differ between copies."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CataractOptions(ListOptions):
    """Settings of the kind."""

    synthetic_text: bool = True
    """Write sentences made from the phases, with the source ``synthetic:labels``."""


def index_cataract_1k(root: Path, intake: Intake) -> None:
    """Index the videos of Cataract-1K: action phases become timed regions."""
    options = intake.options(CataractOptions)
    lists = SplitLists(intake, options.lists)
    files: dict[str, dict[str, Path]] = {}
    for path in list(intake.files()):
        if found := _LABELS.fullmatch(path.name):
            what = "video" if found[2] == "video" else "phases"
            if files.setdefault(found[1], {}).setdefault(what, path) != path:
                intake.reject(path, "join", "duplicate_sample")
    about = RecordedSet(
        source=SOURCE,
        lists=lists,
        study=lambda name: named(SOURCE, name.removeprefix("case_")),
        sentences=options.synthetic_text,
    )
    told = {name: _tell(intake, own) for name, own in files.items()}
    take_recordings(intake, about, find_recordings(intake, _name), told)
    leave_rest(intake)


def _name(words: str) -> str | None:
    found = _NAME.fullmatch(words)
    return found[1] if found else None


def _tell(intake: Intake, files: Mapping[str, Path]) -> Told:
    told = Told()
    rates: list[float] = []
    if "video" in files:
        read_into(intake, told, files["video"], lambda path: _read_rate(path, rates))
    if "phases" in files:
        rate = rates[0] if rates else None
        read_into(intake, told, files["phases"], lambda path: _phases(intake, path, rate))
    return told


def _read_rate(path: Path, rates: list[float]) -> list[Timed]:
    for _, cells in read_table(path, ()).kept:
        values = list(cells.values())
        if len(values) <= _RATE or number(values[_RATE]) <= 0:
            raise Reject("bad_labels", "no rate in the fifth column")
        rates.append(number(values[_RATE]))
    return []


def _phases(intake: Intake, path: Path, rate: float | None) -> list[Timed]:
    timed = []
    for row, cells in read_table(path, ()).believed(intake):
        values = list(cells.values())
        try:
            if len(values) < _COLUMNS:
                raise Reject("bad_labels")
            name = _AS_WRITTEN.get(" ".join(re.split(r"[\s_]+", values[1].lower())))
            if name is None:
                raise Reject("bad_labels")
            timed.append(Timed(f"phase:{name}", _seconds(values[2:], rate), (path, row)))
        except Reject as verdict:
            intake.reject_row(path, row, verdict.code)
    return timed


def _seconds(values: Sequence[str], rate: float | None) -> tuple[float, float]:
    start, end, *told = values
    if len(told) >= 2 and told[0] and told[1]:
        return number(told[0]), number(told[1])
    if rate is None:
        raise Reject("not_a_time", "neither seconds nor the rate of the frames")
    return number(start) / rate, number(end) / rate
