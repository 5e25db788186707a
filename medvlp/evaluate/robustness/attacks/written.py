"""The opposite of the truth, written into a corner of the picture."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from torch import Tensor

from medvlp.evaluate.robustness.corruptions.planes import Floats, lettered

HEIGHT = 0.08
"""Height of the letters, as a fraction of the width."""


def opposite(label: str, present: bool) -> str:
    """What is written about a label: that it is not there where it is, and the reverse."""
    words = label.rpartition(":")[2].replace("_", " ")
    return f"no {words}" if present else words


def written(pictures: Tensor, text: str) -> Tensor:
    """Pictures (B,...,H,W) with white words on black in the upper left corner, in every plane."""
    height, width = pictures.shape[-2:]
    line = max(6, round(HEIGHT * width))
    lines = textwrap.wrap(text, max(4, int(1.7 * width / line)))[: max(1, height // line)]
    cover = np.zeros((height, width), np.float32)
    for k, words in enumerate(lines):
        cover = np.maximum(cover, lettered((height, width), words, HEIGHT, k * line / height, 0.02))
    band = np.zeros_like(cover)
    band[: min(height, round(1.15 * line * len(lines)))] = 1
    return _laid(pictures, cover, band)


def _laid(pictures: Tensor, cover: Floats, band: Floats) -> Tensor:
    letters, under = (torch.from_numpy(plane).to(pictures) for plane in (cover, band))
    return pictures * (1 - under) + letters * under
