"""The reference reader: PyAV, frame by frame at its exact presentation timestamp.

All packets are read once (without decoding) to list the timestamps that a player would show;
packets that an edit list discards are dropped. A frame is fetched by seeking to the key frame
before it and decoding until its timestamp comes up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from medvlp.archive.stage.answer import Alive
from medvlp.archive.verdict import Reject
from medvlp.digest import nothing
from medvlp_video.frames import FrameReader

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MOST_PIXELS = 2**26
MOST_FPS = 1000
MOST_BOXES = 10_000

_ORDERED = 48
"""Frames by whose order it is judged whether timestamps can be those of pictures."""

_OFTEN = 250
"""Packets that are read between two calls of `alive`."""

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
    """Rows and columns, as shown."""
    turns: int
    """Quarter turns against the clock that a player gives each frame."""

    begin: int
    """The first packet's decoding time: whoever seeks there has all before him."""

    cut_tail: bool = False
    """Whether the last frames that the file speaks of are not there."""


class TimestampReader(FrameReader):
    """Frames of one video file by exact timestamp (backend ``pyav``).

    Args:
        path: The video file.
        index: Its timestamps, where they are known.
        alive: Called whenever packets or frames have come in.

    Raises:
        Reject: ``empty``, ``no_index``, ``no_video_stream``, ``no_timestamps``, ``truncated``,
            ``bad_dims``, ``bad_rate`` or ``undecodable``.
    """

    def __init__(
        self, path: Path, index: TimestampIndex | None = None, alive: Alive = nothing
    ) -> None:
        self._path = path
        self._alive = alive
        self._index = index = index or timestamp_index(path, alive)
        times_s = (index.pts - index.pts[0]) * index.tick_s
        duration_s = float((index.end_pts - index.pts[0]) * index.tick_s)
        fps = len(index.pts) / duration_s
        super().__init__(times_s, size=index.size, fps=fps, duration_s=duration_s)
        self.cut_tail = index.cut_tail

    def decode(self, index_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(F,H,W,3) RGB frames by their place in `times`.

        Raises:
            Reject: ``bad_frame``: one of them does not decode cleanly; no other takes its place.
        """
        wanted_F = self._index.pts[index_F]
        found = {}
        # One for all frames: its set-up costs more than a small frame's conversion.
        reformatter = VideoReformatter()
        with opened(self._path) as (container, stream):
            for pts, frame in self._walk(container, stream, sorted(set(wanted_F.tolist()))):
                found[pts] = rgb(reformatter, frame, self._index.size, self._index.turns)
        return np.stack([found[pts] for pts in wanted_F.tolist()])

    def bad_frames(self) -> NDArray[np.int64]:
        """Places in `times` of the frames that do not decode cleanly; decodes the whole file."""
        with opened(self._path) as (container, stream):
            frames = decoded(container, stream, self._index.keys, self._alive)
            clean = {frame.pts for frame, sound in frames if sound}
        return np.array([i for i, pts in enumerate(self._index.pts.tolist()) if pts not in clean])

    def _walk(
        self, container: InputContainer, stream: VideoStream, wanted: list[int]
    ) -> Iterator[tuple[int, VideoFrame]]:
        keys = self._index.keys
        decoder: Iterator[tuple[VideoFrame, bool]] = iter(())
        position: int | None = None
        for pts in wanted:
            place = int(np.searchsorted(keys, pts, side="right")) - 1
            frame = None
            if position is not None and keys[max(place, 0)] <= position:
                frame = _advance(decoder, pts)
            behind = [int(keys[max(place - back, 0)]) for back in RETREATS]
            for target in (*behind, self._index.begin):
                if frame is not None:
                    break
                container.seek(target, stream=stream)
                decoder = decoded(container, stream, keys, self._alive)
                frame = _advance(decoder, pts)
            if frame is None:
                raise Reject("bad_frame", "a frame that the index lists does not decode")
            position = pts
            yield pts, frame


def timestamp_index(path: Path, alive: Alive = nothing) -> TimestampIndex:
    """The timestamps of one file, kept for the files read last.

    Raises:
        Reject: See `TimestampReader`.
    """
    stat = path.stat()
    if stat.st_size == 0:
        raise Reject("empty", "0 bytes")
    known = (path, stat.st_size, stat.st_mtime_ns)
    if known not in _INDEXES:
        if len(_INDEXES) >= _MOST_KEPT:
            del _INDEXES[next(iter(_INDEXES))]
        _INDEXES[known] = _indexed(path, alive)
    return _INDEXES[known]


_MOST_KEPT = 256
_INDEXES: dict[tuple[Path, int, int], TimestampIndex] = {}


def _indexed(path: Path, alive: Alive) -> TimestampIndex:
    with opened(path) as (container, stream):
        packets = []
        begin = None
        for packet in container.demux(stream):
            if packet.size:
                told = packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard
                packets.append(told)
                begin = packet.dts if begin is None else begin
            if len(packets) % _OFTEN == 0:
                alive()
        if any(pts is None for pts, *_ in packets):
            try:
                container.seek(0, stream=stream)
            except av.error.FFmpegError:
                # A stream without a container: nobody can go to a moment in it.
                raise Reject("no_timestamps", f"{len(packets)} packets, none has one") from None
            packets = []
            for frame in container.decode(stream):
                packets.append((frame.pts, frame.duration or 0, frame.key_frame, False))
                alive()
        shown = _shown(packets, stream, _promised_s(container, stream))
        _check_order(container, stream, packets, shown.keys)
        begin = shown.begin if begin is None else begin
        return replace(shown, begin=begin, **_turned(container, stream))


def _check_order(
    container: InputContainer,
    stream: VideoStream,
    packets: list[tuple[int | None, int, bool, bool]],
    keys: NDArray[np.int64],
) -> None:
    """See that timestamps are those of pictures and not of packets.

    AVI stores none: where a codec reorders pictures, they are counted in the wrong order.

    Raises:
        Reject: ``no_timestamps``.
    """
    given = [pts for pts, *_ in packets if pts is not None]
    if not stream.codec_context.has_b_frames or given != sorted(given):
        return
    container.seek(0, stream=stream)
    first = itertools.islice(decoded(container, stream, keys), _ORDERED)
    came = [frame.pts for frame, _ in first if frame.pts is not None]
    if came != sorted(came):
        raise Reject("no_timestamps", "pictures come in another order than their timestamps")


def _turned(container: InputContainer, stream: VideoStream) -> dict[str, Any]:
    """How frames are shown, as the first of them says: size and turns."""
    container.seek(0, stream=stream)
    first = next(container.decode(stream), None)
    turns = 0 if first is None else round(first.rotation / 90) % 4
    height, width = stream.codec_context.height, stream.codec_context.width
    return {"turns": turns, "size": (width, height) if turns % 2 else (height, width)}


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
    step = int(np.median(np.diff(pts)) if len(pts) > 1 else 1)
    last_length = shown[int(pts[-1])] or step
    tick_s = float(stream.time_base)
    end = int(pts[-1]) + last_length
    found_s = (max(p + n for p, n, *_ in rows) - min(p for p, *_ in rows)) * tick_s
    short_s = promised_s - found_s
    if short_s > max(SHORT_S, 0.02 * promised_s):
        raise Reject("truncated", f"{found_s:.1f} s of {promised_s:.1f} s are there")
    context = stream.codec_context
    if not 0 < context.height * context.width <= MOST_PIXELS:
        raise Reject("bad_dims", f"{context.width}x{context.height}")
    if len(pts) > MOST_FPS * max((end - int(pts[0])) * tick_s, 1.0):
        raise Reject("bad_rate", f"more than {MOST_FPS} frames a second")
    return TimestampIndex(
        pts=pts,
        keys=keys,
        tick_s=tick_s,
        end_pts=end,
        size=(context.height, context.width),
        turns=0,
        begin=int(keys[0]),
        cut_tail=short_s > 1.5 * step * tick_s,
    )


def _promised_s(container: InputContainer, stream: VideoStream) -> float:
    """Seconds of video that the header promises; 0 where it says nothing about the video."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and not container.streams.audio:
        return container.duration / av.time_base
    return 0.0


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its video stream; every decoder error becomes a `Reject`."""
    try:
        with av.open(str(path), "r") as container:
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise Reject("no_video_stream", f"{len(container.streams)} streams, none is video")
            context = streams[0].codec_context
            if context is None:
                raise Reject("undecodable", "no decoder for this stream")
            # One thread: workers decode side by side, and a seek waits for no other frame.
            context.thread_count = 1
            # Or else a damaged picture is patched up from its neighbours without a word.
            context.options = {"err_detect": "explode"}
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise Reject(_boxes(path) or "undecodable", type(error).__name__) from None


def _boxes(path: Path) -> str | None:
    """What is wrong with an MP4 or MOV file as a row of boxes (ISO/IEC 14496-12), if it is that."""
    size, place = path.stat().st_size, 0
    names: list[bytes] = []
    with path.open("rb") as file:
        while place + 8 <= size and len(names) < MOST_BOXES:
            file.seek(place)
            head = file.read(16).ljust(16, b"\0")
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:], "big") if length == 1 else length or size - place
            names.append(head[4:8])
            if names[0] != b"ftyp":
                return None
            if length < 8 or place + length > size:
                return "truncated"
            place += length
    return None if b"moov" in names or not names else "no_index"


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def decoded(
    container: InputContainer, stream: VideoStream, keys: NDArray[np.int64], alive: Alive = nothing
) -> Iterator[tuple[VideoFrame, bool]]:
    """Each frame that comes out, and whether it and what it leans on decoded without an error.

    After an error every frame up to the next key frame is doubtful, but for those that the
    decoder held back from before.
    """
    doubtful: tuple[float, float] | None = None
    for packet in container.demux(stream):
        alive()
        try:
            frames = stream.decode(packet)
        except av.error.InvalidDataError:
            doubtful = _doubt(packet.pts if packet.pts is not None else packet.dts, keys)
            continue
        for frame in frames:
            pts = -1 if frame.pts is None else frame.pts
            if frame.is_corrupt:
                doubtful = _doubt(pts, keys)
            yield frame, doubtful is None or not doubtful[0] <= pts < doubtful[1]


def _doubt(pts: int | None, keys: NDArray[np.int64]) -> tuple[float, float]:
    """From which timestamp, up to which, frames are doubtful after an error at `pts`."""
    if pts is None:
        return -math.inf, math.inf
    place = int(np.searchsorted(keys, pts, side="right"))
    start = float(keys[place - 1]) if place else -math.inf
    # The key frame itself came out well, unless it is the one that failed.
    return start + (start != pts), float(keys[place]) if place < len(keys) else math.inf


def _advance(decoder: Iterator[tuple[VideoFrame, bool]], pts: int) -> VideoFrame | None:
    """The sound frame at `pts`, or None where the decoder is behind it or does not bring it."""
    for frame, sound in decoder:
        if frame.pts is not None and frame.pts >= pts:
            return frame if frame.pts == pts and sound else None
    return None


def rgb(
    reformatter: VideoReformatter, frame: VideoFrame, size: tuple[int, int], turns: int
) -> NDArray[np.uint8]:
    """(H,W,3) of a frame as it is shown: `size` in rows and columns, after `turns`."""
    height, width = size[:: -1 if turns % 2 else 1]
    # One thread: on small pictures the threads' start costs ten times the work.
    picture = reformatter.reformat(frame, width, height, "rgb24", threads=1)
    return np.rot90(np.asarray(picture.to_ndarray(), np.uint8), turns)
