"""Drawing a CT of chest and abdomen: organs as soft shapes with their HU, in millimetres.

Coordinates as in DICOM, from the volume's middle: x to the patient's left, y to the back, z to the
head. Arrays are (D,H,W) in that order reversed: slices from foot to head, rows from front to back,
columns from right to left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.phantom.grammar import Finding

Array = NDArray[Any]
Point = tuple[float, float, float]
"""(x, y, z) in mm."""
Box = tuple[slice, slice, slice]

FIELD_MM, HEIGHT_MM = 384.0, 320.0
"""Extent of the volume across and from foot to head."""
VERTEBRA_MM = 28.0
ORGANS = (
    "right lung", "left lung", "heart", "aorta", "liver", "spleen", "right kidney", "left kidney",
    "spine",
)  # fmt: skip
"""Values 1 to 9 of the organ map."""
SIGN = {"right": -1.0, "left": 1.0}

_NOWHERE = (slice(0), slice(0), slice(0))


@dataclass(frozen=True, kw_only=True)
class Build:
    """One patient's anatomy, drawn apart from the findings."""

    size: float
    """Of everything, relative to the average."""
    shift: Point
    body: tuple[float, float]
    fat: float
    lung: Point
    """Radii."""
    dome: float
    """Height of the diaphragm."""
    heart: Point
    liver: Point
    kidney_z: float
    contrast: float
    """How much contrast medium the blood carries, in HU."""
    lung_hu: float
    noise_hu: float


def draw_build(rng: np.random.Generator) -> Build:
    """A random anatomy within normal limits."""

    def around(mean: float, spread: float) -> float:
        return float(rng.uniform(mean - spread, mean + spread))

    return Build(
        size=around(1.0, 0.05), shift=(around(0, 8), around(0, 6), around(0, 8)),
        body=(around(166, 8), around(116, 6)), fat=around(14, 6),
        lung=(around(58, 3), around(80, 4), around(138, 6)), dome=around(14, 8),
        heart=(around(50, 3), around(42, 3), around(48, 3)),
        liver=(around(82, 5), around(74, 5), around(66, 5)), kidney_z=around(-92, 8),
        contrast=around(110, 35), lung_hu=around(-840, 20), noise_hu=around(16, 6),
    )  # fmt: skip


@dataclass
class Volume:
    """The volume while it is drawn, and where what is in it."""

    build: Build
    hu: Array
    organs: Array
    x: Array
    y: Array
    z: Array
    """Positions of columns, rows and slices in mm of the average patient."""
    step: Point
    """Voxel size (x, y, z) in the same mm."""
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def inside(self, centre: Point, radii: Point) -> tuple[Box, Array]:
        """An ellipsoid: its box, and 1 at its middle, 0 on its surface, negative outside."""
        spans, terms = [], []
        for line, at, r in zip((self.x, self.y, self.z), centre, radii, strict=True):
            low, high = np.searchsorted(line, (at - r * 1.1, at + r * 1.1))
            spans.append(slice(int(low), int(high)))
            terms.append(np.square((line[low:high] - np.float32(at)) / np.float32(r)))
        if any(span.start >= span.stop for span in spans):
            return _NOWHERE, np.zeros((0, 0, 0), dtype=np.float32)
        dx, dy, dz = terms
        depth = 1 - dz[:, None, None] - dy[None, :, None] - dx[None, None, :]
        return (spans[2], spans[1], spans[0]), depth

    def cover(self, depth: Array, radius: float) -> Array:
        """Coverage of voxels in 0..1 from `inside`'s depth; the edge is a voxel wide."""
        edge = np.float32(radius / (2 * self.step[0]))
        covered: Array = np.clip(0.5 + depth * edge, 0, 1)
        return covered

    def blend(self, box: Box, cover: Array, hu: float | Array) -> None:
        """Mix `hu` into the volume as far as `cover` says."""
        part = self.hu[box]
        part += cover * (hu - part)

    def ball(self, centre: Point, radii: Point, hu: float, organ: int = 0) -> tuple[Box, Array]:
        """Paint an ellipsoid; returns its box and coverage."""
        box, depth = self.inside(centre, radii)
        cover = self.cover(depth, min(radii[:2]))
        self.blend(box, cover, hu)
        if organ:
            self.organs[box][cover > 0.5] = organ
        return box, cover

    def mark(self, finding: Finding, box: Box, cover: Array) -> None:
        """Record where `finding` is seen, together with what it already covers."""
        mask = self.masks.setdefault(finding.name, np.zeros(self.hu.shape, dtype=bool))
        mask[box] |= cover > 0.5

    def organ(self, name: str) -> NDArray[np.bool_]:
        """Where the organ of this name is."""
        found: NDArray[np.bool_] = self.organs == ORGANS.index(name) + 1
        return found


def blank(build: Build, slices: int, size: int) -> Volume:
    """Air around a body of fat and soft tissue on a couch."""
    step = (FIELD_MM / size, FIELD_MM / size, HEIGHT_MM / slices)
    x, y, z = (
        ((np.arange(n, dtype=np.float32) + 0.5 - n / 2) * d - s) / np.float32(build.size)
        for n, d, s in zip((size, size, slices), step, build.shift, strict=True)
    )
    step = (step[0] / build.size, step[1] / build.size, step[2] / build.size)
    rx, ry = build.body
    plane = np.full((size, size), -1000, dtype=np.float32)
    for inset, hu in ((0.0, -95.0), (build.fat, 50.0)):
        flat = (
            np.square(y / (ry - inset))[:, None] ** 1.3 + np.square(x / (rx - inset))[None] ** 1.3
        )
        cover = np.clip(0.5 + (1 - flat) * (ry / (3 * step[0])), 0, 1)
        plane += cover * (hu - plane)
    bed = np.clip(1.5 - np.abs(y[:, None] - ry - 14 + np.square(x[None] / 90)) / step[1], 0, 1)
    plane += bed * (np.abs(x[None]) < 150) * (-350 - plane) * (plane < -500)
    hu_DHW = np.repeat(plane[None], slices, axis=0)
    return Volume(build, hu_DHW, np.zeros(hu_DHW.shape, dtype=np.uint8), x, y, z, step)


def draw_abdomen(volume: Volume, spleen: float) -> None:
    """Fat with liver, spleen, kidneys, stomach and bowel in it; `spleen` scales the spleen."""
    build = volume.build
    fresh = build.contrast
    top = build.dome
    rx, ry = build.body
    volume.ball((0, -8, top - 130), (rx - 34, ry - 36, 140), -95)
    volume.ball((-68, -8, top - 58), build.liver, 60 + 0.6 * fresh, ORGANS.index("liver") + 1)
    volume.ball((10, -30, top - 48), (62, 45, 30), 60 + 0.6 * fresh, ORGANS.index("liver") + 1)
    volume.ball((62, -38, top - 62), (38, 32, 46), 15)
    volume.ball((62, -56, top - 58), (24, 12, 30), -950)
    radii = (26 * spleen, 36 * spleen, 50 * spleen)
    volume.ball(
        (104 - 6 * spleen, 34, top - 30 - 34 * spleen), radii, 55 + 0.75 * fresh,
        ORGANS.index("spleen") + 1,
    )  # fmt: skip
    for side, sign in SIGN.items():
        where = (sign * 62, 46, build.kidney_z)
        volume.ball(where, (25, 23, 44), 45 + fresh, ORGANS.index(f"{side} kidney") + 1)
        volume.ball((sign * 56, 46, build.kidney_z), (10, 9, 20), 20)
    for k in range(5):
        volume.ball((-60 + 30 * k, -40, top - 140 + 6 * (k % 2)), (15, 14, 18), 30)


def draw_chest(volume: Volume, rng: np.random.Generator, inflation: float) -> None:
    """Lungs with vessels above the diaphragm, and the airways; `inflation` from 0 to 1."""
    build = volume.build
    rx, ry, rz = build.lung
    grow = 1 + 0.07 * inflation
    for side, sign in SIGN.items():
        centre = (sign * 74, 0.0, build.dome + 2)
        box, depth = volume.inside(centre, (rx * grow, ry * grow, rz))
        z, y, x = (
            line[part] for line, part in zip((volume.z, volume.y, volume.x), box, strict=True)
        )
        bow = (np.square(x[None] - centre[0]) + np.square(y[:, None])) / 85 * (1 - 0.6 * inflation)
        floor = build.dome - 26 * inflation - bow
        above = np.clip(0.5 + (z[:, None, None] - floor[None]) / volume.step[2], 0, 1)
        cover = volume.cover(depth, rx) * above
        weight = build.lung_hu - 90 * inflation + 0.35 * y[None, :, None]
        volume.blend(box, cover, weight)
        volume.organs[box][cover > 0.5] = ORGANS.index(f"{side} lung") + 1
        for _ in range(45):
            reach = rng.uniform(0.1, 0.8) ** 0.8
            way = rng.standard_normal(3)
            way /= np.sqrt(np.square(way).sum())
            r = float(4.8 - 3.3 * reach)
            spot = (
                sign * 52 + reach * way[0] * rx,
                reach * way[1] * ry,
                build.dome + 45 + reach * way[2] * 0.6 * rz,
            )
            at = volume.inside(spot, (r, r, 2.2 * r))
            lung = volume.organs[at[0]] == ORGANS.index(f"{side} lung") + 1
            volume.blend(at[0], volume.cover(at[1], r) * lung, 40.0)
    volume.ball((0, -2, 130), (9, 9, 75), -1000)


def draw_heart(volume: Volume, scale: float, fluid_mm: float) -> tuple[Box, Array]:
    """Mediastinum, great vessels and heart; returns the pericardial fluid's box and coverage."""
    build = volume.build
    middle = build.dome + 62
    volume.ball((0, 8, middle + 20), (30, 52, 100), 45)
    volume.ball((0, -2, 140), (9, 9, 80), -1000)
    where = (20 + 6 * (scale - 1), -26.0, build.dome + 40 + 12 * (scale - 1))
    radii = tuple(r * scale for r in build.heart)
    rim, outer = volume.inside(where, tuple(r + 4 + fluid_mm for r in radii))  # type: ignore[arg-type]
    sac = volume.cover(outer, radii[0] + fluid_mm)
    volume.blend(rim, sac, 8.0 if fluid_mm else -60.0)
    volume.organs[rim][sac > 0.5] = 0
    heart = ORGANS.index("heart") + 1
    volume.ball(where, radii, 45 + build.contrast, heart)  # type: ignore[arg-type]
    for dx, dy in ((16, -8), (-18, 6)):
        volume.ball((where[0] + dx, where[1] + dy, where[2]), (17, 14, 24), 70 + build.contrast)
    fluid = sac * (volume.organs[rim] != heart)
    return rim, fluid


def draw_aorta(volume: Volume) -> None:
    """Ascending aorta, arch and descending aorta."""
    build = volume.build
    organ, hu = ORGANS.index("aorta") + 1, 60 + build.contrast
    top = build.dome + 105
    for z in np.arange(-HEIGHT_MM / 2, top, volume.step[2] / 1.5):
        volume.ball((22, 38, float(z)), (12, 12, volume.step[2] * 1.2), hu, organ)
    for turn in np.linspace(0, np.pi, 14):
        at = (7 + 15 * np.cos(turn), 12 + 26 * np.cos(turn), top + 16 * np.sin(turn))
        volume.ball(at, (13, 13, 13), hu, organ)
    for z in np.arange(build.dome + 70, top, volume.step[2] / 1.5):
        volume.ball((-8, -14, float(z)), (15, 15, volume.step[2] * 1.2), hu, organ)


def draw_bones(volume: Volume) -> None:
    """The spine with its discs and canal, and the ribs."""
    build = volume.build
    tau = np.float32(2 * np.pi)
    centre = (0.0, build.body[1] - 48, 0.0)
    box, depth = volume.inside(centre, (21, 17, 1e6))
    cover = volume.cover(depth, 17)
    disc = np.clip(np.cos(tau * volume.z / VERTEBRA_MM) * 4 + 3.4, 0, 1)[:, None, None]
    volume.blend(box, cover, 70 + 180 * disc)
    volume.organs[box][cover > 0.5] = ORGANS.index("spine") + 1
    volume.ball((0.0, centre[1] + 25, 0.0), (9, 8, 1e6), 25)
    volume.ball((0.0, centre[1] + 38, 0.0), (5, 9, 1e6), 300)
    rx, ry = build.body[0] - build.fat - 9, build.body[1] - build.fat - 7
    ring = np.sqrt(np.square(volume.x / rx)[None] + np.square(volume.y / ry)[:, None])
    rows, columns = np.nonzero(np.abs(ring - 1) < 5 / ry)
    tilt = 0.35 * volume.y[rows] / VERTEBRA_MM
    wave = np.cos(tau * (volume.z[:, None] / VERTEBRA_MM + tilt[None]))
    bone = np.clip(wave * 3 - 0.6, 0, 1) * (volume.z > build.dome - 60)[:, None]
    part = volume.hu[:, rows, columns]
    volume.hu[:, rows, columns] = part + bone * (420 - part)
