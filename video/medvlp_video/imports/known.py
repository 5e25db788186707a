"""The clip whose embedding tells whether an import does what the original does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvlp.models.imports.answer import Known
from medvlp_video.preprocess import ClipPreprocessConfig


def known_clip(frames: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Frames (F,H,W,3).

    Frame f, row y, column x and colour c have ``(29 f + 13 y + 7 x + 85 c) mod 256``.

    >>> known_clip(2, 16, 16)[1, 2, 3]
    array([ 76, 161, 246], dtype=uint8)
    """
    f, y, x, c = (np.arange(n) for n in (frames, rows, columns, 3))
    level = 29 * f[:, None, None, None] + 13 * y[:, None, None] + 7 * x[:, None] + 85 * c
    return (level % 256).astype(np.uint8)


def _of(contract: ClipPreprocessConfig) -> NDArray[np.uint8]:
    return known_clip(contract.frames, *(contract.resize_to or (contract.size, contract.size)))


CLIP = Known(
    array=_of,
    words="frame f, row y, column x, colour c (red 0): (29 f + 13 y + 7 x + 85 c) mod 256, as many "
    "frames as the contract reads, each of resize_to rows and columns, or of size",
    labels="Dissection,Clipping",
)
