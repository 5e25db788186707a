"""Videos: cut, without index, without pictures, with bad frames, odd clocks and turned pictures."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from catalogue.case import Array, Case

COUNT, HEIGHT, WIDTH = 60, 32, 48
EVEN = tuple(40 * k for k in range(COUNT))


@cache
def video(times_ms: Sequence[int] = EVEN, form: str = "mp4", group: int = 6) -> bytes:
    """Noise that moves; milliseconds as timestamps."""
    out = io.BytesIO()
    rng = np.random.default_rng(1)
    still = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    with av.open(out, "w", format=form) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"g": str(group), "bf": "2"}
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.roll(still, number, axis=1), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def sound() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 16000
        file.mux(stream.encode(samples))
        file.mux(stream.encode(None))
    return out.getvalue()


def without_index() -> bytes:
    return video()[: video().index(b"moov") - 4]


def holed(start: float, count: int, frames: int) -> bytes:
    """A run of zeros, as lost sectors of a disk leave it."""
    data = bytearray(video(tuple(range(0, 40 * frames, 40))))
    begin = data.index(b"mdat") + 4
    place = begin + int((data.index(b"moov") - begin) * start)
    data[place : place + count] = bytes(count)
    return bytes(data)


def bytes_turned(start: float, count: int, group: int = 6) -> bytes:
    data = bytearray(video(group=group))
    begin = data.index(b"mdat") + 4
    place = begin + int((data.index(b"moov") - begin) * start)
    data[place : place + count] = bytes(b ^ 0xFF for b in data[place : place + count])
    return bytes(data)


def turned() -> bytes:
    """The track's matrix says: a quarter turn with the clock."""
    data = bytearray(video())
    place = data.index(b"tkhd") + 44
    numbers = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[place : place + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in numbers)
    return bytes(data)


@cache
def fast_start() -> bytes:
    """With the index before the pictures, as cameras' files have it when their end is lost."""
    place = video(tuple(range(0, 9600, 40)))
    with av.open(io.BytesIO(place)) as read, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mp4")
        with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
            copied(read, file)
        return path.read_bytes()


@cache
def open_groups() -> bytes:
    """Pictures that lean on those before a key frame."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}
        rng = np.random.default_rng(1)
        still = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        for number in range(COUNT):
            picture = np.roll(still, number, axis=1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))
    return out.getvalue()


@cache
def cut_copy() -> bytes:
    """Copied from a key frame on; an edit list hides what lies before the cut."""
    out = io.BytesIO()
    with av.open(io.BytesIO(video(group=12))) as read, av.open(out, "w", format="mp4") as file:
        begin = int(1.1 / read.streams.video[0].time_base)
        read.seek(begin, stream=read.streams.video[0])
        copied(read, file, begin)
    return out.getvalue()


def copied(read: Any, file: Any, begin: int = 0) -> None:
    stream = file.add_stream_from_template(read.streams.video[0])
    for packet in read.demux(video=0):
        if packet.dts is not None:
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, stream
            file.mux(packet)


def promising(*places: tuple[bytes, int, int], data: bytes | None = None) -> bytes:
    """Numbers of a file three times as high: (box, bytes after its name, width)."""
    changed = bytearray(data or video())
    for box, after, width in places:
        order: Any = "little" if data else "big"
        place = changed.index(box) + 4 + after
        number = int.from_bytes(changed[place : place + width], order)
        changed[place : place + width] = (3 * number).to_bytes(width, order)
    return bytes(changed)


@cache
def avi(codec: str) -> bytes:
    """In AVI, which stores no timestamps, with pictures that are stored in another order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.avi")
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.options = {"bf": "2", "g": "12"}
            still = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            for number in range(COUNT):
                picture = np.roll(still, number, axis=1)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            file.mux(stream.encode(None))
        return path.read_bytes()


def shown(paths: Sequence[Path]) -> Array:
    from medvlp_video.read import open_reader

    reader = open_reader(paths)
    return reader.decode(np.array([0])).astype(np.float32)


def case(
    number: int, name: str, expected: str, data: Callable[[], bytes], suffix: str = "mp4"
) -> Case:
    file = f"{name}.{suffix}"

    def write(folder: Path) -> list[Path]:
        (folder / file).write_bytes(data())
        return [folder / file]

    return Case(
        number=number,
        name=f"video-{name}",
        archive="video",
        write=write,
        expected=expected,
        read=shown,
    )


CASES = (
    case(0, "sound", "ACCEPT", video),
    case(0, "matroska", "ACCEPT", lambda: video(form="matroska"), "mkv"),
    case(0, "one-frame", "ACCEPT", lambda: video(times_ms=(0,))),
    case(0, "mkv-named-mp4", "ACCEPT", lambda: video(form="matroska", times_ms=EVEN[:40])),
    case(0, "turned", "ACCEPT", turned),
    case(74, "variable-rate", "FLAG:variable_rate",
         lambda: video(times_ms=tuple(k * 40 + 300 * (k > 20) for k in range(COUNT)))),
    case(73, "bad-frames", "FLAG:bad_frames", lambda: holed(0.6, 600, frames=240)),
    case(73, "mostly-bad", "REJECT:undecodable", lambda: bytes_turned(0.3, 40, group=60)),
    case(72, "without-moov", "REJECT:no_index", without_index),
    case(72, "cut-in-group", "REJECT:truncated", lambda: video()[: len(video()) // 2]),
    case(72, "cut-matroska", "REJECT:truncated",
         lambda: video(form="matroska")[: len(video(form="matroska")) // 3], "mkv"),
    case(72, "empty", "REJECT:empty", lambda: b""),
    case(72, "text", "REJECT:undecodable", lambda: b"Dear colleague, \n" * 40),
    case(72, "html", "REJECT:undecodable", lambda: b"<!DOCTYPE html><html></html>" * 9),
    case(72, "sound-only", "REJECT:no_video_stream", sound),
    case(72, "tail-cut", "FLAG:bad_frames+cut_tail",
         lambda: fast_start()[: len(fast_start()) * 99 // 100]),
    case(72, "half-there", "REJECT:truncated", lambda: fast_start()[: len(fast_start()) // 2]),
    case(0, "open-groups", "ACCEPT", open_groups),
    case(0, "cut-copy", "ACCEPT", cut_copy),
    case(0, "header-too-long", "ACCEPT",
         lambda: promising((b"mvhd", 16, 4), (b"tkhd", 20, 4), (b"mdhd", 16, 4), (b"stts", 8, 4))),
    case(72, "more-samples-than-there-are", "REJECT:undecodable",
         lambda: promising((b"stsz", 8, 4))),
    case(72, "avi-too-long", "REJECT:truncated",
         lambda: promising((b"avih", 20, 4), (b"strh", 36, 4), data=avi("mpeg4")), "avi"),
    case(0, "avi-in-order", "ACCEPT", lambda: avi("mpeg4"), "avi"),
    case(74, "avi-out-of-order", "REJECT:no_timestamps", lambda: avi("libx264"), "avi"),
    case(74, "no-timestamps", "REJECT:no_timestamps", lambda: video(form="h264")),
)  # fmt: skip
