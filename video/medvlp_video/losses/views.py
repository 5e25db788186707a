"""Views of clips: other crops and colours, drawn for a whole clip or for each frame.

Shape letters: B clips, F frames, X frames of all clips, K numbers of a draw.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medvlp.data.randomness import generator

SIDE = 224
"""Pixels of a picture's side for which `BLUR` is meant; on others it is in proportion."""

BLUR = (0.1, 2.0)
"""Standard deviations of the blur in pixels, as SimCLR draws them."""

ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop."""

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""


class Look(NamedTuple):
    """How frames of a view are made, a number each: fractions of the picture, factors, pixels."""

    y: Tensor
    x: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    bright: Tensor
    contrast: Tensor
    colour: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, look_XK: Tensor) -> Look:
        """The columns of a draw."""
        return cls(*look_XK.unbind(1))


class Reach(NamedTuple):
    """How far views may go."""

    least_crop: float
    """Smallest share of the area that a crop keeps."""

    jitter: float
    """Brightness, contrast and colour change by up to this fraction..."""

    jittered: float
    """...with this probability."""

    grey: float
    """Probability that the colours go."""

    blur: float
    """Probability of a blur."""

    flip: float
    """Probability that left and right change places."""


def draw_looks(
    reach: Reach, seed_B: Tensor, frames: int, per: Literal["clip", "frame"], number: int
) -> Tensor:
    """The `Look` of each frame of a view (B,F,K), on the CPU; it follows from each clip's seed.

    Args:
        reach: How far it may go.
        seed_B: A number of each clip.
        frames: F.
        per: Whether a clip's frames are made alike, or each anew.
        number: Which of the clip's views.
    """
    drawn = [
        _draw(reach, generator(seed, number, per, "view"), frames if per == "frame" else 1)
        for seed in seed_B.tolist()
    ]
    return torch.from_numpy(np.stack(drawn)).expand(-1, frames, -1)


def _draw(reach: Reach, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    area = rng.uniform(reach.least_crop, 1.0, count)
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), count))
    height, width = np.minimum(np.sqrt(np.stack([area / aspect, area * aspect])), 1.0)
    y, x = rng.uniform(0.0, 1.0, (2, count)) * (1.0 - np.stack([height, width]))
    jitter = reach.jitter * (rng.random(count) < reach.jittered)
    bright, contrast, colour = 1.0 + jitter * rng.uniform(-1.0, 1.0, (3, count))
    colour = np.where(rng.random(count) < reach.grey, 0.0, colour)
    sigma = rng.uniform(BLUR[0], BLUR[1], count) * (rng.random(count) < reach.blur)
    flip = (rng.random(count) < reach.flip).astype(np.float64)
    # In the order of `Look`.
    return np.stack([y, x, height, width, flip, bright, contrast, colour, sigma], axis=-1)


def look_at(
    clip_BFCHW: Tensor,
    look_BFK: Tensor,
    mean: float | tuple[float, ...] = 0.0,
    std: float | tuple[float, ...] = 1.0,
) -> Tensor:
    """A view of each clip, on the clips' device, in float32.

    Args:
        clip_BFCHW: The model's input.
        look_BFK: What `draw_looks` gave.
        mean: What was subtracted from pictures in 0 to 1, or from each of their channels.
        std: And what they were then divided by.
    """
    with torch.autocast(clip_BFCHW.device.type, enabled=False):
        mean_C11, std_C11 = (
            torch.tensor(value, device=clip_BFCHW.device).view(-1, 1, 1) for value in (mean, std)
        )
        frame_XCHW = (clip_BFCHW.float() * std_C11 + mean_C11).flatten(0, 1)
        look_XK = look_BFK.flatten(0, 1).to(frame_XCHW)
        seen_XCHW = _cropped(frame_XCHW, look_XK)
        seen_XCHW = _coloured(seen_XCHW, look_XK)
        if (look_BFK[..., -1] > 0).any():
            seen_XCHW = _blurred(seen_XCHW, look_XK)
        view_XCHW = (seen_XCHW.clamp(0, 1) - mean_C11) / std_C11
        return view_XCHW.view(clip_BFCHW.shape)


def _cropped(frame_XCHW: Tensor, look_XK: Tensor) -> Tensor:
    look = Look.of(look_XK)
    side = torch.where(look.flip > 0, -look.width, look.width)
    zero = torch.zeros_like(side)
    across = torch.stack([side, zero, 2 * look.x + look.width - 1], 1)
    down = torch.stack([zero, look.height, 2 * look.y + look.height - 1], 1)
    place_XHW2 = F.affine_grid(
        torch.stack([across, down], 1), list(frame_XCHW.shape), align_corners=False
    )
    return F.grid_sample(frame_XCHW, place_XHW2, padding_mode="border", align_corners=False)


def _coloured(frame_XCHW: Tensor, look_XK: Tensor) -> Tensor:
    look = Look.of(look_XK[..., None, None, None])
    bright = frame_XCHW * look.bright
    centre = _grey(bright).mean((2, 3), keepdim=True)
    contrast = (bright - centre) * look.contrast + centre
    grey = _grey(contrast)
    return (contrast - grey) * look.colour + grey


def _grey(frame_XCHW: Tensor) -> Tensor:
    if frame_XCHW.shape[1] != len(LUMA):
        return frame_XCHW.mean(1, keepdim=True)
    return torch.einsum("xchw,c->xhw", frame_XCHW, frame_XCHW.new_tensor(LUMA))[:, None]


def _blurred(frame_XCHW: Tensor, look_XK: Tensor) -> Tensor:
    count, channels, *size = frame_XCHW.shape
    scale = max(size) / SIDE
    sigma_X = Look.of(look_XK).sigma * scale
    # Twice the widest, as far as the picture reaches.
    reach = min(math.ceil(2 * BLUR[1] * scale), min(size) - 1)
    place_R = torch.arange(-reach, reach + 1, device=sigma_X.device)
    weight_XR = (-0.5 * (place_R / sigma_X.clamp(min=1e-3)[:, None]) ** 2).exp()
    weight_XR = weight_XR / weight_XR.sum(1, keepdim=True)
    kernel_Y1R = weight_XR.repeat_interleave(channels, 0)[:, None]
    x = F.pad(frame_XCHW, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    x = F.conv2d(x, kernel_Y1R[:, :, None], groups=count * channels)
    x = F.conv2d(x, kernel_Y1R[..., None], groups=count * channels)
    return x.view(frame_XCHW.shape)
