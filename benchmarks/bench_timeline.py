"""The streaming timeline: frames a second, latency, and memory over a long recording.

    python benchmarks/bench_timeline.py [--seconds 240] [--rounds 3] [--threads 2] [--out FILE]

A ResNet-50 on every frame of 224 pixels (untrained: speed does not depend on the weights), seven
phases, one frame a second. The long file is made up: tiny differences between frames, one key
frame in 250. `each frame once` is what the command does with a tower that takes the mean over
frames; `whole clip again` encodes the window of 8 frames for each new one, as a sliding window
does. Both are timed in turn over the same frames; ratios are of the same round. Then the whole
recording is watched, reading process included, with both processes' resident memory noted every
minute; `--seconds 7200` is an operation of two hours. Real operations follow where they are present
(MEDVLP_SHARED or ../shared): clips of 854x480 at 25 frames a second, three of them from their
proxies, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from page import command, commit, publish, spread

from medvlp import load
from medvlp.config import plain
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.data.proxies import Proxies
from medvlp.data.proxy_files import ProxyConfig
from medvlp.data.tokenizer import train_tokenizer
from medvlp.digest import digest_file
from medvlp.models.bundle import Bundle, save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_video.preprocess import ClipPreprocessConfig
from medvlp_video.proxy_make import FilmProxyConfig, make
from medvlp_video.timeline.apart import ApartReader
from medvlp_video.timeline.clips import Clips, MeanClips, WholeClips
from medvlp_video.timeline.run import LIMITS, Watch
from medvlp_video.timeline.stream import Moment, PhaseStream, StreamConfig
from medvlp_video.timeline.track import Track

SIDE = 224
WINDOW = 8
GOAL_FPS = 8
PROXIES_OF = 3
"""Real films that are read from their proxies, too: to make one takes longer than to watch it."""
PHASES = (
    "preparation", "calot triangle dissection", "clipping and cutting", "gallbladder dissection",
    "gallbladder packaging", "cleaning and coagulation", "gallbladder extraction",
)  # fmt: skip
RESNET_50 = ResNet2dConfig(
    depths=(3, 4, 6, 3), widths=(256, 512, 1024, 2048), block="bottleneck", stem=64
)


def make_bundle(folder: Path) -> Bundle:
    torch.manual_seed(0)
    contract = ClipPreprocessConfig(frames=WINDOW, size=SIDE)
    image = FrameEncoderConfig(frame=RESNET_50)
    text = TextTowerConfig(width=64, depth=1, heads=2, max_tokens=32)
    tokenizer = train_tokenizer([f"This is the {phase}." for phase in PHASES] * 4, 300)
    towers = image.build(3), text.build(len(tokenizer), tokenizer.pad_token_id)
    save_bundle(
        folder,
        model=TwoTower(TwoTowerConfig(embed=512), *towers),
        domain="video",
        preprocess=contract,
        image=image,
        text=text,
        tokenizer=tokenizer,
    )
    return load(folder)


def prompts() -> PromptSet:
    labels = {phase: Prompts(positive=(f"This is the {phase}.",)) for phase in PHASES}
    return PromptSet(mode="exclusive", labels=labels)


def frames(count: int) -> Iterator[np.ndarray]:
    """Slowly moving tissue-coloured noise."""
    rng = np.random.default_rng(0)
    wide = rng.integers(60, 200, (SIDE // 8, SIDE // 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for i in range(count):
        place = (i // 4) % SIDE
        yield wide[:, place : place + SIDE]


def write_long(path: Path, seconds: int) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=1)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "250", "threads": "1"}
        for i, picture in enumerate(frames(seconds)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 1)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def timed(clips: Clips, stored: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds a frame once the window is full, and the clips' vectors from there on."""
    for i, frame in enumerate(stored[:WINDOW]):
        clips.add(frame, float(i))
        clips.embedding(float(i))
    start, found = time.perf_counter(), []
    for i, frame in enumerate(stored[WINDOW:], WINDOW):
        clips.add(frame, float(i))
        found.append(clips.embedding(float(i)))
    return (time.perf_counter() - start) / len(found), np.stack(found)


def compared(bundle: Bundle, rounds: int, count: int) -> list[str]:
    stored = [bundle.preprocess.fitted(np.ascontiguousarray(f)[None])[0] for f in frames(count)]
    once, again, gap = [], [], 0.0
    for _ in range(rounds):
        again_s, again_NE = timed(WholeClips(bundle, WINDOW), stored)
        once_s, once_NE = timed(MeanClips(bundle, WINDOW), stored)
        again.append(again_s)
        once.append(once_s)
        gap = max(gap, float(np.abs(once_NE - again_NE).max()))
    ratio = [b / a for a, b in zip(once, again, strict=True)]
    return [
        "| form | ms a frame | times as fast, same round |",
        "|---|---|---|",
        f"| whole clip again | {spread([1000 * s for s in again], 0)} | 1 |",
        f"| each frame once | {spread([1000 * s for s in once], 0)} | {spread(ratio)} |",
        "",
        f"Largest difference of a vector's element: {gap:.1e}. {rounds} rounds of "
        f"{count - WINDOW} frames, median (least to greatest).",
    ]


def resident_mb(process: int | str = "self") -> float:
    pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watched(bundle: Bundle, paths: tuple[Path, ...], reader: str) -> dict[str, float]:
    """One recording through reading process and stream, as the command does."""
    names = prompts()
    stream = PhaseStream(bundle, names, StreamConfig(window_s=WINDOW))
    watch = Watch(stream, Track(names.names, pictures=True))
    memory: list[tuple[float, float]] = []
    with ApartReader(paths, reader=reader, rate=1.0, limits=LIMITS) as apart:

        def note(_: Moment) -> None:
            if len(watch.track) % 60 == 0:
                memory.append((resident_mb(), resident_mb(apart.process.pid)))

        watch.all_of(apart, None, note)
    took_ms = 1000 * watch.track.took_s
    # The first minute fills caches and the allocator's pools.
    own, child = zip(*(memory[1:] or memory or [(np.nan, np.nan)]), strict=True)
    return {
        "video_s": apart.duration_s,
        "moments": len(watch.track),
        "fps": len(watch.track) / watch.took_s,
        "p50_ms": float(np.percentile(took_ms, 50)),
        "p95_ms": float(np.percentile(took_ms, 95)),
        "own_first_mb": own[0],
        "own_last_mb": own[-1],
        "own_most_mb": max(own),
        "child_first_mb": child[0],
        "child_last_mb": child[-1],
    }


def real(shared: Path, proxies: Path) -> list[tuple[str, tuple[Path, ...], str]]:
    """Name, files and reader of each; proxies are made in the folder `proxies`."""
    data = shared / "data"
    folder = data / "surg-cholect50" / "videos" / "VID73"
    found: list[tuple[str, tuple[Path, ...], str]] = []
    if folder.is_dir():
        found.append(("CholecT50 VID73, frames", (folder,), "frames"))
    films = sorted((data / "surg-cctpg-mp4").rglob("*.mp4"))
    films = [path for path in films if path.stat().st_size > 10_000]
    for i, path in enumerate(films, 1):
        found.append((f"CCTPG clip {i}", (path,), "pyav"))
        if i <= PROXIES_OF:
            found.append((f"its proxy, {i}", (proxy_of(path, proxies),), "pyav"))
    return found


def proxy_of(path: Path, folder: Path) -> Path:
    """The proxy of a film, with the default settings."""
    target = Proxies("video", ProxyConfig(folder=folder)).path(digest_file(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    make((path,), target=target, alive=lambda: None, **plain(FilmProxyConfig()))
    return target


def report(a: argparse.Namespace, folder: Path) -> str:
    bundle = make_bundle(folder / "bundle")
    table = compared(bundle, a.rounds, WINDOW + a.frames)
    write_long(folder / "long.mp4", a.seconds)
    recordings = [
        (f"made up, {a.seconds} s", (folder / "long.mp4",), "pyav"),
        *real(a.shared, folder / "proxies"),
    ]
    rows, long = [], {}
    for name, paths, reader in recordings:
        r = watched(bundle, paths, reader)
        long = long or r
        rows.append(
            f"| {name} | {r['video_s']:.0f} | {r['moments']:.0f} | {r['fps']:.1f} | "
            f"{r['p50_ms']:.0f} | {r['p95_ms']:.0f} |"
        )
    grown = long["own_last_mb"] - long["own_first_mb"]
    lines = [
        f"# The streaming timeline, {date.today()}",
        "",
        f"`{command()}`, {platform.machine()}, cpu, {a.threads} thread(s), "
        f"torch {torch.__version__}, on top of commit {commit()}",
        "",
        f"ResNet-50, {SIDE} pixels, window of {WINDOW} frames, float32, one frame a second.",
        "",
        *table,
        "",
        "Whole recordings, the reading process at work on the next frame meanwhile:",
        "",
        "| recording | s | frames | frames a second | latency p50 ms | p95 ms |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Goal: {GOAL_FPS} frames a second on the made-up recording: "
        f"{'met' if long['fps'] >= GOAL_FPS else 'missed'}. Latency is from having a frame to "
        "having told its phase.",
        "",
        f"Resident memory over the made-up recording, from its second minute to its end: this "
        f"process {long['own_first_mb']:.0f} MiB to {long['own_last_mb']:.0f} MiB "
        f"({grown:+.1f}, most {long['own_most_mb']:.0f}), reading process "
        f"{long['child_first_mb']:.0f} MiB to {long['child_last_mb']:.0f} MiB.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("seconds", 240), ("rounds", 3), ("frames", 30), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    beside = Path(__file__).resolve().parents[2] / "shared"
    default = Path(os.environ.get("MEDVLP_SHARED", beside))
    parser.add_argument("--shared", type=Path, default=default)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        page = report(arguments, Path(folder))
    publish(page, arguments.out)


if __name__ == "__main__":
    main()
