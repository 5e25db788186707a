"""`medvlp timeline`: a recording's ribbon, page, subtitles and table, whole or not at all."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from medvlp.archive.stage.child import Limits
from medvlp.archive.verdict import Reject
from medvlp.config import validate
from medvlp.data.prompts import load_prompts
from medvlp.evaluate.files import open_bundle
from medvlp.models.bundle import Bundle
from medvlp.outputs import whole_folder
from medvlp.progress import progress_bar
from medvlp.report.page import clock as shown_time
from medvlp_video.timeline.apart import ApartReader
from medvlp_video.timeline.asked import Asked, find_recording, unreadable
from medvlp_video.timeline.blank import load_rule
from medvlp_video.timeline.live import Clock, Newest, WallClock
from medvlp_video.timeline.result import Result
from medvlp_video.timeline.rows import RowFile
from medvlp_video.timeline.stream import Moment, PhaseStream, StreamConfig
from medvlp_video.timeline.track import Track
from medvlp_video.timeline.truth import judged
from medvlp_video.timeline.write import write_all

LIMITS = Limits(time_s=30)
"""Silence after which the process that reads is killed, and the memory that it may take."""

_LATELY = 100
"""Moments over which the progress line takes its figures."""


def write_timeline(
    asked: Asked, console: Console, *, clock: Clock | None = None, limits: Limits = LIMITS
) -> Result:
    """Watch a recording and write its timeline into a new folder.

    Args:
        asked: What is asked for.
        console: Takes the summary.
        clock: Of ``live``; the machine's by default.
        limits: Of the process that reads.

    Raises:
        InputError: The folder exists, the recording or the bundle cannot be used, or not one
            frame can be read.
        ConfigError: The prompt file, an option or the truth is wrong.
        BundleError: The bundle is damaged.
    """
    with whole_folder(asked.out) as folder:
        prompts = load_prompts(asked.prompts)
        recording, truth = find_recording(asked, prompts.names)
        rule = load_rule(asked.blank)
        bundle = open_bundle(asked.bundle)
        config = _config(asked, bundle)
        stream = PhaseStream(bundle, prompts, config, rule)
        watch = Watch(stream, Track(prompts.names, pictures=asked.pictures))
        try:
            reader = ApartReader(
                recording.paths, reader=recording.reader, rate=asked.rate, limits=limits
            )
        except Reject as verdict:
            raise unreadable(verdict) from None
        with reader, RowFile(folder, prompts.names) as rows:
            watch.all_of(reader, clock or WallClock() if asked.live else None, rows.add)
        if not (watch.track.among("seen") | watch.track.among("blanked")).any():
            raise unreadable(Reject(watch.ended or "undecodable"))
        result = Result(
            asked=asked,
            recording=recording,
            config=config,
            bundle=bundle.digest,
            prompts=prompts.digest,
            track=watch.track,
            truth=truth,
            metrics={} if truth is None else judged(watch.track, truth),
            size=reader.size,
            frames=reader.frames,
            duration_s=reader.duration_s,
            ended=watch.ended or ("truncated" if reader.truncated else ""),
            took_s=watch.took_s,
            lag_s=np.array(watch.lag_s),
            dropped=watch.dropped,
            rule_failed=stream.gate.failed,
        )
        write_all(folder, result)
    _summarise(console, result)
    return result


def _config(asked: Asked, bundle: Bundle) -> StreamConfig:
    frames = getattr(bundle.preprocess.config, "frames", 1)
    checked: StreamConfig = validate(
        StreamConfig,
        {
            "window_s": frames / asked.rate if asked.window_s is None else asked.window_s,
            "smooth": asked.smooth,
            "dwell_s": asked.dwell_s,
            "least_s": asked.least_s,
        },
        "timeline",
    )
    return checked


class Watch:
    """One recording from its first moment to its last, or to where it can be read no further."""

    def __init__(self, stream: PhaseStream, track: Track) -> None:
        self.track = track
        self.ended = ""
        """Code of what ended it early."""
        self.took_s = 0.0
        """From the first frame asked for to the last moment told."""
        self.dropped = 0
        self.lag_s = array("f")
        """Live: from a frame's moment to the moment's phase being told."""
        self._stream = stream

    def all_of(
        self,
        reader: ApartReader,
        clock: Clock | None,
        note: Callable[[Moment], None],
    ) -> None:
        """Watch it, with a line of progress.

        Args:
            reader: The recording.
            clock: For the recording's own pace; None to go as fast as can be.
            note: Takes each moment.
        """
        pace = None if clock is None else Newest(reader.times, clock)
        frames = reader.stream(reader.times if pace is None else pace, ahead=int(pace is None))
        start = time.perf_counter()
        with progress_bar() as bar:
            task = bar.add_task("watching", total=len(reader.times))
            try:
                for time_s, frame_HWC in frames:
                    moment = self._one(time_s, frame_HWC)
                    note(moment)
                    if pace is not None:
                        self.lag_s.append(pace.lag_s(time_s))
                        self.dropped = pace.dropped
                    done = len(self.track) + self.dropped
                    bar.update(task, completed=done, description=self._lately(moment, start))
            except Reject as verdict:
                self.ended = verdict.code
        self.took_s = time.perf_counter() - start

    def _one(self, time_s: float, frame_HWC: NDArray[np.uint8] | None) -> Moment:
        began = time.perf_counter()
        moment = self._stream.push(frame_HWC, time_s)
        self.track.add(moment, frame_HWC, time.perf_counter() - began)
        return moment

    def _lately(self, moment: Moment, start: float) -> str:
        name = "–" if moment.smoothed is None else self._stream.names[moment.smoothed]
        name = escape(name[:28]) if moment.state == "seen" else moment.state
        slow_ms = 1000 * float(np.percentile(self.track.last_took_s(_LATELY), 95))
        rate = len(self.track) / (time.perf_counter() - start)
        return f"{shown_time(moment.time_s)} {name} {rate:.1f} fps, p95 {slow_ms:.0f} ms"


def _summarise(console: Console, result: Result) -> None:
    counts = result.track.counts()
    latency = result.latency_ms()
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    console.print(
        f"{len(result.track)} moments ({told}), {result.moments_per_s:.1f} fps, latency "
        f"p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms",
        highlight=False,
    )
    if result.asked.live:
        console.print(f"live: {result.dropped} frames dropped for newer ones", highlight=False)
    for line in result.warnings():
        console.print(line, highlight=False, markup=False)
    for word, row in result.metrics.items():
        shown = ", ".join(
            f"{name} {value:.3f}"
            for name, value in row.items()
            if value is not None and name != "moments"
        )
        console.print(f"{word}: {shown} (one recording, {row['moments']} moments)", highlight=False)
    console.print(
        f"Timeline: {Path(result.asked.out) / 'timeline.html'}", soft_wrap=True, markup=False
    )
