"""The phase ribbon: what is true, what was told, and how sure, along the time of the recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from medvlp.evaluate.metrics.segments import segments
from medvlp.report.canvas import PALETTE, STYLE, canvas
from medvlp.report.page import clock
from medvlp_video.timeline.track import Segment, Track
from medvlp_video.timeline.truth import Truth

COLOURS = (*PALETTE, "#2f6fb5", "#a8323e", "#2f9e6e", "#9a5fb5", "#7a5230", "#4c6a7d")
BLANK = "#9aa1a8"
WIDTH_IN = 11.0
DPI = 150

_NUMBERED = 0.02
"""Fraction of the recording from which a segment is wide enough for its number."""

_MOST_POINTS = 1500
"""Of the line of confidence; more than a screen has columns."""


def svg(track: Track, truth: Truth | None, end_s: float) -> str:
    """The ribbon as an element of an HTML page."""
    with canvas("ribbon", WIDTH_IN, _height(truth)) as (figure, drawn):
        _draw(figure, track, truth, end_s)
    return drawn[0]


def write_png(path: Path, track: Track, truth: Truth | None, end_s: float) -> None:
    """The ribbon as a picture."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, _height(truth)), layout="constrained")
        _draw(figure, track, truth, end_s)
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _height(truth: Truth | None) -> float:
    return 3.4 if truth is None else 3.9


def _draw(figure: Figure, track: Track, truth: Truth | None, end_s: float) -> None:
    rows = [("told", track.segments(end_s)), ("each clip", _clips(track, end_s))]
    rows = rows if truth is None else [("true", truth.segments()), *rows]
    heights = [1.0] * len(rows) + [1.6]
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    start_s = float(track.times_s[0]) if len(track) else 0.0
    for ax, (name, parts) in zip(axes, rows, strict=False):
        _row(ax, name, parts, start_s, end_s)
    _sureness(axes[-1], track)
    axes[-1].set_xlim(start_s, max(end_s, start_s + 1))
    axes[-1].xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 3, 6, 10]))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda time_s, _: clock(time_s)))
    figure.legend(handles=_legend(track, rows), loc="outside lower center", ncols=3, fontsize=9)


def _clips(track: Track, end_s: float) -> list[Segment]:
    """Runs of the clips' own labels."""
    times_s = np.minimum(np.append(track.times_s, end_s), end_s)
    return [
        Segment(
            name=track.names[label],
            label=label,
            start_s=float(times_s[a]),
            end_s=float(times_s[b]),
            confidence=0.0,
        )
        for label, a, b in zip(*(part.tolist() for part in segments(track.labels)), strict=True)
        if label >= 0
    ]


def _row(ax: Any, name: str, parts: Sequence[Segment], start_s: float, end_s: float) -> None:
    by_label: dict[int | None, list[tuple[float, float]]] = {}
    for part in parts:
        by_label.setdefault(part.label, []).append((part.start_s, part.end_s - part.start_s))
        wide = part.end_s - part.start_s >= _NUMBERED * (end_s - start_s)
        if wide and part.label is not None:
            middle_s = (part.start_s + part.end_s) / 2
            ax.text(
                middle_s, 0.5, str(part.label + 1), color="white", ha="center", va="center",
                fontsize=9, fontweight="bold", clip_on=True,
            )  # fmt: skip
    for label, spans in by_label.items():
        ax.broken_barh(spans, (0, 1), lw=0, **_look(label))
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax.tick_params(axis="x", length=0)
    ax.spines["bottom"].set_visible(False)
    ax.spines["left"].set_visible(False)


def _look(label: int | None) -> dict[str, Any]:
    if label is None:
        return {"facecolor": BLANK, "hatch": "////", "edgecolor": "white"}
    return {"facecolor": COLOURS[label % len(COLOURS)]}


def _sureness(ax: Any, track: Track) -> None:
    """The line of confidence; of several moments in one column the least."""
    step = max(1, -(-len(track) // _MOST_POINTS))
    start = np.arange(0, len(track), step)
    sure_M = np.where(track.among("seen"), track.confidence, np.nan)
    if len(start):
        least = np.fmin.reduceat(sure_M, start)
        ax.plot(track.times_s[start], least, color=PALETTE[0], lw=1.2, drawstyle="steps-post")
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.5, 1])
    ax.set_ylabel("sure", rotation=0, ha="right", va="center")
    ax.grid(axis="y", lw=0.3)


def _legend(track: Track, rows: Sequence[tuple[str, Sequence[Segment]]]) -> list[Patch]:
    shown = {part.label: part.name for _, parts in rows for part in parts}
    order = sorted(shown, key=lambda label: (label is None, label or 0))
    return [
        Patch(
            label=shown[label] if label is None else f"{label + 1}  {shown[label]}", **_look(label)
        )
        for label in order
    ]
