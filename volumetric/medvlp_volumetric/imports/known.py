"""The volume whose embedding tells whether an import does what the original does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvlp.models.imports.answer import Known
from medvlp_volumetric.preprocess import CtPreprocessConfig


def known_volume(
    shape: Sequence[int], window_hu: tuple[float, float] = (-1000.0, 1000.0)
) -> NDArray[np.int16]:
    """HU (D,H,W) of 256 levels over the whole window, rounded to whole numbers.

    Slice z from the feet, row y from the front and column x from the right have the level
    ``(29 z + 13 y + 7 x) mod 256``.

    >>> known_volume((8, 8, 8))[0, 1, 2]
    np.int16(-788)
    """
    z, y, x = (np.arange(n) for n in shape)
    level = (29 * z[:, None, None] + 13 * y[:, None] + 7 * x) % 256
    low, high = window_hu
    return np.rint(low + level * (high - low) / 255).astype(np.int16)


def _of(contract: CtPreprocessConfig) -> NDArray[np.int16]:
    return known_volume(contract.shape, contract.window_hu)


VOLUME = Known(
    array=_of,
    words="slice z to the head, row y to the back, column x to the left: HU of level "
    "(29 z + 13 y + 7 x) mod 256 of 255 over the window, rounded, of the contract's shape and "
    "spacing",
)
