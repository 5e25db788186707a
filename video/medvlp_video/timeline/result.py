"""A timeline that is done, and the figures that are told of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.config import plain
from medvlp_video.timeline.asked import Asked, Recording
from medvlp_video.timeline.stream import StreamConfig
from medvlp_video.timeline.track import Segment, Track
from medvlp_video.timeline.truth import Truth

FORMAT = 1
POLICY = "presentation time: at tick k/rate the last frame that appeared by then, each frame once"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was watched, how, and what came of it."""

    asked: Asked
    recording: Recording
    config: StreamConfig
    bundle: str
    """Digest."""

    prompts: str
    """Digest."""

    track: Track
    truth: Truth | None
    metrics: Mapping[str, Mapping[str, float | int | None]]
    size: tuple[int, int]
    frames: int
    """Frames of the recording, looked at or not."""

    duration_s: float
    ended: str
    """Code of what ended it before its end; empty if nothing did."""

    took_s: float
    lag_s: NDArray[np.float32]
    dropped: int
    rule_failed: int
    """Frames that were blanked because the rule said nothing of them."""

    @property
    def end_s(self) -> float:
        """Where the timeline ends: with the recording, or after the last good frame."""
        good_s = self.track.times_s[~self.track.among("damaged")]
        if not self.ended or not len(good_s):
            return self.duration_s
        return min(self.duration_s, float(good_s[-1]) + 1 / self.asked.rate)

    @property
    def moments_per_s(self) -> float:
        """Moments told in a second of work, reading included."""
        return len(self.track) / max(self.took_s, 1e-9)

    def segments(self) -> list[Segment]:
        """The segments up to `end_s`."""
        return self.track.segments(self.end_s)

    def latency_ms(self) -> dict[str, float]:
        """From having a frame to having told its phase."""
        return percentiles_ms(self.track.took_s)

    def warnings(self) -> list[str]:
        """What has to be known before the timeline is used."""
        counts = self.track.counts()
        lines = []
        if self.ended:
            lines.append(
                f"The recording could be read to {self.end_s:.1f} s only ({self.ended}): "
                "the timeline ends with the last good frame."
            )
        if counts["damaged"]:
            lines.append(f"{counts['damaged']} frames are damaged; nothing stands in for them.")
        if self.rule_failed:
            lines.append(
                f"The blanking rule failed on {self.rule_failed} frames, which are blanked."
            )
        return lines

    def document(self) -> dict[str, Any]:
        """All of it but the moments, as plain values; nothing in it names a file."""
        return {
            "format": FORMAT,
            "recording": {
                **self.recording.told,
                "duration_s": self.duration_s,
                "frames": self.frames,
                "rows": self.size[0],
                "columns": self.size[1],
            },
            "reader": self.recording.reader,
            "timestamps": POLICY,
            "rate": self.asked.rate,
            "bundle": self.bundle,
            "prompts": self.prompts,
            "labels": list(self.track.names),
            "stream": plain(self.config),
            "blank": self.asked.blank,
            "live": self.asked.live,
            "end_s": self.end_s,
            "ended": self.ended or None,
            "moments": {
                **self.track.counts(),
                "dropped": self.dropped,
                "rule_failed": self.rule_failed,
            },
            "speed": {
                "moments_per_s": self.moments_per_s,
                "latency_ms": self.latency_ms(),
                "lag_ms": percentiles_ms(self.lag_s) if len(self.lag_s) else None,
            },
            "metrics": {word: dict(row) for word, row in self.metrics.items()},
            "segments": [dataclasses.asdict(segment) for segment in self.segments()],
        }


def percentiles_ms(seconds: NDArray[np.float32]) -> dict[str, float]:
    """Median, 95th percentile and the most, in milliseconds."""
    shown = {"p50": 50, "p95": 95, "most": 100}
    return {name: round(1000 * float(np.percentile(seconds, at)), 3) for name, at in shown.items()}
