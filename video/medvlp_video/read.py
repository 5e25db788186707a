"""From files to frames: which files make a video, what they hold, and the reader for them.

Readers, as the manifest's `reader` column names them: ``pyav`` (the reference, by exact
timestamp), ``decord`` (for files that passed the check), ``frames`` (a folder of images whose
file numbers are seconds) and ``frames@RATE`` (numbers at RATE a second).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medvlp.archive.probe import Probe
from medvlp.archive.verdict import Reject
from medvlp.errors import InputError
from medvlp_video.fast import DecordReader, spread
from medvlp_video.folder import DEFAULT_RATE, FRAME_SUFFIXES, FolderReader, frame_files
from medvlp_video.frames import FrameReader
from medvlp_video.timestamps import TimestampReader

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")


def open_reader(paths: Sequence[Path], reader: str | None = None) -> FrameReader:
    """The frame reader for one sample's files.

    Args:
        paths: One video file, one folder of frames, or the frames themselves.
        reader: The manifest's `reader`; by default ``pyav`` or ``frames``, after the files.

    Raises:
        Reject: The files cannot be read; see the readers for the codes.
    """
    if is_frames(paths):
        return FolderReader(_frames(paths), frame_rate(reader or "frames"))
    if len(paths) != 1:
        raise Reject("several_files", f"{len(paths)} files for one video")
    return DecordReader(paths[0]) if reader == "decord" else TimestampReader(paths[0])


def probe(paths: Sequence[Path]) -> Probe:
    """What one sample's files hold: shape (frames, rows, columns), rate, duration and reader.

    Frames spread over a video are decoded. Damaged files can hang or crash a decoder: call it in
    a process that can be killed (`medvlp_video.check.looking`).

    Raises:
        Reject: ``empty``, ``no_video_stream``, ``no_timestamps``, ``truncated``, ``undecodable``
            or ``several_files``.
    """
    if is_frames(paths):
        return probe_frames(paths, DEFAULT_RATE)
    if len(paths) != 1:
        raise Reject("several_files", f"{len(paths)} files for one video")
    reader = TimestampReader(paths[0])
    reader.decode(spread(len(reader.times)))
    return _as_probe(reader, "pyav")


def probe_frames(paths: Sequence[Path], rate: float) -> Probe:
    """`probe` for a folder of frames whose numbers count at `rate` a second."""
    reader = FolderReader(_frames(paths), rate)
    reader.decode(reader.index_at([reader.times[0], reader.times[-1]]))
    return _as_probe(reader, "frames" if rate == DEFAULT_RATE else f"frames@{rate:g}")


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
        here = sorted(Path(folder, name) for name in names)
        found += [(file,) for file in here if is_video(file)]
        frames = tuple(file for file in here if file.suffix.lower() in FRAME_SUFFIXES)
        found += [frames] if frames else []
    return found


def _frames(paths: Sequence[Path]) -> Sequence[Path]:
    return frame_files(paths[0]) if len(paths) == 1 and paths[0].is_dir() else paths


def _as_probe(reader: FrameReader, name: str) -> Probe:
    return Probe(
        shape=reader.shape,
        fps=reader.fps,
        duration_s=reader.duration_s,
        modality="video",
        reader=name,
    )
