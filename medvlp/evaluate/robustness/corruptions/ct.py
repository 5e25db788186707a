"""Corruptions of CT: Hounsfield units, (D,H,W), axial slices from the feet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from medvlp.evaluate.robustness.corruptions import planes
from medvlp.evaluate.robustness.corruptions.planes import Floats, Rng

AIR = -1000.0
_LOW, _SPAN = -1024.0, 2048.0
"""The window in which a volume is compressed to 8 bits."""


def _body(hu: Floats) -> Floats:
    """1 inside the body, 0 in the air around, with soft edges."""
    found: Floats = np.clip((planes.blurred(hu, 0.03) + 700) / 300, 0, 1)
    return found


def quantum_noise(hu: Floats, rng: Rng, sigma: float) -> Floats:
    """Noise as filtered back-projection leaves it: its low frequencies are missing."""
    white = rng.standard_normal(hu.shape, np.float32)
    grainy = white - planes.blurred(white, 2.0 / hu.shape[-1])
    return hu + np.float32(sigma) * grainy / np.float32(grainy.std())


def photon_starvation(hu: Floats, rng: Rng, sigma: float) -> Floats:
    """Streaks from side to side where the beam passes through much tissue."""
    path = np.clip(hu + 1000, 0, None).sum(axis=-1, keepdims=True)
    heavy = (path / max(float(path.max()), 1.0)) ** 2
    streaks = ndimage.uniform_filter1d(
        rng.standard_normal(hu.shape, np.float32), max(3, hu.shape[-1] // 3), axis=-1
    )
    found: Floats = hu + np.float32(sigma) * heavy * streaks / np.float32(streaks.std())
    return found


def kvp_contrast(hu: Floats, rng: Rng, factor: float) -> Floats:
    """A harder beam: what is denser than water loses contrast."""
    return np.minimum(hu, 0) + np.maximum(hu, 0) * np.float32(factor)


def hu_shift(hu: Floats, rng: Rng, offset: float) -> Floats:
    """A scale whose zero is off."""
    return hu + np.float32(planes.unit(rng) * offset)


def hu_curve(hu: Floats, rng: Rng, exponent: float) -> Floats:
    """A scale that is bent between air and the densest bone."""
    share = np.clip((hu - _LOW) / 4095, 0, 1)
    bent: Floats = share.astype(np.float32) ** np.float32(exponent) * np.float32(4095)
    return bent + np.float32(_LOW)


def saturation(hu: Floats, rng: Rng, width: float) -> Floats:
    """Exported through a window: beyond `width` on either side of 40 HU nothing is told apart."""
    return np.clip(hu, 40 - width, 40 + width)


def bit_depth(hu: Floats, rng: Rng, step: float) -> Floats:
    """Values in steps."""
    found: Floats = np.rint(hu / step) * np.float32(step)
    return found


def bias_field(hu: Floats, rng: Rng, offset: float) -> Floats:
    """A smooth offset inside the body."""
    return hu + np.float32(offset) * planes.field(hu.shape[-2:], rng, 3) * _body(hu)


def cupping(hu: Floats, rng: Rng, offset: float) -> Floats:
    """Beam hardening: the middle of the body reads too low."""
    depth = np.clip(1 - planes.radius(hu.shape[-2:]) ** 2, 0, None)
    return hu - np.float32(offset) * depth * _body(hu)


def ring(hu: Floats, rng: Rng, offset: float) -> Floats:
    """Rings about the centre of rotation, one for each detector that is off."""
    pixels = planes.radius(hu.shape[-2:]) * hu.shape[-1] / 2
    detectors = rng.standard_normal((hu.shape[-1],)) * (rng.random((hu.shape[-1],)) < 0.6)
    index = np.clip(pixels.astype(int), 0, hu.shape[-1] - 1)
    found: Floats = hu + np.float32(offset) * detectors[index].astype(np.float32)
    return found


def metal_streak(hu: Floats, rng: Rng, amplitude: float) -> Floats:
    """A bright implant in a third of the slices, with rays of alternating sign around it."""
    row, column = rng.uniform(0.35, 0.65, 2)
    far = planes.radius(hu.shape[-2:], row, column)
    angle = np.arctan2(*_offsets(hu.shape[-2:], row, column))
    phase, rays = rng.uniform(0, 6), rng.integers(5, 9)
    star = np.cos(rays * angle + phase) ** 5 + 0.5 * np.cos((rays + 4) * angle - phase) ** 3
    weight = np.zeros(len(hu), np.float32)
    first = int(rng.integers(0, max(1, len(hu) - len(hu) // 3)))
    weight[first : first + max(1, len(hu) // 3)] = 1
    rays_DHW = weight[:, None, None] * (amplitude * star / (1 + 4 * far)).astype(np.float32)
    metal = weight[:, None, None] * np.clip((0.06 - far) * 40, 0, 1)
    done: Floats = planes.painted(hu + rays_DHW * _body(hu), metal, 3000.0)
    return done


def _offsets(shape: tuple[int, ...], row: float, column: float) -> tuple[Floats, Floats]:
    y = (np.arange(shape[0], dtype=np.float32) + 0.5 - row * shape[0])[:, None]
    x = (np.arange(shape[1], dtype=np.float32) + 0.5 - column * shape[1])[None]
    return y, x


def motion_blur(hu: Floats, rng: Rng, length: float) -> Floats:
    """The patient moved along a line."""
    return planes.smeared(hu, length, rng.uniform(0, np.pi))


def motion_ghost(hu: Floats, rng: Rng, share: float) -> Floats:
    """A second contour, as of a heart or diaphragm in two positions."""
    return (1 - share) * hu + share * planes.shifted(hu, 0.05, 0.03, AIR)


def defocus(hu: Floats, rng: Rng, sigma: float) -> Floats:
    """A soft kernel."""
    return planes.blurred(hu, sigma)


def sharp_kernel(hu: Floats, rng: Rng, strength: float) -> Floats:
    """A hard kernel: edges overshoot, grain grows."""
    return hu + np.float32(strength) * (hu - planes.blurred(hu, 0.012))


def down_sampling(hu: Floats, rng: Rng, factor: float) -> Floats:
    """Fewer pixels in the slice."""
    return planes.coarse(hu, factor)


def jpeg(hu: Floats, rng: Rng, quality: float) -> Floats:
    """Lossy compression at 8 bits of a wide window."""
    return planes.recompressed((hu - _LOW) / np.float32(_SPAN), quality) * np.float32(
        _SPAN
    ) + np.float32(_LOW)


def slice_thickness(hu: Floats, rng: Rng, slices: float) -> Floats:
    """Each slice the mean of so many."""
    done: Floats = ndimage.uniform_filter1d(hu, round(slices), axis=0, mode="nearest")
    return done


def missing_slices(hu: Floats, rng: Rng, share: float) -> Floats:
    """Slices that are not there, the nearest one below in their place."""
    lost = rng.random(len(hu)) < share
    lost[0] = False
    source = np.maximum.accumulate(np.where(lost, 0, np.arange(len(hu))))
    return hu[source]


def rotation(hu: Floats, rng: Rng, angle_deg: float) -> Floats:
    """The patient turned about the long axis."""
    return planes.turned(hu, planes.unit(rng) * angle_deg, AIR)


def translation(hu: Floats, rng: Rng, length: float) -> Floats:
    """Off centre."""
    angle = rng.uniform(0, 2 * np.pi)
    return planes.shifted(hu, length * np.sin(angle), length * np.cos(angle), AIR)


def truncation(hu: Floats, rng: Rng, kept: float) -> Floats:
    """A round field of view too small for the body."""
    return np.where(planes.radius(hu.shape[-2:]) <= kept, hu, np.float32(AIR))


def scan_range(hu: Floats, rng: Rng, share: float) -> Floats:
    """A scan that began too late and ended too early."""
    done = np.full_like(hu, AIR)
    cut = round(share * len(hu))
    done[cut : len(hu) - cut] = hu[cut : len(hu) - cut]
    return done


def marker(hu: Floats, rng: Rng, height: float) -> Floats:
    """Bright words burned into every slice."""
    text = f"{'LR'[rng.integers(2)]} {rng.integers(10, 99)}"
    return planes.painted(hu, planes.lettered(hu.shape[-2:], text, height, 0.03, 0.03), 2000.0)


KINDS: Mapping[str, Callable[[Floats, Rng, float], Floats]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            quantum_noise, photon_starvation, kvp_contrast, hu_shift, hu_curve, saturation,
            bit_depth, bias_field, cupping, ring, metal_streak, motion_blur, motion_ghost, defocus,
            sharp_kernel, down_sampling, jpeg, slice_thickness, missing_slices, rotation,
            translation, truncation, scan_range, marker,
        )
    }
)  # fmt: skip
"""By the name in `levels.yaml`."""
