"""Corruptions of X-rays: greys in [0,1], (H,W), bright bone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from medvlp.evaluate.robustness.corruptions import planes
from medvlp.evaluate.robustness.corruptions.planes import Floats, Rng

_DEPTH = 3.0
"""Attenuation between black and white, in natural logarithms: about five per cent get through."""


def quantum_noise(grey: Floats, rng: Rng, photons: float) -> Floats:
    """Poisson noise of the detected quanta; `photons` reach a pixel behind nothing."""
    behind = photons * np.exp(-_DEPTH * grey)
    # Standard normal draws, shared by all levels; Poisson's own limit at these counts.
    counted = behind + np.sqrt(behind) * rng.standard_normal(grey.shape)
    found: Floats = -np.log(np.maximum(counted, 0.5) / photons) / _DEPTH
    return found


def electronic_noise(grey: Floats, rng: Rng, sigma: float) -> Floats:
    """White noise of the read-out."""
    return grey + np.float32(sigma) * rng.standard_normal(grey.shape, np.float32)


def speckle(grey: Floats, rng: Rng, sigma: float) -> Floats:
    """Noise in proportion to the grey."""
    return grey * (1 + np.float32(sigma) * rng.standard_normal(grey.shape, np.float32))


def kvp_contrast(grey: Floats, rng: Rng, factor: float) -> Floats:
    """Less contrast, as with a harder beam: bone moves towards the mean more than lung does."""
    mean = grey.mean()
    bright = np.clip(grey - mean, 0, None)
    found: Floats = mean + np.minimum(grey - mean, 0) * (0.5 + 0.5 * factor) + bright * factor
    return found


def window_shift(grey: Floats, rng: Rng, offset: float) -> Floats:
    """The window's centre set too high or too low."""
    return grey + np.float32(planes.unit(rng) * offset)


def gamma(grey: Floats, rng: Rng, exponent: float) -> Floats:
    """Another tone curve."""
    power = exponent if rng.random() < 0.5 else 1 / exponent
    return np.clip(grey, 0, 1) ** np.float32(power)


def saturation(grey: Floats, rng: Rng, gain: float) -> Floats:
    """Over-exposed about the middle grey: black and white are reached too early."""
    return (grey - 0.5) * np.float32(gain) + np.float32(0.5)


def bit_depth(grey: Floats, rng: Rng, greys: float) -> Floats:
    """Only so many greys."""
    found: Floats = np.rint(grey * (greys - 1)) / np.float32(greys - 1)
    return found


def bias_field(grey: Floats, rng: Rng, strength: float) -> Floats:
    """A smooth gain over the picture, as of the anode's heel."""
    return grey * (1 + np.float32(strength) * planes.field(grey.shape, rng, 2))


def scatter(grey: Floats, rng: Rng, share: float) -> Floats:
    """Scattered radiation: a share of the signal is the blurred picture, somewhat brighter."""
    veil = planes.blurred(grey, 0.15)
    return (1 - share) * grey + share * (0.8 * veil + 0.2)


def motion_blur(grey: Floats, rng: Rng, length: float) -> Floats:
    """The patient moved along a line."""
    return planes.smeared(grey, length, rng.uniform(0, np.pi))


def defocus(grey: Floats, rng: Rng, sigma: float) -> Floats:
    """A large focal spot."""
    return planes.blurred(grey, sigma)


def down_sampling(grey: Floats, rng: Rng, factor: float) -> Floats:
    """Fewer pixels."""
    return planes.coarse(grey, factor)


def jpeg(grey: Floats, rng: Rng, quality: float) -> Floats:
    """Lossy compression at 8 bits."""
    return planes.recompressed(grey, quality)


def rotation(grey: Floats, rng: Rng, angle_deg: float) -> Floats:
    """The patient or the cassette askew."""
    return planes.turned(grey, planes.unit(rng) * angle_deg, 0.0)


def translation(grey: Floats, rng: Rng, length: float) -> Floats:
    """Off centre."""
    angle = rng.uniform(0, 2 * np.pi)
    return planes.shifted(grey, length * np.sin(angle), length * np.cos(angle), 0.0)


def truncation(grey: Floats, rng: Rng, kept: float) -> Floats:
    """The round field of an image intensifier, too small for the body."""
    return np.where(planes.radius(grey.shape) <= kept, grey, np.float32(0))


def collimation(grey: Floats, rng: Rng, edge: float) -> Floats:
    """Collimated too tightly: borders of differing width are black."""
    done = np.zeros_like(grey)
    share = rng.uniform(0.5, 1.0, 4) * edge
    height, width = grey.shape
    top, bottom = round(share[0] * height), height - round(share[1] * height)
    left, right = round(share[2] * width), width - round(share[3] * width)
    done[top:bottom, left:right] = grey[top:bottom, left:right]
    return done


def grid_lines(grey: Floats, rng: Rng, amplitude: float) -> Floats:
    """Lines of a grid that did not move, beating with the pixels."""
    column = np.arange(grey.shape[1], dtype=np.float32)
    wave = np.sin(column * np.float32(2 * np.pi / rng.uniform(3, 6)) + rng.uniform(0, 6))
    found: Floats = grey + np.float32(amplitude) * wave
    return found


def dead_pixels(grey: Floats, rng: Rng, share: float) -> Floats:
    """Pixels that are black or white for ever, and a few lines."""
    draw = rng.random(grey.shape, np.float32)
    white = rng.random(grey.shape, np.float32) < 0.5
    bad = draw < share
    bad |= rng.random((grey.shape[0], 1)) < share / 4
    return np.where(bad, white.astype(np.float32), grey)


def banding(grey: Floats, rng: Rng, sigma: float) -> Floats:
    """Each row read out with an offset of its own."""
    return grey + np.float32(sigma) * rng.standard_normal((grey.shape[0], 1)).astype(np.float32)


def lag(grey: Floats, rng: Rng, share: float) -> Floats:
    """The ghost of an earlier exposure; the same picture upside down stands for another one."""
    return (1 - share) * grey + share * grey[::-1]


def marker(grey: Floats, rng: Rng, height: float) -> Floats:
    """A bright letter and number burned in at an upper corner."""
    text = f"{'LR'[rng.integers(2)]} {rng.integers(10, 99)}"
    column = 0.03 if rng.random() < 0.5 else 0.97 - 2.2 * height
    return planes.painted(grey, planes.lettered(grey.shape, text, height, 0.03, column), 1.0)


KINDS: Mapping[str, Callable[[Floats, Rng, float], Floats]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            quantum_noise, electronic_noise, speckle, kvp_contrast, window_shift, gamma,
            saturation, bit_depth, bias_field, scatter, motion_blur, defocus, down_sampling, jpeg,
            rotation, translation, truncation, collimation, grid_lines, dead_pixels, banding, lag,
            marker,
        )
    }
)  # fmt: skip
"""By the name in `levels.yaml`."""
