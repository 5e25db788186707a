"""Maps that never look at the image: what pointing by habit, or by chance, is worth.

All lie on a grid of at most `COARSE` cells an axis over the stored grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medvlp.data.randomness import generator

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

COARSE = 32
_CENTRE_SPREAD = 0.25
_RANDOM_SPREAD = 1 / 8


def coarse(shape: Sequence[int]) -> tuple[int, ...]:
    """The grid of the controls' maps for a stored grid.

    >>> coarse((20, 224, 224))
    (20, 32, 32)
    """
    return tuple(min(size, COARSE) for size in shape)


def chance_map(shape: Sequence[int], seed: int, key: str) -> Floats:
    """A smooth random map: Gaussian noise blurred by an eighth of each side.

    Args:
        shape: Of the stored grid.
        seed: The protocol's.
        key: What the draw belongs to: a sample and a name.
    """
    grid = coarse(shape)
    noise = generator(seed, 0, key, "chance-map").standard_normal(grid)
    blurred = gaussian_filter(noise, [_RANDOM_SPREAD * n for n in grid], mode="wrap")
    field: Floats = blurred.astype(np.float32)
    return field


def centre_map(shape: Sequence[int]) -> Floats:
    """A Gaussian around the middle, its deviation a quarter of each side."""
    exponent = np.zeros(())
    for n in coarse(shape):
        at = (np.arange(n) + 0.5) / n - 0.5
        exponent = exponent[..., None] + (at / _CENTRE_SPREAD) ** 2
    return np.exp(-exponent / 2).astype(np.float32)


def mean_map(masks: Iterable[Bools]) -> Floats | None:
    """Where the region lies in other patients: the mean of their masks; None without any.

    All are brought to the first one's grid, for volumes of one contract may differ in depth.
    """
    total, count = np.zeros(()), 0
    grid: tuple[int, ...] = ()
    for mask in masks:
        grid = grid or coarse(mask.shape)
        total = total + _pooled(mask, grid)
        count += 1
    return (total / count).astype(np.float32) if count else None


def _pooled(mask: Bools, grid: tuple[int, ...]) -> NDArray[np.float64]:
    one = torch.from_numpy(mask)[None].double()
    if mask.ndim == 2:
        cells = F.adaptive_avg_pool2d(one, (grid[0], grid[1]))
    else:
        cells = F.adaptive_avg_pool3d(one, (grid[0], grid[1], grid[2]))
    pooled: NDArray[np.float64] = cells[0].numpy()
    return pooled
