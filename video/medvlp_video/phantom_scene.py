"""The look of a phantom operation: tissue canvases and instrument sprites, drawn by Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Y in full, U and V in half resolution (BT.601, limited range)."""

MARGIN = 0.12
"""The camera's play on each side, as a fraction of the picture."""


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """What one phase's surroundings look like."""

    colour: RGB
    grain: int
    """Cells of the texture across the canvas: coarse lobes to fine granules."""
    roughness: float
    vessels: int
    organs: tuple[str, ...]


TISSUES: dict[str, Tissue] = {
    "preparation": Tissue(
        colour=(206, 138, 126), grain=5, roughness=0.10, vessels=9, organs=("omentum",)
    ),
    "calot triangle dissection": Tissue(
        colour=(208, 168, 84), grain=26, roughness=0.2, vessels=3, organs=("duct", "gallbladder")
    ),
    "clipping and cutting": Tissue(
        colour=(176, 104, 72), grain=12, roughness=0.16, vessels=1, organs=("duct", "artery")
    ),
    "gallbladder dissection": Tissue(
        colour=(112, 38, 36), grain=40, roughness=0.18, vessels=0, organs=("big gallbladder",)
    ),
    "gallbladder packaging": Tissue(
        colour=(132, 62, 52), grain=9, roughness=0.14, vessels=2, organs=("bag",)
    ),
    "cleaning and coagulation": Tissue(
        colour=(128, 28, 34), grain=7, roughness=0.25, vessels=0, organs=("pools",)
    ),
    "gallbladder extraction": Tissue(
        colour=(214, 184, 164), grain=16, roughness=0.08, vessels=5, organs=("port", "bag neck")
    ),
}


def draw_canvas(
    rng: np.random.Generator, phase: str, size: int, tint: NDArray[np.float64]
) -> Planes:
    """The tissue of one stretch of a phase, larger than the picture so that the camera can move.

    Args:
        rng: Draws places and textures.
        phase: A key of `TISSUES`.
        size: Side of the picture in pixels.
        tint: (3,) gains of red, green and blue: this procedure's light and white balance.
    """
    tissue = TISSUES[phase]
    side = canvas_side(size)
    colour = np.array(tissue.colour) * rng.uniform(0.92, 1.08, 3) * tint
    relief_HW = 1 + tissue.roughness * (_noise(rng, side, tissue.grain) + _noise(rng, side, 4))
    rgb_HWC = np.clip(colour * relief_HW[..., None], 0, 255).astype(np.uint8)
    image = Image.fromarray(rgb_HWC)
    pen = ImageDraw.Draw(image)
    for _ in range(tissue.vessels):
        _vessel(rng, pen, side, size / 224)
    for organ in tissue.organs:
        _organ(rng, pen, organ, side)
    shade_HW1 = _light(rng, side)[..., None]
    return yuv(np.clip(np.asarray(image) * shade_HW1, 0, 255).astype(np.uint8))


def canvas_side(size: int) -> int:
    """Side of the canvas behind a picture of `size`, an even number of pixels."""
    return 2 * round(size * (1 + 2 * MARGIN) / 2)


def yuv(rgb_HWC: NDArray[np.uint8]) -> Planes:
    """RGB to limited-range BT.601 planes with halved chroma; sides are even."""
    rgb = rgb_HWC.astype(np.float32)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = 16 + 0.2568 * r + 0.5041 * g + 0.0979 * b
    u = 128 - 0.1482 * r - 0.2910 * g + 0.4392 * b
    v = 128 + 0.4392 * r - 0.3678 * g - 0.0714 * b
    halved = [c[::2, ::2].round().astype(np.uint8) for c in (u, v)]
    return y.round().astype(np.uint8), halved[0], halved[1]


def _noise(rng: np.random.Generator, side: int, cells: int) -> NDArray[np.float32]:
    coarse = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32)


def _light(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """The endoscope's light: bright somewhere near the middle, falling off outwards."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    cx, cy = rng.uniform(0.4, 0.6, 2)
    return np.asarray(1.12 - 0.9 * ((x - cx) ** 2 + (y - cy) ** 2), np.float32)


def _vessel(rng: np.random.Generator, pen: ImageDraw.ImageDraw, side: int, unit: float) -> None:
    x, y = rng.uniform(0, side, 2)
    angle = rng.uniform(0, 2 * np.pi)
    points = []
    for _ in range(12):
        points.append((x, y))
        angle += rng.normal(0, 0.35)
        x, y = x + 18 * unit * np.cos(angle), y + 18 * unit * np.sin(angle)
    pen.line(points, fill=(150, 40, 48), width=max(1, round(2.5 * unit)))


def _organ(rng: np.random.Generator, pen: ImageDraw.ImageDraw, organ: str, side: int) -> None:
    cx, cy = rng.uniform(0.44, 0.56, 2) * side
    shapes = _shapes(rng, organ)
    for kind, colour, (dx, dy, a, b), width in shapes:
        box = (
            cx + (dx - a) * side,
            cy + (dy - b) * side,
            cx + (dx + a) * side,
            cy + (dy + b) * side,
        )
        if kind == "ellipse":
            pen.ellipse(box, fill=colour)
        else:
            pen.line(box, fill=colour, width=max(1, round(width * side)))


Shape = tuple[Literal["ellipse", "line"], RGB, tuple[float, float, float, float], float]


def _shapes(rng: np.random.Generator, organ: str) -> list[Shape]:
    """An organ's drawing, in fractions of the canvas around its middle."""
    if organ == "omentum":
        lobes = rng.uniform(-0.28, 0.28, (9, 2))
        return [("ellipse", (224, 190, 96), (x, 0.2 + y / 3, 0.09, 0.06), 0) for x, y in lobes]
    if organ == "pools":
        spots = rng.uniform(-0.3, 0.3, (7, 2))
        pools: list[Shape] = [("ellipse", (78, 4, 10), (x, y, 0.12, 0.07), 0) for x, y in spots]
        return pools + [
            ("ellipse", (196, 208, 216), (x, y - 0.03, 0.03, 0.01), 0) for x, y in spots
        ]
    tilt = float(rng.uniform(-0.06, 0.06))
    fixed: dict[str, list[Shape]] = {
        "gallbladder": [("ellipse", (104, 148, 96), (0.26, -0.26, 0.2, 0.13), 0)],
        "big gallbladder": [
            ("ellipse", (86, 134, 88), (tilt, -0.08, 0.3, 0.2), 0),
            ("ellipse", (128, 172, 122), (tilt - 0.08, -0.14, 0.1, 0.05), 0),
        ],
        "duct": [("line", (150, 170, 110), (0.0, tilt, 0.34, 0.12), 0.05)],
        "artery": [("line", (226, 60, 66), (0.02, 0.16 + tilt, 0.34, -0.06), 0.035)],
        "bag": [
            ("ellipse", (222, 226, 232), (tilt, 0.06, 0.28, 0.26), 0),
            ("ellipse", (150, 156, 168), (tilt, -0.1, 0.2, 0.07), 0),
        ],
        "port": [
            ("ellipse", (96, 98, 106), (-0.14 + tilt, -0.12, 0.2, 0.2), 0),
            ("ellipse", (14, 12, 14), (-0.14 + tilt, -0.12, 0.15, 0.15), 0),
        ],
        "bag neck": [("line", (220, 224, 230), (0.02, 0.06, 0.1, 0.12), 0.08)],
    }
    return fixed[organ]


@dataclass(frozen=True)
class Sprite:
    """An instrument as drawn: planes, where they count, and where its tip is."""

    planes: Planes
    mask: NDArray[np.bool_]
    half_mask: NDArray[np.bool_]
    tip: tuple[int, int]
    """(x, y) of the working point within the sprite."""
    head: tuple[int, int, int, int]
    """(x0, y0, x1, y1) of the working part relative to the tip."""


Outline = tuple[RGB, tuple[tuple[float, float], ...]]

STEEL, DARK, BLUE, GOLD, PALE, WHITE = (
    (182, 188, 194), (48, 48, 54), (36, 84, 206), (222, 178, 60), (206, 212, 206), (240, 242, 244),
)  # fmt: skip


def _head(instrument: str, opening: float) -> list[Outline]:
    """Polygons of the working part; x runs along the tool towards the tip at 0, unit 1/224."""
    o = 3 + 6 * opening
    if instrument == "grasper":
        upper = ((-30, -2), (-24, -2 - o), (0, -1 - o), (2, -o + 2), (-22, 0))
        return [(STEEL, upper), (STEEL, tuple((x, -y) for x, y in upper))]
    if instrument == "hook":
        return [
            (DARK, ((-34, -3), (-14, -3), (-14, 3), (-34, 3))),
            (GOLD, ((-16, -2.5), (0, -2.5), (0, 13), (-5, 13), (-5, 2.5), (-16, 2.5))),
        ]
    if instrument == "scissors":
        upper = ((-26, 3), (-20, 5), (2, -1 - o), (0, -4 - o), (-24, -3))
        return [(WHITE, upper), (STEEL, tuple((x, -y) for x, y in upper))]
    if instrument == "clipper":
        return [
            (WHITE, ((-34, -10), (0, -9 - o / 3), (0, -3), (-30, -3))),
            (WHITE, ((-34, 10), (0, 9 + o / 3), (0, 3), (-30, 3))),
            (GOLD, ((-38, -9), (-30, -9), (-30, 9), (-38, 9))),
        ]
    if instrument == "bipolar":
        upper = ((-32, -2), (-22, -3 - o), (0, -2), (0, 0), (-20, 0))
        return [(BLUE, upper), (BLUE, tuple((x, -y) for x, y in upper))]
    return [
        (PALE, ((-36, -8), (0, -8), (0, 8), (-36, 8))),
        ((40, 150, 90), ((-30, -8), (-24, -8), (-24, 8), (-30, 8))),
        (DARK, ((-12, -3), (-6, -3), (-6, 3), (-12, 3))),
    ]


_SHAFTS: dict[str, tuple[RGB, float]] = {
    "grasper": ((120, 126, 134), 6),
    "hook": (DARK, 6),
    "scissors": ((150, 154, 158), 5),
    "clipper": ((70, 74, 80), 10),
    "bipolar": ((30, 60, 150), 6),
    "irrigator": (PALE, 8),
}


def draw_tool(instrument: str, angle: float, opening: float, size: int) -> Sprite:
    """An instrument whose shaft comes from the direction opposite to `angle`.

    Args:
        instrument: A key of the tool set.
        angle: Direction in which it points, radians, x to the right and y down.
        opening: 0 jaws closed to 1 open.
        size: Side of the picture in pixels.
    """
    reach, pad, fine = 1.25 * size, 0.12 * size, 2
    unit = size / 224
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    tail = turn @ np.array([-reach, 0.0])
    low = np.minimum(tail, 0) - pad
    side = np.ceil((np.maximum(tail, 0) + pad - low) / 2).astype(int) * 2
    image = Image.new("RGBA", tuple((side * fine).tolist()))
    pen = ImageDraw.Draw(image)
    colour, half = _SHAFTS[instrument]
    shaft = ((-reach / unit, -half), (-28, -half), (-28, half), (-reach / unit, half))
    glint = ((-reach / unit, -half / 2), (-28, -half / 2), (-28, 0), (-reach / unit, 0))
    shine: RGB = (min(255, colour[0] + 40), min(255, colour[1] + 40), min(255, colour[2] + 40))
    head = _head(instrument, opening)
    for fill, outline in [(colour, shaft), (shine, glint), *head]:
        points = (turn @ (np.array(outline).T * unit)).T - low
        pen.polygon([(float(x) * fine, float(y) * fine) for x, y in points], fill=(*fill, 255))
    rgba = np.asarray(image.resize(tuple(side.tolist()), Image.Resampling.BOX))
    mask = rgba[..., 3] > 127
    corners = np.concatenate([(turn @ (np.array(o).T * unit)).T for _, o in head])
    x0, y0 = np.floor(corners.min(axis=0)).astype(int).tolist()
    x1, y1 = np.ceil(corners.max(axis=0)).astype(int).tolist()
    tip = np.round(-low).astype(int).tolist()
    return Sprite(
        planes=yuv(np.ascontiguousarray(rgba[..., :3])),
        mask=mask,
        half_mask=mask[::2, ::2],
        tip=(tip[0], tip[1]),
        head=(x0, y0, x1, y1),
    )
