"""The reference reader: PyAV, frame by frame at its exact presentation timestamp.

All packets are read once (without decoding) to list the timestamps that a player would show;
packets that an edit list discards are dropped. A frame is fetched by seeking to the key frame
before it and decoding until its timestamp comes up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from medvlp.archive.verdict import Reject
from medvlp_video.frames import FrameReader

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SHORT_S = 1.0
"""A file that ends this much (or 2 %) before its own header says is truncated."""

RETREATS = (0, 1, 4, 16)
"""How many key frames further back to start when seeking lands behind the frame wanted."""


@dataclass(frozen=True)
class TimestampIndex:
    """What a file shows when: presentation timestamps in units of `tick_s`, ascending."""

    pts: NDArray[np.int64]
    keys: NDArray[np.int64]
    """Timestamps of the key frames, ascending."""
    tick_s: float
    end_pts: int
    size: tuple[int, int]
    """Rows and columns."""


class TimestampReader(FrameReader):
    """Frames of one video file by exact timestamp (backend ``pyav``).

    Raises:
        Reject: ``empty``, ``no_video_stream``, ``no_timestamps``, ``truncated`` or
            ``undecodable``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = index = timestamp_index(path)
        times_s = (index.pts - index.pts[0]) * index.tick_s
        duration_s = float((index.end_pts - index.pts[0]) * index.tick_s)
        fps = len(index.pts) / duration_s
        super().__init__(times_s, size=index.size, fps=fps, duration_s=duration_s)

    def decode(self, index_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(F,H,W,3) RGB frames by their place in `times`."""
        wanted_F = self._index.pts[index_F]
        found = {}
        # One for all frames: its set-up costs more than a small frame's conversion.
        reformatter = VideoReformatter()
        with _opened(self._path) as (container, stream):
            for pts, frame in self._walk(container, stream, sorted(set(wanted_F.tolist()))):
                found[pts] = _rgb(reformatter, frame, self._index.size)
        return np.stack([found[pts] for pts in wanted_F.tolist()])

    def _walk(
        self, container: InputContainer, stream: VideoStream, wanted: list[int]
    ) -> Iterator[tuple[int, VideoFrame]]:
        keys = self._index.keys
        decoder: Iterator[VideoFrame] = iter(())
        position: int | None = None
        for pts in wanted:
            place = int(np.searchsorted(keys, pts, side="right")) - 1
            frame = None
            if position is not None and keys[max(place, 0)] <= position:
                frame = _advance(decoder, pts)
            for back in RETREATS:
                if frame is not None:
                    break
                container.seek(int(keys[max(place - back, 0)]), stream=stream)
                decoder = container.decode(stream)
                frame = _advance(decoder, pts)
            if frame is None:
                raise Reject("undecodable", "a frame that the index lists does not decode")
            position = pts
            yield pts, frame


def timestamp_index(path: Path) -> TimestampIndex:
    """The timestamps of one file, kept for the files read last.

    Raises:
        Reject: See `TimestampReader`.
    """
    stat = path.stat()
    if stat.st_size == 0:
        raise Reject("empty", "0 bytes")
    return _indexed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _indexed(path: Path, size: int, changed_ns: int) -> TimestampIndex:
    with _opened(path) as (container, stream):
        packets = [
            (packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard)
            for packet in container.demux(stream)
            if packet.size
        ]
        if any(pts is None for pts, *_ in packets):
            container.seek(0, stream=stream)
            packets = [
                (frame.pts, frame.duration or 0, frame.key_frame, False)
                for frame in container.decode(stream)
            ]
        return _shown(packets, stream, _promised_s(container, stream))


def _shown(
    packets: list[tuple[int | None, int, bool, bool]], stream: VideoStream, promised_s: float
) -> TimestampIndex:
    rows = [(pts, length, key, gone) for pts, length, key, gone in packets if pts is not None]
    if len(rows) < max(len(packets), 1) or stream.time_base is None:
        code = "no_timestamps" if packets else "undecodable"
        raise Reject(code, f"{len(rows)} of {len(packets)} packets carry a timestamp")
    keys = np.unique(np.array([pts for pts, _, key, _ in rows if key], np.int64))
    if not len(keys):
        raise Reject("undecodable", "no key frame")
    # Frames shown before the first key frame lean on pictures that a cut left behind.
    shown = {pts: length for pts, length, _, gone in rows if not gone and pts >= keys[0]}
    if not shown:
        raise Reject("undecodable", "no frame is shown")
    pts = np.array(sorted(shown), np.int64)
    last_length = shown[int(pts[-1])] or int(np.median(np.diff(pts)) if len(pts) > 1 else 1)
    tick_s = float(stream.time_base)
    end = int(pts[-1]) + last_length
    found_s = (max(p + n for p, n, *_ in rows) - min(p for p, *_ in rows)) * tick_s
    if found_s < promised_s - max(SHORT_S, 0.02 * promised_s):
        raise Reject("truncated", f"{found_s:.1f} s of {promised_s:.1f} s are there")
    context = stream.codec_context
    return TimestampIndex(pts, keys, tick_s, end, (context.height, context.width))


def _promised_s(container: InputContainer, stream: VideoStream) -> float:
    """Seconds of video that the header promises; 0 where it says nothing about the video."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and not container.streams.audio:
        return container.duration / av.time_base
    return 0.0


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its video stream; every decoder error becomes a `Reject`."""
    try:
        with av.open(str(path), "r") as container:
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise Reject("no_video_stream", f"{len(container.streams)} streams, none is video")
            # One thread: workers decode side by side, and a seek waits for no other frame.
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise Reject("undecodable", type(error).__name__) from error


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _advance(decoder: Iterator[VideoFrame], pts: int) -> VideoFrame | None:
    """The frame at `pts`, or None where the decoder is already behind it or ends before it."""
    for frame in decoder:
        if frame.pts is not None and frame.pts >= pts:
            return frame if frame.pts == pts else None
    return None


def _rgb(
    reformatter: VideoReformatter, frame: VideoFrame, size: tuple[int, int]
) -> NDArray[np.uint8]:
    height, width = size
    # One thread: on small pictures the threads' start costs ten times the work.
    rgb = reformatter.reformat(frame, width, height, "rgb24", threads=1)
    return np.asarray(rgb.to_ndarray(), np.uint8)
