"""Readings of videos: what a file holds, and which reader it earned.

Decoders may hang or crash on damaged files, so both run in processes that can be killed. A file on
which decord does is read by PyAV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.measure import Measured, measured
from medvlp.archive.stage.answer import Alive
from medvlp.archive.stage.child import Limits
from medvlp.archive.stage.reading import Reading
from medvlp.digest import nothing
from medvlp.domain import Ref
from medvlp_video.fast import earns_decord, spread
from medvlp_video.folder import DEFAULT_RATE
from medvlp_video.read import is_frames, probe, probe_frames
from medvlp_video.timestamps import TimestampReader

_LIMITS = Limits(time_s=30)
"""Both tell that they get on: it is 30 s of silence that end a process, however long the video."""

_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of trying the fast reader."""

    decord: bool
    """Whether it returns this file's frames."""


def looking(frame_rate: float = DEFAULT_RATE) -> Reading[Measured]:
    """The reading of a video file, or of the frames of a folder.

    Args:
        frame_rate: Frame numbers a second in folders of frames.
    """
    return Reading(
        read=Ref("medvlp_video.check:look"),
        result=Measured,
        version=_VERSION,
        limits=_LIMITS,
        settings={"frame_rate": frame_rate},
        tells=True,
    )


def look(paths: Sequence[Path], *, frame_rate: float, alive: Alive = nothing) -> Measured:
    """Decode frames spread over a video, or the first and last of a folder; digest the files.

    Raises:
        Reject: What `probe` raises.
    """
    frames = is_frames(paths)
    found = probe_frames(paths, frame_rate, alive) if frames else probe(paths, alive)
    return measured(paths, found, alive)


def trying() -> Reading[Trial]:
    """The reading that tells whether decord may read a video file."""
    return Reading(
        read=Ref("medvlp_video.check:try_decord"),
        result=Trial,
        version=_VERSION,
        limits=_LIMITS,
        tells=True,
    )


def try_decord(paths: Sequence[Path], *, alive: Alive = nothing) -> Trial:
    """Compare decord's frames with the reference reader's.

    Its frame count has to equal the length of the timestamp index, and 24 frames spread over the
    file those of the reference reader.

    Raises:
        Reject: The reference reader cannot read the file.
    """
    (path,) = paths
    reader = TimestampReader(path, alive=alive)
    frames = reader.decode(spread(len(reader.times)))
    return Trial(decord=earns_decord(path, reader, frames))
