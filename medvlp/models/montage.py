"""A sheet of the slices of a volume where a text is found, drawn for people."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from medvlp.models.heat_volume import Floats, HeatVolume, blend

_COLUMNS = 4
_DPI = 110
_PANEL, _CAPTION = 2.6, 0.42
_SCOUT, _PROFILE = 3.4, 1.3
_TOP, _BOTTOM, _GAP = 1.0, 1.05, 0.45
_LOWEST, _LEAST = 2.2, 4.6
"""Inches."""

_INK, _FAINT, _HOT, _SHARE = "white", "0.65", "#ff9e3d", "#58c4dd"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    # A text is the user's: a dollar sign is no formula.
    "text.parse_math": False,
}


def choose_slices(peak_D: Floats, count: int, apart: int) -> list[int]:
    """Slices of highest value, highest first, of which no two are near each other.

    They lie in the upper half of the values' range; of equal ones that nearest to the middle comes
    first.

    Args:
        peak_D: Each slice's value; NaN of those that are not to be chosen.
        count: How many at most.
        apart: How many slices two must lie apart.
    """
    low, high = np.nanmin(peak_D), np.nanmax(peak_D)
    off_middle_D = np.abs(np.arange(len(peak_D)) - (len(peak_D) - 1) / 2)
    chosen: list[int] = []
    for index in np.lexsort((off_middle_D, -peak_D)):
        near = any(abs(int(index) - other) < apart for other in chosen)
        if len(chosen) < count and not near and peak_D[index] >= (low + high) / 2:
            chosen.append(int(index))
    return chosen


def context_slices(peak_D: Floats, chosen: Sequence[int], count: int) -> list[int]:
    """Slices evenly over the depth that is seen, from head to feet, without those chosen."""
    seen = np.flatnonzero(np.isfinite(peak_D))
    at = (np.arange(count) + 0.5) / count * len(seen)
    spread = {int(seen[int(place)]) for place in at}
    return sorted(spread - set(chosen), reverse=True)


def draw_montage(
    heat: HeatVolume, text: str, similarity: float, share_D: Floats | None, slices: int
) -> Figure:
    """The sheet; see `medvlp.models.heatmap.Heatmap.save_montage`.

    Args:
        heat: The map over its volume.
        text: What was asked for.
        similarity: Cosine of the text and the whole volume.
        share_D: Share of each slice of the stored array, from towers that weigh slices.
        slices: How many slices of highest cosine to show.
    """
    with mpl.rc_context(_STYLE):
        return _Sheet(heat, share_D, slices).draw(text, similarity)


def _towards(mm: float, letters: str, digits: int = 0) -> str:
    """A coordinate by the letter of the side that it lies to.

    >>> _towards(-12.3, "RL")
    'L 12'
    """
    return f"{letters[int(mm < 0)]} {abs(mm):.{digits}f}"


class _Sheet:
    """Where everything stands on the sheet; lengths in inches from the lower left corner."""

    def __init__(self, heat: HeatVolume, share_D: Floats | None, slices: int) -> None:
        self.heat = heat
        self.share_D = share_D
        self.peak_D = heat.peaks
        apart = max(heat.apart, len(self.peak_D) // (3 * slices))
        self.hot = choose_slices(self.peak_D, slices, apart)
        spare = 2 if len(self.hot) <= _COLUMNS else 1
        self.context = context_slices(self.peak_D, self.hot, spare * _COLUMNS)
        depth_mm, row_mm, column_mm = heat.spacing_mm
        depth, rows, columns = heat.values_DHW.shape
        self.wide_mm, self.aspect = columns * column_mm, row_mm / column_mm
        self.tall = min(max(_PANEL * rows * row_mm / self.wide_mm, 1.2), 1.4 * _PANEL)
        self.scout_shape = scout = depth * depth_mm / self.wide_mm
        self.scout_tall = min(max(_SCOUT * scout, _LOWEST), 2 * _SCOUT)
        self.scout_wide = min(self.scout_tall / scout, _SCOUT)
        lines = sum(math.ceil(len(shown) / _COLUMNS) for shown in (self.hot, self.context))
        grid = lines * (self.tall + _CAPTION) + _GAP
        self.height: float = _TOP + _BOTTOM + max(grid, self.scout_tall + _GAP, _LEAST)
        self.left = 3 * _GAP + _SCOUT + _PROFILE
        self.width = self.left + _COLUMNS * (_PANEL + 0.12) + _GAP
        self.figure = Figure(figsize=(self.width, self.height), dpi=_DPI, facecolor="black")

    def draw(self, text: str, similarity: float) -> Figure:
        self._head(text, similarity)
        self._scout()
        self._profile()
        self._panels()
        self._bar()
        self._foot()
        return self.figure

    def _axes(self, left: float, bottom: float, wide: float, tall: float) -> Axes:
        box = (left / self.width, bottom / self.height, wide / self.width, tall / self.height)
        return self.figure.add_axes(box, facecolor="black")

    def _write(self, left: float, bottom: float, words: str, **style: Any) -> None:
        self.figure.text(left / self.width, bottom / self.height, words, **style)

    def _head(self, text: str, similarity: float) -> None:
        asked = textwrap.shorten(text, 110, placeholder=" …")
        self._write(_GAP, self.height - 0.45, f"“{asked}”", size=15)
        x, y, z = self.heat.place(self.heat.summit)
        place = f"{_towards(x, 'RL')}, {_towards(y, 'AP')}, {_towards(z, 'SI')} mm"
        number = self._number(self.heat.summit[0])
        words = f"cosine with the whole volume {similarity:.3f}; highest place {place}, {number}"
        self._write(_GAP, self.height - 0.72, words, color=_FAINT)

    def _number(self, index: int) -> str:
        return f"slice {self.heat.underlay.number(index)} of {len(self.peak_D)}"

    @property
    def _ceiling(self) -> float:
        """Where pictures begin, from above."""
        return self.height - _TOP - 0.2

    def _scout(self) -> None:
        """The volume and the map projected from the front, head up, with the slices' places."""
        axes = self._axes(_GAP, self._ceiling - self.scout_tall, self.scout_wide, self.scout_tall)
        axes.imshow(self.heat.projection(), origin="lower", aspect="auto", extent=self._extent)
        axes.set(xticks=[], yticks=[])
        stretched = self.scout_tall > 1.01 * self.scout_wide * self.scout_shape
        axes.set_title(f"from the front{' (stretched)' if stretched else ''}", loc="left", size=9)
        self._letters(axes, (self.heat.underlay.ends[0][::-1], self.heat.underlay.ends[2]))
        for index in self.context:
            axes.axhline(self.heat.head_mm(index), color=_FAINT, lw=0.5, ls=":")
        for i, index in enumerate(sorted(self.hot)):
            z = self.heat.head_mm(index)
            axes.axhline(z, color=_HOT, lw=0.7)
            rank = str(self.hot.index(index) + 1)
            where = self.wide_mm * (1.06 if i % 2 else 1.015)  # so that neighbours do not overlap
            axes.text(where, z, rank, color=_HOT, size=8, va="center")

    @property
    def _extent(self) -> tuple[float, float, float, float]:
        """Across in mm from the edge, upward in mm towards the head."""
        depth = len(self.peak_D)
        return 0.0, self.wide_mm, self.heat.head_mm(-0.5), self.heat.head_mm(depth - 0.5)

    def _profile(self) -> None:
        """Each slice's highest cosine, and its share where the tower weighs slices."""
        left = _GAP + self.scout_wide + 0.75
        axes = self._axes(left, self._ceiling - self.scout_tall, _PROFILE, self.scout_tall)
        z_D = [self.heat.head_mm(i) for i in range(len(self.peak_D))]
        axes.plot(self.peak_D, z_D, color=_HOT, lw=1.2)
        axes.set_ylim(self._extent[2:])
        axes.set_title("highest cosine", color=_HOT, size=9, pad=18)
        axes.set_ylabel("mm towards the head", color=_FAINT, size=8, labelpad=0)
        sides = [axes]
        if self.share_D is not None:
            share = axes.twiny()
            share.plot([100 * self._share(i) for i in range(len(z_D))], z_D, color=_SHARE, lw=1)
            share.xaxis.tick_bottom()
            share.set_xlabel("attention, %", color=_SHARE, size=9)
            share.xaxis.set_label_position("bottom")
            share.set_xlim(left=0)
            sides.append(share)
        axes.xaxis.tick_top()  # which the twin has moved
        for one in sides:
            one.tick_params(colors=_FAINT, labelsize=7, length=2)
            one.locator_params(axis="x", nbins=3)
            one.spines[:].set_color("0.35")

    def _share(self, index: int) -> float:
        """The share of the stored slice that shows a slice; NaN where none does."""
        assert self.share_D is not None
        stored = self.heat.underlay.stored(index)
        return float(self.share_D[stored]) if 0 <= stored < len(self.share_D) else math.nan

    def _panels(self) -> None:
        lines = math.ceil(len(self.hot) / _COLUMNS)
        self._write(self.left, self._ceiling + 0.06, "slices of highest cosine, in this order")
        for i, index in enumerate(self.hot):
            self._panel(*divmod(i, _COLUMNS), index, f"{i + 1}  ")
        for i, index in enumerate(self.context):
            self._panel(lines + i // _COLUMNS, i % _COLUMNS, index, "")
        if self.context:
            top = self._ceiling - lines * (self.tall + _CAPTION) - 0.2
            self._write(self.left, top, "evenly from head to feet", color=_FAINT)

    def _panel(self, line: int, column: int, index: int, rank: str) -> None:
        left = self.left + column * (_PANEL + 0.12)
        bottom = self._ceiling - line * (self.tall + _CAPTION) - self.tall - (0 if rank else 0.25)
        axes = self._axes(left, bottom, _PANEL, self.tall)
        axes.imshow(self.heat.slice(index), aspect=self.aspect)
        seen_HW = np.isfinite(self.heat.heat_DHW[index])
        if seen_HW.any() and not seen_HW.all():
            axes.contour(seen_HW, levels=[0.5], colors=[_FAINT], linewidths=0.6, linestyles=":")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(_HOT if rank else "0.35")
        self._letters(axes, (self.heat.underlay.ends[1], self.heat.underlay.ends[2]))
        place = _towards(self.heat.head_mm(index), "SI", 1)
        words = f"{rank}{self._number(index)}, {place} mm\n"
        words += f"cosine {self.peak_D[index]:.3f}"
        if self.share_D is not None:
            words += f", attention {100 * self._share(index):.1f} %"
        self._write(left, bottom - 0.05, words, va="top", size=8, color=_INK if rank else _FAINT)

    def _letters(self, axes: Axes, ends: tuple[tuple[str, str], ...]) -> None:
        """Which end of the patient each edge is: up and down, then left and right."""
        (top, bottom), (left, right) = ends
        spots = ((0.5, 0.97, top), (0.5, 0.03, bottom), (0.03, 0.5, left), (0.97, 0.5, right))
        for x, y, letter in spots:
            axes.text(
                x, y, letter, transform=axes.transAxes, size=8, color="#9fdf9f",
                ha=("center" if x == 0.5 else "left" if x < 0.5 else "right"),
                va=("center" if y == 0.5 else "bottom" if y < 0.5 else "top"),
                path_effects=[withStroke(linewidth=2, foreground="black")],
            )  # fmt: skip

    def _bar(self) -> None:
        """The colours as they look over middle grey, with the cosines that they stand for."""
        axes = self._axes(_GAP, 0.62, _SCOUT, 0.14)
        ramp_1W = np.linspace(0, 1, 256, dtype=np.float32)[None]
        low, high = self.heat.range
        grey = np.full((1, 256, 3), 110, np.uint8)
        axes.imshow(blend(grey, ramp_1W), aspect="auto", extent=(low, high, 0, 1))
        axes.set_yticks([])
        axes.set_xticks(np.linspace(low, high, 5), [f"{x:.3f}" for x in np.linspace(low, high, 5)])
        axes.tick_params(colors=_FAINT, labelsize=7, length=2)
        axes.set_title("cosine of place and text", loc="left", size=8, pad=3)

    def _foot(self) -> None:
        cells = " x ".join(str(n) for n in self.heat.cells)
        size = " x ".join(f"{mm:.0f}" for mm in self.heat.cell_mm)
        low, high = self.heat.window
        words = (
            "Colours span this volume's own lowest to highest cosine: something is bright even "
            "where the finding is absent.\n"
            f"The map has {cells} cells (slices, rows, columns) of {size} mm; what is finer is "
            "interpolated. Dotted outline: what the model sees.\n"
            f"Window {low:.0f} to {high:.0f}. Slices count from 1 as in the volume's file; R, L, "
            "A, P, S, I: mm in patient coordinates. Research software, not for diagnosis."
        )
        self._write(self.left, 0.85, words, va="top", size=8, color=_FAINT, linespacing=1.4)
