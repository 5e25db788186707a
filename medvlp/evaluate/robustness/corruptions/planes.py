"""What blurs, moves, coarsens or paints over pictures, whatever their values mean.

All functions work on the last two axes (rows, columns) of (...,H,W) float32 arrays; lengths are
fractions of the width, so that a level means the same at any size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage, signal

Floats = NDArray[np.float32]
Rng = np.random.Generator


def blurred(values: Floats, sigma: float) -> Floats:
    """Gaussian blur of standard deviation `sigma`."""
    pixels = sigma * values.shape[-1]
    found: Floats = ndimage.gaussian_filter(values, pixels, axes=(-2, -1), mode="nearest")
    return found


def smeared(values: Floats, length: float, angle_rad: float) -> Floats:
    """The mean along a straight line of `length` through each pixel."""
    pixels = length * values.shape[-1]
    reach = int(np.ceil(pixels / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    along = np.linspace(-pixels / 2, pixels / 2, 16 * reach)
    place = reach + along[:, None] * (np.sin(angle_rad), np.cos(angle_rad))
    corner = np.floor(place).astype(int)
    part = place - corner
    # Each point of the line is shared among its four pixels, so that short lines count, too.
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
        np.add.at(kernel, (corner[:, 0] + down, corner[:, 1] + right), share)
    kernel /= kernel.sum()
    pad = [(0, 0)] * (values.ndim - 2) + [(reach, reach)] * 2
    wide = np.pad(values, pad, mode="edge")
    shaped = kernel.reshape((1,) * (values.ndim - 2) + kernel.shape)
    found: Floats = signal.fftconvolve(wide, shaped, mode="valid", axes=(-2, -1))
    return found.astype(np.float32)


def turned(values: Floats, angle_deg: float, fill: float) -> Floats:
    """Rotated about the centre; what comes in from outside is `fill`."""
    found: Floats = ndimage.rotate(
        values, angle_deg, axes=(-1, -2), reshape=False, order=1, cval=fill
    )
    return found


def shifted(values: Floats, rows: float, columns: float, fill: float) -> Floats:
    """Moved by whole pixels nearest to fractions of the width; `fill` comes in."""
    width = values.shape[-1]
    moved = np.full_like(values, fill)
    height = values.shape[-2]
    down, right = round(rows * width), round(columns * width)
    source = values[..., max(0, -down) : height - max(0, down), :]
    source = source[..., max(0, -right) : width - max(0, right)]
    top, left = max(0, down), max(0, right)
    moved[..., top : top + source.shape[-2], left : left + source.shape[-1]] = source
    return moved


def coarse(values: Floats, factor: float) -> Floats:
    """Averaged onto a grid `factor` times coarser, and enlarged again without detail."""
    shape = values.shape
    size = [max(1, round(n / factor)) for n in shape[-2:]]
    planes = torch.from_numpy(np.ascontiguousarray(values)).reshape(1, -1, *shape[-2:])
    small = F.interpolate(planes, size, mode="area")
    large = F.interpolate(small, shape[-2:], mode="bilinear", align_corners=False)
    return large.reshape(shape).numpy()


def recompressed(values: Floats, quality: float) -> Floats:
    """Values in [0,1] through 8-bit JPEG, plane by plane: (...,H,W), or (...,H,W,3) in colour.

    Args:
        values: Grey planes, or colour frames if the last axis is 3.
        quality: Of JPEG, 1 to 95.
    """
    eight = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    side = 3 if values.shape[-1] == 3 else 2
    frames = eight.reshape(-1, *eight.shape[-side:])
    done = np.stack([_jpeg(frame, round(quality)) for frame in frames])
    return (done.reshape(values.shape) / np.float32(255)).astype(np.float32)


def _jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    held = io.BytesIO()
    Image.fromarray(frame).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held))


def field(shape: Sequence[int], rng: Rng, cells: int) -> Floats:
    """A smooth random (H,W) field in [-1,1] with about `cells` bumps along each side."""
    knots = rng.standard_normal((1, 1, cells + 1, cells + 1)).astype(np.float32)
    wide = F.interpolate(torch.from_numpy(knots), tuple(shape), mode="bicubic", align_corners=True)
    plane: Floats = wide[0, 0].numpy()
    return plane / np.float32(max(float(np.abs(plane).max()), 1e-6))


def radius(shape: Sequence[int], row: float = 0.5, column: float = 0.5) -> Floats:
    """(H,W) distance from a point given in fractions of the sides; 1 is half of the width."""
    height, width = shape
    y = (np.arange(height, dtype=np.float32) + 0.5 - row * height)[:, None]
    x = np.arange(width, dtype=np.float32) + 0.5 - column * width
    found: Floats = np.hypot(y, x) / np.float32(width / 2)
    return found


def lettered(shape: Sequence[int], text: str, height: float, row: float, column: float) -> Floats:
    """(H,W) cover in [0,1] of a line of text whose letters are `height` of the width tall.

    Args:
        shape: (H,W).
        text: What is written.
        height: Of the letters, as a fraction of the width.
        row: Top of the text, as a fraction of the height.
        column: Left of the text, as a fraction of the width.
    """
    picture = Image.new("L", (shape[1], shape[0]))
    font = ImageFont.load_default(size=max(6, round(height * shape[1])))
    ImageDraw.Draw(picture).text((column * shape[1], row * shape[0]), text, fill=255, font=font)
    return np.asarray(picture, np.float32) / np.float32(255)


def painted(values: Floats, cover_HW: Floats, colour: float | Floats) -> Floats:
    """`values` with `colour` laid over them where `cover_HW` is above 0."""
    done: Floats = values + cover_HW * (np.asarray(colour, np.float32) - values)
    return done


def unit(rng: Rng) -> float:
    """-1 or 1."""
    return 1.0 if rng.random() < 0.5 else -1.0
