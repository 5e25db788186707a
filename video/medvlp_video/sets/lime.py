"""Source kind ``lime``: LIME (SurgLIME, 2026), clips and what a model wrote of them.

Reads `<folder>/<clip>.mp4` with `<clip>.txt` beside it and, where it is there, one table with
columns ``video_path, text, confidence_weight``. The clips of one folder count as one recording, so
that no two of them can stand in different splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import leave_rest, number, table_rows
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.text.document import is_wordless
from medvlp.archive.text.plaintext import read_text
from medvlp.archive.verdict import Reject
from medvlp.errors import ArchiveError
from medvlp_video.read import is_video
from medvlp_video.recordings import named
from medvlp_video.sets.recorded import RecordedSet, Told, take_recordings
from medvlp_video.tree import Passage

SOURCE = "lime"
WRITTEN = "llm:narrative"

Key = tuple[str, str]
"""Folder and stem of a clip."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What the table says of a clip."""

    text: str
    confidence: float | None


def index_lime(root: Path, intake: Intake) -> None:
    """Index LIME: each clip is a sample; the set has no split."""
    options = intake.options(ListOptions)
    lists = SplitLists(intake, options.lists)
    files = list(intake.files())
    table = _table(intake, files)
    clips = {
        path.relative_to(root).with_suffix("").as_posix(): path for path in files if is_video(path)
    }
    texts = {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in files
        if path.suffix.lower() == ".txt"
    }
    told = {
        name: _tell(intake, path, texts.get(name), table.pop(_key(path), None))
        for name, path in clips.items()
    }
    told |= {name: Told(files=[path]) for name, path in texts.items() if _is_lost(name, clips)}
    about = RecordedSet(source=SOURCE, lists=lists, study=lambda name: named(SOURCE, name))
    take_recordings(intake, about, {name: (path,) for name, path in clips.items()}, told)
    intake.notes["rows_without_video"] += len(table)
    leave_rest(intake)


def _is_lost(name: str, clips: Mapping[str, Path]) -> bool:
    """Whether a text, and not some note beside the folders, has no clip."""
    return name not in clips and "/" in name


def _key(path: Path) -> Key:
    return path.parent.name, path.stem


def _tell(intake: Intake, clip: Path, path: Path | None, row: _Row | None) -> Told:
    told = Told(study=named(SOURCE, clip.parent.name))
    text = row.text if row else ""
    if path is not None:
        try:
            text = read_text(path).text.strip()
        except Reject as verdict:
            intake.reject(path, "read", verdict.code, verdict.message)
            told.flags.append("rows_refused")
        else:
            told.files.append(path)
    if not is_wordless(text):
        confidence = row.confidence if row else None
        told.passages.append(
            Passage(level="clip", text=text, source=WRITTEN, confidence=confidence)
        )
    return told


def _table(intake: Intake, files: list[Path]) -> dict[Key, _Row]:
    """Clip -> its row; a row's confidence is from 0 to 1.

    Raises:
        ArchiveError: There are several tables.
    """
    tables = [path for path in files if path.suffix.lower() == ".csv"]
    if len(tables) > 1:
        raise ArchiveError(
            f"the source holds {len(tables)} tables", remedy="leave the one with confidence_weight"
        )
    rows: dict[Key, _Row] = {}
    for path in tables:
        for place, cells in table_rows(intake, path, ("video_path", "text")):
            key = _key(Path(cells["video_path"].replace("\\", "/")))
            try:
                if not key[1]:
                    raise Reject("no_path")
                if key in rows:
                    raise Reject("duplicate_row")
                rows[key] = _Row(cells["text"], _confidence(cells))
            except Reject as verdict:
                intake.reject_row(path, place, verdict.code)
    return rows


def _confidence(cells: Mapping[str, str]) -> float | None:
    cell = cells.get("confidence_weight", "")
    if not cell:
        return None
    value = number(cell)
    if not 0 <= value <= 1:
        raise Reject("not_a_number")
    return value
