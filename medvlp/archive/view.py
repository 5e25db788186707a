"""What a domain shows of one sample to whoever may see it: pictures, facts and curves.

Views are made in a child process and cross to the page as text, so they hold encoded pictures.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG in base64."""

    caption: str
    png: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Numbers to plot: a histogram or a profile."""

    caption: str
    x_name: str
    y_name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of one sample."""

    facts: tuple[tuple[str, str], ...] = ()
    """Name and value, such as ``("spacing", "5.00 x 0.70 x 0.70 mm")``; no identifiers."""

    flags: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    curves: tuple[Curve, ...] = ()


def to_bytes(values_HW: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Grey values of a window: `low` and darker is black, `high` and brighter white.

    >>> to_bytes(np.array([[-1.0, 0.0, 5.0]]), 0, 2)
    array([[  0,   0, 255]], dtype=uint8)
    """
    scaled = (values_HW - low) * (255.0 / max(high - low, 1e-6))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)


def fit(
    grey: NDArray[np.uint8], side: int, aspect: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.uint8]:
    """The picture in true proportions with its longer edge `side` pixels, (H,W) or (H,W,3).

    Args:
        grey: The picture.
        side: Pixels along the longer edge.
        aspect: Millimetres (or any unit) a pixel is high and wide.
    """
    height, width = grey.shape[0] * aspect[0], grey.shape[1] * aspect[1]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))


def tile(pictures: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Pictures of one size in rows of `columns`, two pixels apart."""
    height, width, *depth = pictures[0].shape
    rows = math.ceil(len(pictures) / columns)
    sheet = np.zeros((rows * (height + 2), columns * (width + 2), *depth), np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def picture(pixels: NDArray[np.uint8], caption: str) -> Picture:
    """A `Picture` of (H,W) or (H,W,3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return Picture(caption=caption, png=base64.b64encode(buffer.getvalue()).decode("ascii"))
