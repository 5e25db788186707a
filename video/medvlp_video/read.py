"""From files to frames: which files make a video, what they hold, and the reader for them.

Readers, as the manifest's `reader` column names them: ``pyav`` (the reference, by exact
timestamp), ``decord`` (for files that passed the check), ``frames`` (a folder of images whose
file numbers are seconds) and ``frames@RATE`` (numbers at RATE a second).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.probe import Probe
from medvlp.archive.stage.answer import Alive
from medvlp.archive.verdict import Reject
from medvlp.archive.walk import is_junk
from medvlp.data.proxy_files import SUFFIX
from medvlp.digest import nothing
from medvlp.errors import InputError
from medvlp_video.fast import DecordReader, spread
from medvlp_video.folder import DEFAULT_RATE, FRAME_SUFFIXES, FolderReader, frame_files
from medvlp_video.frames import FrameReader
from medvlp_video.proxy import ProxyReader
from medvlp_video.timestamps import TimestampReader

MOST_LOOKED_AT = 600_000_000
"""Pixels of a video, over all frames, up to which every frame is decoded at indexing."""

MOST_BAD = 0.1
"""Of the frames looked at; a video with more is refused."""

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")


def open_reader(
    paths: Sequence[Path], reader: str | None = None, *, cut: bool = False
) -> FrameReader:
    """The frame reader for one sample's files.

    Args:
        paths: One video file, one proxy, one folder of frames, or the frames themselves.
        reader: The manifest's `reader`; by default ``pyav`` or ``frames``, after the files. A
            proxy has a reader of its own.
        cut: Read also a video file whose end is missing; the reader then says `cut_tail`.

    Raises:
        Reject: The files cannot be read; see the readers for the codes.
    """
    if is_frames(paths):
        return FolderReader(_frames(paths), frame_rate(reader or "frames"))
    if len(paths) != 1:
        raise Reject("several_files", f"{len(paths)} files for one video")
    if paths[0].suffix == SUFFIX:
        return ProxyReader(paths[0])
    if reader == "decord":
        return DecordReader(paths[0])
    return TimestampReader(paths[0], cut=cut)


def probe(paths: Sequence[Path], alive: Alive = nothing) -> Probe:
    """What one sample's files hold: shape (frames, rows, columns), rate, duration and reader.

    All frames of a short video are decoded, some spread over a long one; those that fail are
    listed, flagged ``bad_frames``, and never replaced by others. Damaged files can hang or crash
    a decoder: call it in a process that can be killed (`medvlp_video.check.looking`), which is told
    that it gets on by `alive`.

    Raises:
        Reject: What `TimestampReader` raises, ``bad_frame`` or ``undecodable`` where a tenth of
            the frames fails, or ``several_files``.
    """
    if is_frames(paths):
        return probe_frames(paths, DEFAULT_RATE, alive)
    if len(paths) != 1:
        raise Reject("several_files", f"{len(paths)} files for one video")
    reader = TimestampReader(paths[0], alive=alive)
    if not _affordable(reader):
        places = spread(len(reader.times))
        return _as_probe(reader, "pyav", _failing(reader, places, alive))
    bad = reader.bad_frames()
    if len(bad) > MOST_BAD * len(reader.times):
        raise Reject("undecodable", f"{len(bad)} of {len(reader.times)} frames")
    return _as_probe(reader, "pyav", bad)


def probe_frames(paths: Sequence[Path], rate: float, alive: Alive = nothing) -> Probe:
    """`probe` for a folder of frames whose numbers count at `rate` a second."""
    reader = FolderReader(_frames(paths), rate)
    places = np.arange(len(reader.times)) if _affordable(reader) else spread(len(reader.times))
    name = "frames" if rate == DEFAULT_RATE else f"frames@{rate:g}"
    return _as_probe(reader, name, _failing(reader, places, alive))


def resolve(path: Path) -> list[tuple[Path, ...]]:
    """The videos in what a user names: a video file, a folder of frames, or a tree of both.

    Raises:
        InputError: There is no video.
    """
    found: list[tuple[Path, ...]] = [(path,)] if is_video(path) else _tree(path)
    if not found:
        raise InputError(
            "no video here: expected " + ", ".join(VIDEO_SUFFIXES) + " or a folder of frames",
            remedy="name a video file, a folder of PNG or JPEG frames, or a folder of those",
        )
    return found


def is_video(path: Path) -> bool:
    """Whether the name is that of a video file."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


def is_frames(paths: Sequence[Path]) -> bool:
    """Whether `paths` are a folder of frames or frames."""
    return paths[0].is_dir() or paths[0].suffix.lower() in FRAME_SUFFIXES


def frame_rate(reader: str) -> float:
    """The rate in a reader's name: 25 for ``frames@25``, 1 for ``frames``."""
    _, _, rate = reader.partition("@")
    return float(rate) if rate else DEFAULT_RATE


def _tree(path: Path) -> list[tuple[Path, ...]]:
    if not path.is_dir():
        return []
    found: list[tuple[Path, ...]] = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        paths = (Path(folder, name) for name in names)
        here = sorted(file for file in paths if not is_junk(file, path))
        found += [(file,) for file in here if is_video(file)]
        frames = tuple(file for file in here if file.suffix.lower() in FRAME_SUFFIXES)
        found += [frames] if frames else []
    return found


def _frames(paths: Sequence[Path]) -> Sequence[Path]:
    return frame_files(paths[0]) if len(paths) == 1 and paths[0].is_dir() else paths


def _affordable(reader: FrameReader) -> bool:
    """Whether every frame is decoded to look at it, and not only some spread over the video."""
    return math.prod(reader.shape) <= MOST_LOOKED_AT


def _failing(reader: FrameReader, places_F: NDArray[np.int64], alive: Alive) -> NDArray[np.int64]:
    """Those of the frames that do not decode.

    Raises:
        Reject: The first one's, where they are more than `MOST_BAD` of them.
    """
    bad: list[int] = []
    first: Reject | None = None
    for place in places_F.tolist():
        alive()
        try:
            reader.decode(np.array([place]))
        except Reject as verdict:
            first = first or verdict
            bad.append(place)
    if first is not None and len(bad) > MOST_BAD * len(places_F):
        raise first
    return np.array(bad, np.int64)


def _as_probe(reader: FrameReader, name: str, bad_F: NDArray[np.int64]) -> Probe:
    steps_s = np.diff(reader.times)
    remarks = {
        "bad_frames": len(bad_F) > 0,
        "cut_tail": reader.cut_tail,
        "variable_rate": len(steps_s) > 0 and steps_s.max() > 1.5 * np.median(steps_s),
    }
    return Probe(
        shape=reader.shape,
        fps=reader.fps,
        duration_s=reader.duration_s,
        modality="video",
        reader=name,
        flags=tuple(flag for flag, holds in remarks.items() if holds),
        bad_frames=tuple(bad_F.tolist()),
    )
