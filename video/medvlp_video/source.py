"""Source kind ``video``: video files or folders of frames, with tables of texts and labels."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.measure import Measured
from medvlp.archive.stage.reading import Item, Reading
from medvlp.archive.verdict import Reject, Verdict
from medvlp.config import STRICT
from medvlp.data.tables import LEVELS, PATIENT_IS_VIDEO
from medvlp_video.check import Trial, looking, trying
from medvlp_video.fast import has_decord
from medvlp_video.folder import FRAME_SUFFIXES
from medvlp_video.read import is_frames, is_video
from medvlp_video.spans import Span, Table, TableRow, span_of
from medvlp_video.tree import Passage, remark_hierarchy, write_texts

_MOST_LISTED = 1000
"""Bad frames of one video that are listed one by one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VideoOptions:
    """Settings of ``--kind video``.

    Tables are CSV or Parquet, relative to the source; their column ``video`` holds a file's or
    frame folder's name, its stem, or its path in the source.
    """

    videos: Path | None = None
    """One row a video: ``video``, ``patient``, ``sex``, ``age``, ``site``, ``acquired``,
    ``split``. Without it the file's stem stands for the patient."""
    texts: Path | None = None
    """One row a text: ``video``, ``text``, ``start_s``, ``end_s``, ``level`` (procedure, phase,
    step, clip), ``node``, ``parent`` (the parent's ``node``), ``source``, ``confidence``."""
    intervals: Path | None = None
    """One row a label in time: ``video``, ``name``, ``start_s``, ``end_s``; without times it
    is a label of the whole video."""
    boxes: Path | None = None
    """One row a box: ``video``, ``time_s``, ``name``, ``x0``, ``y0``, ``x1``, ``y1`` as
    fractions of the picture."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column -> the tables' column, where they differ."""
    frame_rate: Annotated[float, Field(gt=0)] = 1.0
    """Frame numbers a second in folders of frames."""


def index_video(root: Path, intake: Intake) -> None:
    """Index the videos and folders of frames below `root`.

    Raises:
        ConfigError: A wrong option, or a table that is not there.
        ArchiveError: A table that cannot be used.
    """
    options = intake.options(VideoOptions)
    tables = {
        kind: Table(intake, path, options.columns, needs)
        for kind, path, needs in (
            ("videos", options.videos, ()),
            ("texts", options.texts, ("text",)),
            ("intervals", options.intervals, ("name",)),
            ("boxes", options.boxes, ("time_s", "name", "x0", "y0", "x1", "y1")),
        )
        if path is not None
    }
    found, rest = videos_among(list(intake.files()))
    for path in rest:
        intake.ignore(path, "no_video")
    names = names_in_tables(root, found)

    reading = looking(options.frame_rate)
    fast = fast_files(intake, reading, found)
    for paths, result in intake.read(reading, found, "Checking videos"):
        rows = {kind: table.take(names[paths]) for kind, table in tables.items()}
        with intake.judge(paths, "decode"):
            if isinstance(result, Verdict):
                raise result
            _take_in(intake, result, "decord" if paths in fast else None, rows)
    for table in tables.values():
        table.list_unmatched(intake)


def fast_files(intake: Intake, reading: Reading[Measured], found: Sequence[Item]) -> set[Item]:
    """The sound video files that decord may read."""
    if not has_decord():
        return set()
    looked = intake.read(reading, found, "Checking videos")
    sound = (p for p, m in looked if isinstance(m, Measured) and _may_be_fast(m))
    tried = intake.read(trying(), sound, "Trying the fast reader")
    return {paths for paths, trial in tried if isinstance(trial, Trial) and trial.decord}


def _may_be_fast(found: Measured) -> bool:
    """Whether it is a video file without bad frames, for which decord would show others."""
    return not is_frames(found.paths) and not found.probe.bad_frames


def _take_in(
    intake: Intake, found: Measured, reader: str | None, rows: dict[str, list[TableRow]]
) -> None:
    paths, columns = found.paths, found.columns
    duration_s = found.probe.duration_s or 0.0
    bad = intake.notes["rows_refused"]
    texts = _timed(intake, rows.get("texts", ()), duration_s)
    intervals = _timed(intake, rows.get("intervals", ()), duration_s)
    flags = ["rows_refused"] if intake.notes["rows_refused"] > bad else []
    about = next(iter(rows.get("videos", ())), None)
    cell = about.get if about is not None else lambda name: None
    if not cell("patient"):
        flags.append(PATIENT_IS_VIDEO)
    frames = is_frames(paths)
    sample = intake.accept(
        paths,
        kind="frames" if frames else "video",
        patient=cell("patient") or _stem(paths),
        sex=cell("sex"),
        age=cell("age"),
        site=cell("site"),
        scanner=cell("scanner"),
        acquired=cell("acquired"),
        source_split=cell("split"),
        **{
            **columns,
            "reader": reader or columns["reader"],
            "flags": (*columns["flags"], *flags),
        },
    )
    list_bad_frames(intake, found)
    passages = [_passage(intake, row, span) for row, span in texts]
    write_texts(intake, sample, passages)
    for row, span in intervals:
        if span is None:
            intake.label(sample, row.cells["name"], 1, "table")
        else:
            intake.region(sample, name=row.cells["name"], kind="interval", geometry=span)
    regions = [(row.cells["name"], span) for row, span in intervals if span]
    remark_hierarchy(intake, sample, passages, regions)
    for row in rows.get("boxes", ()):
        _write_box(intake, sample, row)


def list_bad_frames(intake: Intake, found: Measured) -> None:
    """List the frames of a video that do not decode, each by its place."""
    for place in found.probe.bad_frames[:_MOST_LISTED]:
        intake.reject_row(found.paths[0], place + 1, "bad_frame")


def _timed(
    intake: Intake, rows: Sequence[TableRow], duration_s: float
) -> list[tuple[TableRow, Span | None]]:
    """The rows with their spans; rows with a bad span, or without words, are listed."""
    kept: list[tuple[TableRow, Span | None]] = []
    for row in rows:
        try:
            if row.get("text") is None and row.get("name") is None:
                raise Reject("blank", "neither text nor name")
            if row.get("level") not in (None, *LEVELS):
                raise Reject("unknown_level", "levels: " + ", ".join(LEVELS))
            kept.append((row, span_of(row, duration_s)))
        except Reject as verdict:
            _refuse(intake, row, verdict)
    return kept


def _refuse(intake: Intake, row: TableRow, verdict: Reject) -> None:
    intake.reject_row(row.table, row.number, verdict.code, verdict.message)
    intake.notes["rows_refused"] += 1


def _passage(intake: Intake, row: TableRow, span: Span | None) -> Passage:
    return Passage(
        level=row.get("level") or "clip",
        text=row.cells["text"],
        source=row.get("source") or "table",
        span=span,
        node=row.get("node"),
        parent=row.get("parent"),
        confidence=_confidence(intake, row),
        place=(row.table, row.number),
    )


def _confidence(intake: Intake, row: TableRow) -> float | None:
    try:
        return row.numeric("confidence")
    except Reject as verdict:
        _refuse(intake, row, verdict)
        return None


def _write_box(intake: Intake, sample: str, row: TableRow) -> None:
    try:
        numbers = [row.numeric(name) for name in ("time_s", "x0", "y0", "x1", "y1")]
        time_s, x0, y0, x1, y1 = (-1.0 if n is None else n for n in numbers)
        if time_s < 0 or not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise Reject("bad_box", "expected a time and 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1")
    except Reject as verdict:
        _refuse(intake, row, verdict)
        return
    add_box(intake, sample, row.cells.get("name", ""), time_s, (x0, y0, x1, y1))


def add_box(
    intake: Intake, sample: str, name: str, time_s: float, box: tuple[float, float, float, float]
) -> None:
    """A box (x0, y0, x1, y1) in fractions of the picture at one moment, which `ref` tells."""
    intake.region(sample, name=name, kind="box", geometry=box, ref=f"t={time_s:g}")


def videos_among(files: Sequence[Path]) -> tuple[list[tuple[Path, ...]], list[Path]]:
    """Video files and folders of frames among `files`, and the rest."""
    frames: defaultdict[Path, list[Path]] = defaultdict(list)
    found: list[tuple[Path, ...]] = []
    rest = []
    for path in files:
        if is_video(path):
            found.append((path,))
        elif path.suffix.lower() in FRAME_SUFFIXES:
            frames[path.parent].append(path)
        else:
            rest.append(path)
    found += [tuple(sorted(folder)) for folder in frames.values()]
    return found, rest


def names_in_tables(
    root: Path, found: Sequence[tuple[Path, ...]]
) -> dict[tuple[Path, ...], tuple[str, ...]]:
    """What tables may call each video; a name that two videos share belongs to neither."""
    names = {}
    for paths in found:
        path = paths[0].parent if is_frames(paths) else paths[0]
        inside = Path(os.path.relpath(path, root))
        whole = inside.as_posix()
        names[paths] = {whole, inside.with_suffix("").as_posix(), path.name, _stem(paths)}
    count = Counter(name for own in names.values() for name in own)
    return {
        paths: tuple(sorted(name for name in own if count[name] == 1))
        for paths, own in names.items()
    }


def _stem(paths: Sequence[Path]) -> str:
    return paths[0].parent.name if is_frames(paths) else paths[0].stem
