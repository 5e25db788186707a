"""Corruptions of surgical video: colours in [0,1], (F,3,H,W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from medvlp.evaluate.robustness.corruptions import planes
from medvlp.evaluate.robustness.corruptions.planes import Floats, Rng

_WORDS = ("REC 00:41:07", "CAM 2  ZOOM 1.4", "PRESSURE 12", "FLOW 3.5", "LIGHT 80", "MEM 71 %")


def _colour(red: float, green: float, blue: float) -> Floats:
    return np.array([red, green, blue], np.float32)[:, None, None]


def smoke(clip: Floats, rng: Rng, density: float) -> Floats:
    """Drifting grey clouds; only a proxy of real surgical smoke."""
    size = clip.shape[-2:]
    cloud = 0.75 + 0.25 * planes.field((size[0], 2 * size[1]), rng, 6)
    starts = (np.arange(len(clip)) * size[1] // max(len(clip), 1)).astype(int)
    drift = np.stack([cloud[:, start : start + size[1]] for start in starts])[:, None]
    return planes.painted(clip, np.float32(density) * drift, _colour(0.78, 0.78, 0.8))


def fog(clip: Floats, rng: Rng, density: float) -> Floats:
    """A lens steamed up: blurred and whitened, most at the middle."""
    cover = np.float32(density) * np.clip(1.2 - 0.6 * planes.radius(clip.shape[-2:]), 0, 1)
    soft = planes.blurred(clip, 0.03 * density)
    return planes.painted(soft, cover, _colour(0.85, 0.87, 0.88))


def _drops(shape: tuple[int, ...], rng: Rng, share: float) -> Floats:
    """(H,W) cover of round and ragged drops on the lens over about `share` of the picture."""
    width = shape[1]
    ragged = planes.field(shape, rng, 10) * np.float32(0.12)
    nearest = np.full(shape, -1.0, np.float32)
    for row, column, size in rng.uniform((0, 0, 0.5), (1, 1, 1.5), (24, 3)):
        nearest = np.maximum(nearest, np.float32(size) * 0.3 - planes.radius(shape, row, column))
    limit = np.quantile(nearest + ragged, 1 - share)
    found: Floats = np.clip((nearest + ragged - limit) * np.float32(width / 4), 0, 1)
    return found


def blood_splash(clip: Floats, rng: Rng, share: float) -> Floats:
    """Drops of blood on the lens."""
    drops = _drops(clip.shape[-2:], rng, share)
    return planes.painted(clip, drops * np.float32(0.93), _colour(0.42, 0.03, 0.04))


def water_splash(clip: Floats, rng: Rng, share: float) -> Floats:
    """Drops of water on the lens: what lies behind is upside down, blurred and brighter."""
    drops = _drops(clip.shape[-2:], rng, share)
    behind = planes.blurred(clip[..., ::-1, :], 0.03) * np.float32(0.8) + np.float32(0.2)
    return clip + drops * (behind - clip)


def defocus(clip: Floats, rng: Rng, sigma: float) -> Floats:
    """Out of focus."""
    return planes.blurred(clip, sigma)


def motion_blur(clip: Floats, rng: Rng, length: float) -> Floats:
    """The camera moved during every exposure."""
    return planes.smeared(clip, length, rng.uniform(0, np.pi))


def low_light(clip: Floats, rng: Rng, gain: float) -> Floats:
    """Too little light, and the noise that comes with it."""
    noise = rng.standard_normal(clip.shape, np.float32)
    return clip * np.float32(gain) + np.float32(0.04 * (1 - gain)) * noise


def over_exposure(clip: Floats, rng: Rng, gain: float) -> Floats:
    """Too much light."""
    return clip * np.float32(gain)


def specular(clip: Floats, rng: Rng, count: float) -> Floats:
    """White reflections of the light on wet tissue, flickering in place."""
    shape = clip.shape[-2:]
    cover = np.zeros(shape, np.float32)
    spots = rng.uniform((0.1, 0.1, 0.02), (0.9, 0.9, 0.07), (64, 3))
    for row, column, size in spots[: round(count)]:
        far = planes.radius(shape, row, column)
        cover = np.maximum(cover, np.clip((np.float32(size) - far) * 60, 0, 1))
    pulse = rng.uniform(0.8, 1.0, (len(clip), 1, 1, 1)).astype(np.float32)
    return planes.painted(clip, cover * pulse, 1.0)


def _lost(clip: Floats, rng: Rng, share: float) -> list[int]:
    """Indices of lost frames, at least one; more levels lose more of the same order."""
    return list(rng.permutation(len(clip))[: max(1, round(share * len(clip)))])


def dropped_frames(clip: Floats, rng: Rng, share: float) -> Floats:
    """Frames that are black."""
    done = clip.copy()
    done[_lost(clip, rng, share)] = 0
    return done


def frozen_frames(clip: Floats, rng: Rng, share: float) -> Floats:
    """The picture stands still: from some moment on, the last frames repeat one."""
    count = min(len(clip) - 1, max(1, round(share * len(clip))))
    source = np.minimum(np.arange(len(clip)), len(clip) - 1 - count)
    return clip[source]


def frame_rate(clip: Floats, rng: Rng, hold: float) -> Floats:
    """Each frame held so long."""
    return clip[np.arange(len(clip)) // round(hold) * round(hold)]


def compression(clip: Floats, rng: Rng, quality: float) -> Floats:
    """Blocks and smeared colour of a low bit rate, frame by frame."""
    last = planes.recompressed(np.moveaxis(clip, 1, -1), quality)
    return np.ascontiguousarray(np.moveaxis(last, -1, 1))


def colour_shift(clip: Floats, rng: Rng, angle_deg: float) -> Floats:
    """All hues turned about the grey axis."""
    turn = np.deg2rad(planes.unit(rng) * angle_deg)
    cos, sin = np.cos(turn), np.sin(turn)
    third, root = (1 - cos) / 3, np.sqrt(1 / 3) * sin
    a, b, c = cos + third, third - root, third + root
    matrix = np.array([[a, b, c], [c, a, b], [b, c, a]], np.float32)
    found: Floats = np.einsum("ij,fjhw->fihw", matrix, clip)
    return found


def white_balance(clip: Floats, rng: Rng, strength: float) -> Floats:
    """Too warm or too cold."""
    warm = planes.unit(rng) * strength
    return clip * _colour(1 + warm, 1, 1 - warm)


def noise(clip: Floats, rng: Rng, sigma: float) -> Floats:
    """Noise of the sensor."""
    return clip + np.float32(sigma) * rng.standard_normal(clip.shape, np.float32)


def vignette(clip: Floats, rng: Rng, strength: float) -> Floats:
    """Dark towards the corners."""
    fall = np.clip(planes.radius(clip.shape[-2:]) ** 2, 0, 1)
    return clip * (1 - np.float32(strength) * fall)


def rotation(clip: Floats, rng: Rng, angle_deg: float) -> Floats:
    """The camera turned about its axis."""
    return planes.turned(clip, planes.unit(rng) * angle_deg, 0.0)


def tool_occlusion(clip: Floats, rng: Rng, width: float) -> Floats:
    """A grey shaft from the edge across the middle, close to the lens."""
    height, columns = clip.shape[-2:]
    turn = rng.uniform(0, np.pi)
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / columns
    x = (np.arange(columns, dtype=np.float32) - columns / 2) / columns
    across = np.abs(x * np.sin(turn) - y * np.cos(turn))
    along = x * np.cos(turn) + y * np.sin(turn)
    cover = np.clip((width / 2 - across) * columns, 0, 1) * (along < 0.15)
    shade = 0.35 + 0.35 * np.cos(np.clip(across / width, 0, 0.5) * np.pi)
    return planes.painted(clip, cover.astype(np.float32), shade.astype(np.float32))


def interlace(clip: Floats, rng: Rng, shift: float) -> Floats:
    """Combs: odd lines are of a later moment, in which the camera has moved sideways."""
    moved = np.roll(clip, max(1, round(shift * clip.shape[-1])), axis=-1)
    done = clip.copy()
    done[..., 1::2, :] = moved[..., 1::2, :]
    return done


def flicker(clip: Floats, rng: Rng, depth: float) -> Floats:
    """Light that changes from frame to frame."""
    gain = 1 - np.float32(depth) * rng.random((len(clip), 1, 1, 1)).astype(np.float32)
    return clip * gain


def down_sampling(clip: Floats, rng: Rng, factor: float) -> Floats:
    """Fewer pixels."""
    return planes.coarse(clip, factor)


def overlay_text(clip: Floats, rng: Rng, lines: float) -> Floats:
    """The recorder's lines of text over the picture."""
    order = rng.permutation(len(_WORDS))[: round(lines)]
    rows = 0.04 + 0.15 * np.arange(len(order))
    cover = np.zeros(clip.shape[-2:], np.float32)
    for row, word in zip(rows, order, strict=True):
        cover += planes.lettered(cover.shape, _WORDS[word], 0.09, row, 0.05)
    return planes.painted(clip, np.clip(cover, 0, 1), _colour(0.9, 1.0, 0.4))


KINDS: Mapping[str, Callable[[Floats, Rng, float], Floats]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            smoke, fog, blood_splash, water_splash, defocus, motion_blur, low_light, over_exposure,
            specular, dropped_frames, frozen_frames, frame_rate, compression, colour_shift,
            white_balance, noise, vignette, rotation, tool_occlusion, interlace, flicker,
            down_sampling, overlay_text,
        )
    }
)  # fmt: skip
"""By the name in `levels.yaml`."""
