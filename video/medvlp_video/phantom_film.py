"""Filming a phantom story: moving camera and instruments, smoke and bleeding, an H.264 file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from medvlp_video.phantom_scene import (
    Planes,
    Sprite,
    canvas_side,
    draw_canvas,
    draw_tool,
    yuv,
)
from medvlp_video.phantom_story import Deed, Story

BLOOD = yuv(np.full((2, 2, 3), (150, 0, 6), np.uint8))
CLIP = yuv(np.full((2, 2, 3), (236, 238, 240), np.uint8))
WATER = yuv(np.full((2, 2, 3), (150, 190, 214), np.uint8))
CHAR = yuv(np.full((2, 2, 3), (40, 26, 20), np.uint8))
BLACK = (16, 128, 128)
"""Y, U, V of black."""

SMOKE_VERBS = ("coagulate",)
SHOWN = 6
"""A working part is in view if this many 224ths of the picture show, each way."""

ENTRY_S = 0.35
"""Time an instrument takes to come in."""


@dataclass(frozen=True, kw_only=True)
class ToolBox:
    """Where the working part of an instrument is, in fractions of the picture."""

    time_s: float
    instrument: str
    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1)."""


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Everything about one action that does not change from frame to frame."""

    deed: Deed
    canvas: Planes
    sprites: tuple[Sprite, Sprite]
    """Jaws open, jaws closed."""
    place: tuple[float, float]
    """(x, y) worked on, in canvas pixels."""
    angle: float
    beat: float
    bleeds: bool


class Film:
    """One procedure's frames, as planes of YUV 4:2:0.

    Args:
        story: What happens.
        rng: Draws looks and motion.
        size: Side of the picture in pixels, a multiple of 16.
        fps: Frames a second.
    """

    def __init__(self, story: Story, rng: np.random.Generator, size: int, fps: int) -> None:
        self.size, self.fps = size, fps
        self.count = round(story.duration_s * fps)
        self.boxes: list[ToolBox] = []
        self._story, self._rng = story, rng
        self._tint = rng.uniform(0.92, 1.08, 3) * rng.uniform(0.9, 1.05)
        self._camera = self._drift()
        self._border = self._draw_border()
        self._smoke = self._draw_smoke()

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """(3·size/2, size) frames, one buffer that is drawn anew each time; fills `boxes`."""
        size = self.size
        buffer = np.empty(size * size * 3 // 2, np.uint8)
        quarter = size * size // 4
        y_HW = buffer[: size * size].reshape(size, size)
        u_HW = buffer[size * size : -quarter].reshape(size // 2, size // 2)
        v_HW = buffer[-quarter:].reshape(size // 2, size // 2)
        picture = (y_HW, u_HW, v_HW)
        frame = 0
        for stage in self._stages():
            last = min(self.count, round(stage.deed.end_s * self.fps))
            while frame < last:
                self._draw(picture, stage, frame)
                yield buffer.reshape(3 * size // 2, size)
                frame += 1
            _leave_mark(stage)

    def _stages(self) -> Iterator[_Stage]:
        phase, canvas = -1, None
        side = canvas_side(self.size)
        for deed in self._story.deeds:
            if deed.phase != phase or canvas is None:
                phase = deed.phase
                name = self._story.phases[phase].name
                canvas = draw_canvas(self._rng, name, self.size, self._tint)
            angle = float(self._rng.uniform(-2.9, -0.25)) * (1 if self._rng.random() < 0.8 else -1)
            tool = deed.action[0]
            yield _Stage(
                deed=deed,
                canvas=canvas,
                sprites=(
                    draw_tool(tool, angle, 1.0, self.size),
                    draw_tool(tool, angle, 0.0, self.size),
                ),
                place=(
                    float(self._rng.uniform(0.4, 0.6)) * side,
                    self._rng.uniform(0.4, 0.6) * side,
                ),
                angle=angle,
                beat=float(self._rng.uniform(0.8, 1.25)),
                bleeds=deed.action[1] in ("dissect", "cut") and self._rng.random() < 0.25,
            )

    def _draw(self, picture: Planes, stage: _Stage, frame: int) -> None:
        deed, size = stage.deed, self.size
        now_s = max(0.0, frame / self.fps - deed.start_s)
        left_s = deed.end_s - deed.start_s - now_s
        if stage.bleeds and frame % 4 == 0:
            self._bleed(stage, now_s)
        ox, oy = self._camera[frame]
        _paste_background(picture, stage.canvas, ox, oy, size)
        x, y = _tip(stage, now_s, left_s, size)
        at = (round(x - ox), round(y - oy))
        sprite = stage.sprites[_is_closed(deed.action[1], now_s * stage.beat, left_s)]
        paste(picture, sprite, at)
        if deed.action[1] in SMOKE_VERBS:
            self._blow(picture[0], now_s)
        for plane, mask, value in zip(picture, self._border, BLACK, strict=True):
            if mask is not None:
                plane[mask] = value
        if frame % self.fps == 0:
            self._note(stage, sprite, at, frame / self.fps)

    def _note(self, stage: _Stage, sprite: Sprite, at: tuple[int, int], time_s: float) -> None:
        """Write down the box of the working part, as far as the picture shows it."""
        x0, y0, x1, y1 = (a + b for a, b in zip(sprite.head, at * 2, strict=True))
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, self.size), min(y1, self.size)
        if min(x1 - x0, y1 - y0) * 224 < SHOWN * self.size:
            return
        border_HW = self._border[0]
        if border_HW is not None and border_HW[y0:y1, x0:x1].mean() > 0.5:
            return
        box = (x0 / self.size, y0 / self.size, x1 / self.size, y1 / self.size)
        self.boxes.append(ToolBox(time_s=time_s, instrument=stage.deed.action[0], box=box))

    def _drift(self) -> NDArray[np.int64]:
        """(frames,2) even camera offsets (x, y): a slow wander within the margin."""
        play = canvas_side(self.size) - self.size
        time_F1 = np.arange(self.count)[:, None] / self.fps
        rate_2 = self._rng.uniform(0.15, 0.45, 2)
        start_2 = self._rng.uniform(0, 2 * np.pi, 2)
        wave_F2 = np.sin(rate_2 * time_F1 + start_2) + 0.3 * np.sin(3.7 * rate_2 * time_F1)
        return (2 * np.round((wave_F2 / 2.6 + 0.5) * (play / 2 - 1))).astype(np.int64)

    def _draw_border(self) -> tuple[NDArray[np.bool_] | None, ...]:
        """What of each plane is black: nothing, bars left and right, or outside a round view."""
        kind = self._rng.choice(["none", "bars", "round"], p=[0.6, 0.2, 0.2])
        if kind == "none":
            return None, None, None
        y, x = np.mgrid[: self.size, : self.size] / (self.size - 1) - 0.5
        if kind == "bars":
            mask = np.abs(x) > self._rng.uniform(0.38, 0.45)
        else:
            mask = np.hypot(x, y) > self._rng.uniform(0.5, 0.56)
        mask[::2, ::2] &= mask[1::2, 1::2]
        return mask, mask[::2, ::2], mask[::2, ::2]

    def _draw_smoke(self) -> NDArray[np.uint16]:
        side = canvas_side(self.size)
        y, x = np.mgrid[:side, :side] / side
        wave = sum(np.sin(a * x + b * y + c) for a, b, c in self._rng.uniform(-14, 14, (5, 3)))
        return np.asarray(np.clip(60 + 28 * wave, 0, 150), np.uint16)

    def _blow(self, y_HW: NDArray[np.uint8], now_s: float) -> None:
        """Smoke rises over the picture and whitens it."""
        play = len(self._smoke) - self.size
        lift = int(now_s * 30) % (play + 1)
        veil_HW = self._smoke[play - lift : play - lift + self.size, : self.size]
        thick = min(1.0, now_s / 1.0)
        veil_HW = (veil_HW * round(256 * thick) >> 8).astype(np.uint16)
        y_HW[...] = (y_HW * (256 - veil_HW) + 205 * veil_HW) >> 8

    def _bleed(self, stage: _Stage, now_s: float) -> None:
        spread = min(26.0, 6 + 5 * now_s) * self.size / 224
        dx, dy = self._rng.normal(0, spread / 2, 2)
        x, y = stage.place
        blot(stage.canvas, BLOOD, (x + dx, y + dy + spread / 3), spread / 3)


def write_film(path: Path, film: Film, gop: int) -> None:
    """Encode `film` as H.264 in MP4, a key frame every `gop` frames at most."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=film.fps)
        stream.width = stream.height = film.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast", "crf": "26", "g": str(gop), "threads": "1"}
        for i, yuv_HW in enumerate(film.frames()):
            frame = av.VideoFrame.from_ndarray(yuv_HW, format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, film.fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def paste(picture: Planes, sprite: Sprite, at: tuple[int, int]) -> None:
    """Lay `sprite` over `picture` with its tip at `at`, to even pixels, cut at the edge."""
    size = len(picture[0])
    height, width = sprite.mask.shape
    x, y = (2 * round((a - t) / 2) for a, t in zip(at, sprite.tip, strict=True))
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, size), min(y + height, size)
    if x0 >= x1 or y0 >= y1:
        return
    for plane, source, mask, step in zip(
        picture, sprite.planes, (sprite.mask, *[sprite.half_mask] * 2), (1, 2, 2), strict=True
    ):
        window = np.s_[(y0 - y) // step : (y1 - y) // step, (x0 - x) // step : (x1 - x) // step]
        target = plane[y0 // step : y1 // step, x0 // step : x1 // step]
        np.copyto(target, source[window], where=mask[window])


def blot(planes: Planes, colour: Planes, at: tuple[float, float], radius: float) -> None:
    """Paint a disc of `colour` on `planes`."""
    for plane, value, step in zip(planes, colour, (1, 2, 2), strict=True):
        x, y, r = at[0] / step, at[1] / step, radius / step
        x0, y0 = max(0, int(x - r)), max(0, int(y - r))
        patch = plane[y0 : int(y + r) + 1, x0 : int(x + r) + 1]
        rows, columns = np.ogrid[: patch.shape[0], : patch.shape[1]]
        patch[(columns + x0 - x) ** 2 + (rows + y0 - y) ** 2 <= r * r] = value.flat[0]


def _paste_background(picture: Planes, canvas: Planes, ox: int, oy: int, size: int) -> None:
    for plane, source, step in zip(picture, canvas, (1, 2, 2), strict=True):
        y, x, side = oy // step, ox // step, size // step
        plane[...] = source[y : y + side, x : x + side]


def _tip(stage: _Stage, now_s: float, left_s: float, size: int) -> tuple[float, float]:
    """Where the instrument's tip is, in canvas pixels."""
    verb, unit = stage.deed.action[1], size / 224
    away = max(0.0, 1 - now_s / ENTRY_S, 1 - left_s / ENTRY_S) * 70 * unit
    x, y = stage.place
    t = 2 * np.pi * now_s * stage.beat
    along, across = -away, 0.0
    if verb == "dissect":
        along, across = along + 7 * unit * np.sin(0.9 * t), 14 * unit * np.sin(0.45 * t)
    elif verb in ("retract", "pack"):
        along -= unit * min(34.0, 14 * now_s)
    elif verb == "coagulate":
        across = 2.5 * unit * np.sin(3 * t)
    elif verb in ("irrigate", "aspirate"):
        along, across = along + 16 * unit * np.sin(0.3 * t), 16 * unit * np.cos(0.3 * t)
    else:
        along += 3 * unit * np.sin(0.5 * t)
    c, s = np.cos(stage.angle), np.sin(stage.angle)
    return float(x + along * c - across * s), float(y + along * s + across * c)


def _is_closed(verb: str, beats: float, left_s: float) -> bool:
    """Whether the jaws are closed: cutting opens and shuts them, clipping shuts them at the end."""
    if verb == "cut":
        return int(beats * 3) % 2 == 1
    if verb == "clip":
        return left_s < 0.8
    return verb in ("grasp", "retract", "pack") and beats > 0.5


def _leave_mark(stage: _Stage) -> None:
    """What an action leaves on the tissue for the rest of its phase."""
    verb = stage.deed.action[1]
    unit = len(stage.canvas[0]) / 280
    mark = {
        "clip": (CLIP, 5.0),
        "cut": (CHAR, 4.0),
        "coagulate": (CHAR, 9.0),
        "irrigate": (WATER, 12.0),
    }
    if verb in mark:
        colour, radius = mark[verb]
        blot(stage.canvas, colour, stage.place, radius * unit)
