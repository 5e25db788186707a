"""The files of a timeline beside its table: picture, page, subtitles, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from medvlp.report.page import render
from medvlp_video.timeline.result import POLICY, Result
from medvlp_video.timeline.ribbon import BLANK, COLOURS, svg, write_png
from medvlp_video.timeline.subtitles import ass, vtt
from medvlp_video.timeline.truth import METRICS

_MOST_SEGMENTS = 2000
"""On the page; the JSON has all."""


def write_all(folder: Path, result: Result) -> None:
    """Write ``timeline.{png,html,vtt,ass,json}``."""
    segments = result.segments()
    write_png(folder / "timeline.png", result.track, result.truth, result.end_s)
    texts = {
        "html": _page(result),
        "vtt": vtt(segments),
        "ass": ass(segments),
        "json": json.dumps(result.document(), indent=1, ensure_ascii=False) + "\n",
    }
    for ending, text in texts.items():
        (folder / f"timeline.{ending}").write_text(text, encoding="utf-8")


def _page(result: Result) -> str:
    segments = result.segments()
    shown = [
        {**s.__dict__, "colour": BLANK if s.label is None else COLOURS[s.label % len(COLOURS)]}
        for s in segments[:_MOST_SEGMENTS]
    ]
    more = len(segments) - len(shown)
    warnings = result.warnings()
    warnings += [f"{more} more segments are in timeline.json, not on this page."] if more else []
    return render(
        "timeline.html.j2",
        "medvlp_video.timeline",
        ribbon=svg(result.track, result.truth, result.end_s),
        names=result.track.names,
        end_s=result.end_s,
        warnings=warnings,
        truth=result.truth is not None,
        window=f"{result.config.window_s:g} s",
        hmm=result.config.smooth == "hmm",
        blanks=result.track.counts()["blanked"],
        metrics=result.metrics,
        metric_names=METRICS,
        segments=shown,
        film=result.recording.film,
        pictures=list(result.track.pictures()),
        facts=list(_facts(result)),
    )


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    counts, latency = result.track.counts(), result.latency_ms()
    kind, name = next(iter(result.recording.told.items()))
    yield "recording", f"{kind} {name}"
    yield "size", f"{result.frames} frames of {result.size[1]} x {result.size[0]}"
    yield "read by", f"{result.recording.reader}; {POLICY}"
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    yield "moments", f"{result.asked.rate:g} a second: {told}"
    if result.asked.live:
        yield "live", f"{result.dropped} frames dropped for newer ones"
    yield "bundle", result.bundle
    yield "prompts", result.prompts
    yield "clip", f"the frames of the last {result.config.window_s:g} s"
    yield "smoothing", _smoothing(result)
    yield "blanking", result.asked.blank or "none"
    yield (
        "speed",
        f"{result.moments_per_s:.1f} moments a second; latency p50 {latency['p50']:.0f} ms, "
        f"p95 {latency['p95']:.0f} ms",
    )


def _smoothing(result: Result) -> str:
    config = result.config
    parts = (
        [f"forward filter, a change every {config.dwell_s:g} s"] if config.smooth == "hmm" else []
    )
    parts += [f"no segment under {config.least_s:g} s"] if config.least_s else []
    return "; ".join(parts) or "none"
