"""Drawing a chest radiograph: soft shapes in anatomical coordinates, bright where dense.

Coordinates: x from -1 (image left, the patient's right) to 1, y from -1 (top) to 1; one unit is
`MM_PER_UNIT` mm in a patient of zoom 1. Shapes are signed distances turned into coverages in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlp.phantom.grammar import Finding

Plane = NDArray[Any]
"""(H,W) float32."""

MM_PER_UNIT = 180.0
ANATOMY = ("right lung", "left lung", "heart")
"""Values 1, 2, 3 of the anatomy label map."""

_AIR = 0.34


@dataclass(frozen=True, kw_only=True)
class Build:
    """One patient's anatomy, drawn apart from the findings."""

    zoom: float
    shift: tuple[float, float]
    tilt: float
    lung_rx: float
    lung_cx: float
    dome_y: tuple[float, float]
    """Of the patient's right and left diaphragm."""
    heart_rx: float
    heart_ry: float
    heart_x: float
    rib_step: float
    rib_phase: float
    density: float
    bubble: float
    marker: str


def draw_build(rng: np.random.Generator) -> Build:
    """A random anatomy within normal limits."""

    def around(mean: float, spread: float) -> float:
        return float(rng.uniform(mean - spread, mean + spread))

    dome = around(0.46, 0.05)
    return Build(
        zoom=around(1.02, 0.06), shift=(around(0, 0.05), around(0, 0.05)), tilt=around(0, 0.04),
        lung_rx=around(0.315, 0.015), lung_cx=around(0.42, 0.015),
        dome_y=(dome - 0.04, dome + 0.02), heart_rx=around(0.29, 0.025),
        heart_ry=around(0.27, 0.02), heart_x=around(0.13, 0.02), rib_step=around(0.155, 0.012),
        rib_phase=around(0, 0.5), density=around(0, 0.04), bubble=around(0.08, 0.04),
        marker=str(rng.choice(("L", "R"))),
    )  # fmt: skip


def soft(distance: Plane, width: float) -> Plane:
    """Coverage of a shape whose signed distance is positive inside, over an edge of `width`."""
    covered: Plane = np.clip(0.5 + distance / np.float32(width), 0, 1)
    return covered


@dataclass
class Canvas:
    """The picture while it is drawn, and where what is in it."""

    build: Build
    x: Plane
    y: Plane
    image: Plane
    body: Plane
    lungs: dict[str, Plane] = field(default_factory=dict)
    """Coverage by side, as the normal anatomy has it."""
    depth: dict[str, Plane] = field(default_factory=dict)
    """0 at the chest wall and 1 at the middle of the lung."""
    texture: Plane | None = None
    heart: Plane | None = None
    rib_bend: Plane | float = 0.0
    """How far ribs are displaced, in steps."""
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def mark(self, finding: Finding, coverage: Plane) -> None:
        """Record where `finding` is seen, together with what it already covers."""
        seen = coverage > 0.5
        before = self.masks.get(finding.name)
        self.masks[finding.name] = seen if before is None else before | seen

    def sided(self, side: str) -> Plane:
        """How far points lie from the midline towards the patient's `side`."""
        return self.x if side == "left" else -self.x


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Plane, Plane]:
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    x, y = np.meshgrid(line, line)
    return x, y


def noise_plane(rng: np.random.Generator, size: int, cells: int) -> Plane:
    """Smooth noise with unit spread, about `cells` bumps across."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32)


def blank(build: Build, size: int) -> Canvas:
    """A canvas with the body outline and nothing inside."""
    across, down = _grid(size)
    cos, sin = np.float32(np.cos(build.tilt)), np.float32(np.sin(build.tilt))
    zoom = np.float32(build.zoom)
    x = (across * cos - down * sin) * zoom + np.float32(build.shift[0])
    y = (across * sin + down * cos) * zoom + np.float32(build.shift[1])
    ramp = np.clip((y + 0.98) / 0.34, 0, 1)
    half = 0.2 + 0.73 * ramp * ramp * (3 - 2 * ramp)
    body = soft(half - np.abs(x), 0.06)
    thick = 1 - np.square(x / np.maximum(half, 0.2))
    image = body * (0.46 + np.float32(build.density) + 0.1 * np.clip(thick, 0, 1))
    return Canvas(build, x, y, image, body)


def draw_lungs(canvas: Canvas, rng: np.random.Generator, inflation: float) -> None:
    """Air on both sides above the domes of the diaphragm; `inflation` flattens and widens."""
    build, y = canvas.build, canvas.y
    size = len(y)
    widen = np.clip((y + 0.78) / 0.9, 0, 1)
    rx = (build.lung_rx + 0.035 * inflation) * (0.6 + 0.4 * widen)
    top = np.square(np.minimum((y + 0.24) / 0.5, 0))
    lines = noise_plane(rng, size, max(12, size // 6)) * 0.6 + noise_plane(rng, size, 14)
    hilar = np.zeros_like(y)
    for side, dome in zip(("right", "left"), build.dome_y, strict=True):
        out = canvas.sided(side)
        u = (out - build.lung_cx) / rx
        depth = 1 - np.square(u) - top
        bow = 0.17 - 0.13 * inflation
        floor = dome + 0.17 * inflation + bow * np.square(u)
        lung = soft(depth, 0.16) * soft(floor - y, 0.03)
        canvas.lungs[side], canvas.depth[side] = lung, depth
        near = np.square(out - 0.2) / 0.05 + np.square(y + 0.05) / 0.12
        hilar += lung * (0.35 + 1.0 / (1.0 + 2.5 * near))
        canvas.image -= lung * np.float32(_AIR + 0.09 * inflation)
    canvas.texture = hilar * np.abs(lines)
    belly = soft(y - 0.5, 0.3) * canvas.body
    canvas.image += 0.1 * belly * (1 - canvas.lungs["left"]) * (1 - canvas.lungs["right"])
    bubble = soft(1 - np.square((canvas.x - 0.38) / 0.13) - np.square((y - 0.74) / build.bubble), 1)
    canvas.image -= 0.16 * bubble


def draw_heart(canvas: Canvas, scale: float) -> float:
    """Mediastinum, aortic arch and heart; returns the cardiothoracic ratio."""
    build, x, y = canvas.build, canvas.x, canvas.y
    rx, ry = build.heart_rx * scale, build.heart_ry * (0.6 + 0.4 * scale)
    hx, hy = build.heart_x + 0.05 * (scale - 1), 0.24 - 0.1 * (scale - 1)
    u, v = (x - hx) + 0.35 * (y - hy), (y - hy) - 0.25 * (x - hx)
    heart = soft(1 - np.square(u / rx) - np.square(v / ry), 0.25)
    middle = soft(0.11 + 0.05 * np.clip(y + 0.2, -1, 0.6) - np.abs(x - 0.01), 0.05)
    knob = soft(1 - np.square((x - 0.1) / 0.09) - np.square((y + 0.3) / 0.1), 0.4)
    under = soft(build.dome_y[1] + 0.1 - y, 0.06)
    shadow = np.maximum(np.maximum(heart, knob), middle * soft(y + 0.85, 0.3)) * under
    canvas.image += 0.3 * shadow * canvas.body
    canvas.image -= 0.07 * soft(0.035 - np.abs(x), 0.02) * soft(-0.25 - y, 0.1) * canvas.body
    canvas.heart = heart * under
    width = 2 * rx / np.sqrt(1 + (0.35 * rx / ry) ** 2)
    return float(width / (2 * (build.lung_cx + build.lung_rx)))


def draw_bones(canvas: Canvas, callus: Plane | None) -> None:
    """Spine, ribs (bent where broken) and clavicles."""
    build, x, y = canvas.build, canvas.x, canvas.y
    out = np.abs(x)
    tau = np.float32(2 * np.pi)
    spine = soft(0.07 - out, 0.04) * (0.04 + 0.03 * np.cos(tau * y / 0.13))
    phase = rib_phase(canvas) + canvas.rib_bend
    wave = np.cos(tau * phase)
    wall = np.maximum(soft(canvas.depth["left"] + 0.3, 0.3), soft(canvas.depth["right"] + 0.3, 0.3))
    cage = wall * soft(build.dome_y[0] + 0.12 - y, 0.2)
    ribs = soft(wave - 0.62, 0.35) * cage
    canvas.image += (spine + 0.085 * ribs) * canvas.body
    if callus is not None:
        canvas.image += callus * canvas.body
    collar = np.abs(y + 0.5 + 0.26 * (out - 0.08))
    canvas.image += (
        0.11 * soft(0.028 - collar, 0.02) * soft(out - 0.08, 0.04) * soft(0.66 - out, 0.06)
    )


def rib_phase(canvas: Canvas) -> Plane:
    """Which rib a point lies on: whole numbers are the ribs' middles, counted downwards."""
    out = np.abs(canvas.x)
    arch = 0.36 * np.square(out - 0.12) - 0.05 * out
    step, phase = np.float32(canvas.build.rib_step), np.float32(canvas.build.rib_phase)
    number: Plane = (canvas.y - arch) / step + phase
    return number


def draw_marker(image: Plane, letter: str) -> None:
    """A lead letter in a corner on its own side: L at image right, R at image left."""
    size = len(image)
    thick, height = max(1, size // 90), size // 14
    width = height // 2 + thick
    left = int(size * 0.93) if letter == "L" else int(size * 0.03)
    part = image[int(size * 0.04) :, left:][:height, :width]
    part[:, :thick] = 0.98
    if letter == "L":
        part[-thick:] = 0.98
        return
    part[:thick] = part[height // 2 :][:thick] = 0.98
    part[: height // 2, -thick:] = 0.98
    for row in range(height // 2, height):
        column = (row - height // 2) * (width - thick) // (height - height // 2)
        part[row, column : column + thick] = 0.98


def stroke(canvas: Canvas, points: list[tuple[float, float]], width: float) -> Plane:
    """Coverage of a polyline through `points` (x, y), `width` across, never below a pixel."""
    x, y = canvas.x, canvas.y
    pixel = 2 * canvas.build.zoom / len(y)
    best = np.full_like(x, 9.0)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        best = np.minimum(best, np.square(x - x0 - along * dx) + np.square(y - y0 - along * dy))
    return soft(max(width, 1.2 * pixel) / 2 - np.sqrt(best), pixel)
