"""Sparse frames of a recording: ours, on it and on its proxy, beside decord, PyAV and torchcodec.

    python benchmarks/bench_video_reading.py [--minutes 2] [--rounds 3] [--peers FOLDER]
        [--out FILE]

A recording of 960 by 540 pixels is made: H.264, 25 frames a second, a key frame every 250, some
seconds of a moving texture encoded and copied end to end. Two requests are timed: a clip (16 frames
over 8 seconds) and the whole (64 frames from first to last). Every side opens the file, gives RGB
arrays, and has one thread. In each round all sides get the same request, another one begins each
time, and ratios are of the same round. What the sides give is compared with our frames of the
recording. FOLDER holds peers that are installed apart (`pip install --no-deps --target FOLDER
torchcodec`); without it, or where it does not load, torchcodec is left out and the page says so. It
needs the shared libraries of an FFmpeg: where the system has none, LD_LIBRARY_PATH may name PyAV's
(site-packages/av.libs) and a folder of links to them by their usual names (libavcodec.so.62, ...).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from page import command, commit, publish, spread

from medvlp.digest import digest_file
from medvlp_video.proxy import ProxyReader, read_note
from medvlp_video.proxy_make import FilmProxyConfig, make
from medvlp_video.timestamps import TimestampReader, timestamp_index

HEIGHT, WIDTH, FPS, GROUP = 540, 960, 25, 250
CLIP_S, CLIP_FRAMES, WHOLE_FRAMES = 8.0, 16, 64
NEAR_S = 5.0
"""Plain PyAV decodes on to the next moment if it is this near, and seeks if not."""

Frames = NDArray[np.uint8]
Read = Callable[[NDArray[np.float64]], Frames]


@dataclass
class Side:
    name: str
    read: Read
    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    gap: float = 0.0
    """Largest mean difference of a frame from ours, in grey levels."""


def texture() -> NDArray[np.uint8]:
    """Planes of brightness, larger than the picture: soft shapes, edges and grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: HEIGHT + 256, : WIDTH + 256] / 100.0
    soft = sum(np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-3, 3, (8, 3)))
    hard = np.sign(np.sin(3 * x + np.sin(2 * y))) * 12
    grain = rng.normal(0, 4, soft.shape)
    return np.clip(115 + 22 * soft + hard + grain, 16, 235).astype(np.uint8)


def write_recording(path: Path, minutes: float) -> None:
    """One group of pictures, encoded once, and copied as often as it takes."""
    canvas = texture()
    rng = np.random.default_rng(1)
    colour = np.full((HEIGHT // 2, WIDTH), 128, np.uint8)
    once = path.with_suffix(".group.mp4")
    with av.open(str(once), "w") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {
            "preset": "veryfast", "g": str(GROUP), "sc_threshold": "0", "bf": "2", "crf": "23",
            "keyint_min": str(GROUP), "x264-params": "open-gop=0",
        }  # fmt: skip
        for k in range(GROUP):
            dy, dx = (int(128 + 120 * np.sin(k * w)) for w in (0.031, 0.047))
            bright = canvas[dy : dy + HEIGHT, dx : dx + WIDTH].copy()
            bright[200:300, 300:500] = rng.integers(60, 200, (100, 200), np.uint8) // 4 * 4
            planes = np.concatenate([bright, colour])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(planes, "yuv420p")))
        out.mux(stream.encode(None))
    with av.open(str(path), "w") as out:
        target, first = None, 0
        for _ in range(round(minutes * 60 * FPS / GROUP)):
            with av.open(str(once)) as read:
                source = read.streams.video[0]
                target = target or out.add_stream_from_template(source)
                length = round(GROUP / FPS / source.time_base)
                for packet in read.demux(source):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + first, packet.dts + first
                        packet.stream = target
                        out.mux(packet)
                first += length
    once.unlink()


def plain_pyav(path: Path) -> Read:
    """What one writes who knows PyAV: seek, decode until the timestamp comes up."""

    def read(times_s: NDArray[np.float64]) -> Frames:
        frames: list[Any] = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            before_s, decoder = -np.inf, iter(())
            for time_s in times_s.tolist():
                ticks = int(time_s / stream.time_base)
                if time_s - before_s > NEAR_S:
                    container.seek(ticks, stream=stream)
                    decoder = container.decode(stream)
                for frame in decoder:
                    if frame.pts + frame.duration > ticks:
                        break
                frames.append(frame.to_ndarray(format="rgb24"))
                before_s = time_s
        return np.stack(frames)

    return read


def bare_decord(path: Path) -> Read:
    import decord

    def read(times_s: NDArray[np.float64]) -> Frames:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        index = np.floor(times_s * reader.get_avg_fps() + 1e-6).astype(int)
        frames: Frames = reader.get_batch(index.tolist()).asnumpy()
        return frames

    return read


def torchcodec(path: Path, seek_mode: str) -> Read:
    from torchcodec.decoders import VideoDecoder

    def read(times_s: NDArray[np.float64]) -> Frames:
        decoder = VideoDecoder(
            str(path), seek_mode=seek_mode, num_ffmpeg_threads=1, dimension_order="NHWC"
        )
        frames: Frames = decoder.get_frames_played_at(times_s.tolist()).data.numpy()
        return frames

    return read


def sides_of(path: Path, proxy: Path) -> tuple[list[Side], list[str]]:
    """All that load, ours first; and what is to be said of those that do not."""
    sides = [
        Side("ours, recording", lambda t: TimestampReader(path).frames_at(t)),
        Side("ours, proxy", lambda t: ProxyReader(proxy).frames_at(t)),
        Side("PyAV, plain", plain_pyav(path)),
    ]
    lost = []
    for name, load in (
        ("decord", lambda: bare_decord(path)),
        ("torchcodec, exact", lambda: torchcodec(path, "exact")),
        ("torchcodec, approximate", lambda: torchcodec(path, "approximate")),
    ):
        try:
            sides.append(Side(name, load()))
        except (ImportError, RuntimeError, OSError) as error:
            lost.append(f"{name}: not here ({type(error).__name__})")
    return sides, lost


def requests(duration_s: float, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    # Half a frame behind its time, so that no rounding decides which frame is shown.
    start_s = round(float(rng.uniform(0, duration_s - CLIP_S)) * FPS) / FPS + 0.5 / FPS
    clip = start_s + np.arange(CLIP_FRAMES) * CLIP_S / CLIP_FRAMES
    step_s = np.floor(duration_s / WHOLE_FRAMES * FPS) / FPS
    whole = (np.arange(WHOLE_FRAMES) + 0.5) * step_s
    return {"clip": clip, "whole": np.floor(whole * FPS) / FPS + 0.5 / FPS}


def measure(sides: Sequence[Side], duration_s: float, rounds: int) -> None:
    for side in sides:  # what is loaded or kept at the first use is no part of a request
        side.read(np.array([0.5 / FPS]))
    for k in range(rounds):
        for name, times_s in requests(duration_s, np.random.default_rng(k)).items():
            given: dict[str, Frames] = {}
            for place in range(len(sides)):
                side = sides[(place + k) % len(sides)]
                wall, cpu = time.perf_counter(), time.process_time()
                frames = side.read(times_s)
                side.cpu.setdefault(name, []).append(time.process_time() - cpu)
                side.wall.setdefault(name, []).append(time.perf_counter() - wall)
                given[side.name] = frames
            for side in sides:
                if (frames := given[side.name]).shape == given["ours, recording"].shape:
                    gap = np.abs(frames.astype(np.int16) - given["ours, recording"])
                    side.gap = max(side.gap, float(gap.mean(axis=(1, 2, 3)).max()))


def opening(path: Path, proxy: Path, rounds: int) -> list[str]:
    """What a process spends once on each file before the first request."""
    from medvlp_video import proxy as proxies
    from medvlp_video import timestamps

    def index() -> None:
        timestamps._INDEXES.clear()
        timestamp_index(path)

    def note() -> None:
        proxies._parsed.cache_clear()
        ProxyReader(proxy)

    return [
        f"{name} {spread([1000 * seconds(run) for _ in range(rounds)], 0)} ms"
        for name, run in (("all timestamps of the recording", index), ("a proxy's note", note))
    ]


def seconds(run: Callable[[], object]) -> float:
    since = time.perf_counter()
    run()
    return time.perf_counter() - since


def rows(sides: Sequence[Side], name: str) -> list[str]:
    base = sides[0]
    return [
        "| {} | {} | {} | {} | {} |".format(
            side.name,
            spread([1000 * s for s in side.wall[name]], 0),
            spread([a / b for a, b in zip(side.wall[name], base.wall[name], strict=True)]),
            spread([a / b for a, b in zip(side.cpu[name], base.cpu[name], strict=True)]),
            "–" if side.name == "ours, proxy" else f"{side.gap:.2f}",
        )
        for side in sides
    ]


def versions(sides: Sequence[Side]) -> str:
    found = [f"PyAV {av.__version__}"]
    for name in ("decord", "torchcodec"):
        if any(side.name.startswith(name) for side in sides):
            found.append(f"{name} {sys.modules[name].__version__}")
    return ", ".join(found)


def page(a: argparse.Namespace, folder: Path) -> str:
    path = folder / "recording.mp4"
    write_recording(path, a.minutes)
    proxy = folder / f"{digest_file(path)}-{'0' * 32}.proxy"
    settings = vars(FilmProxyConfig())
    cpu = time.process_time()
    took = seconds(lambda: make((path,), target=proxy, alive=lambda: None, **settings))
    cpu = time.process_time() - cpu
    note = read_note(proxy)
    assert note is not None
    reader = TimestampReader(path)
    sides, lost = sides_of(path, proxy)
    measure(sides, reader.duration_s, a.rounds)
    first = opening(path, proxy, a.rounds)
    size, small = (file.stat().st_size / 1e6 for file in (path, proxy))
    frames = len(reader.times)
    ratio = {
        name: statistics.median(
            b / p for b, p in zip(sides[0].wall[name], sides[1].wall[name], strict=True)
        )
        for name in ("clip", "whole")
    }
    head = [
        "| reader | ms | times ours on the recording | in CPU time | grey levels from ours |",
        "|---|---|---|---|---|",
    ]
    lines = [
        f"# Sparse frames of a recording, {date.today()}",
        "",
        f"`{command()}`, {versions(sides)}, one thread a reader, {os.cpu_count()} cores, load "
        f"{a.load:.1f} before and {os.getloadavg()[0]:.1f} after, {a.rounds} rounds, median (least "
        f"to greatest), on top of commit {commit()}.",
        "",
        f"{a.minutes:g} minutes of {WIDTH}×{HEIGHT}, H.264, {frames:,} frames, a key frame every "
        f"{GROUP}, {size:.0f} MB. Its proxy: {note.size[1]}×{note.size[0]}, a key frame every "
        f"{settings['key_every']}, {small:.0f} MB, made in {took:.0f} s ({cpu:.0f} s of CPU time, "
        f"{frames / cpu:.0f} frames a second of it), at least {note.psnr_db:.1f} dB; the same "
        f"{frames:,} times.",
        "",
        f"## Clip: {CLIP_FRAMES} frames over {CLIP_S:g} seconds",
        "",
        *head,
        *rows(sides, "clip"),
        "",
        f"## Whole: {WHOLE_FRAMES} frames from first to last",
        "",
        *head,
        *rows(sides, "whole"),
        "",
        f"A proxy gives a clip {ratio['clip']:.1f} times and the whole {ratio['whole']:.1f} times "
        "as fast as the recording. Once a process and file: " + ", ".join(first) + ".",
        "",
        *lost,
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.load = os.getloadavg()[0]
    if arguments.peers is not None:
        sys.path.append(str(arguments.peers))
    with tempfile.TemporaryDirectory() as folder:
        publish(page(arguments, Path(folder)), arguments.out)


if __name__ == "__main__":
    main()
