"""Views of volumes: cropped, turned about the head-feet axis, with blocks cut out.

Shape letters: B samples, V views (twice as many, all first ones before all second ones), C
channels, D H W spatial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TURNS = 4
"""Quarter turns that a view may have made, none among them."""

LEAST_BLOCK = 0.05
"""Smallest side of a block that is cut out, as a share of the view's."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """Two views of each volume, before anything is cut out of them."""

    whole_VCDHW: Tensor
    turn_V: Tensor
    """Quarter turns that each has made, from the back (+H) towards the left (+W)."""

    hole_VDHW: Tensor
    """True where a voxel is to be hidden."""

    least_VC: Tensor
    """The least value of each channel of the whole volume."""

    most_VC: Tensor
    """The greatest."""

    def cut(self) -> Tensor:
        """The views with noise in the holes, even over the range of the volume's own values."""
        low, high = (x_VC[..., None, None, None] for x_VC in (self.least_VC, self.most_VC))
        noise = low + torch.rand_like(self.whole_VCDHW) * (high - low)
        return torch.where(self.hole_VDHW[:, None], noise, self.whole_VCDHW)


def two_views(
    image: Tensor, shape: Sequence[int] | None, *, turns: bool, most: float, block: float
) -> Views:
    """Two views of each volume of a batch; draws from torch's default generator.

    Both are of one crop, as published, and differ in turns and holes.

    Args:
        image: (B,C,D,H,W).
        shape: D, H and W of the views, at a place drawn for each volume; whole volumes if None.
        turns: Whether views are turned.
        most: Largest share of a view that is cut out.
        block: Largest side of a block, as a share of the view's.

    Raises:
        ValueError: A crop larger than the volume, or turns of what is not as wide as it is high.
    """
    size = tuple(image.shape[2:]) if shape is None else tuple(shape)
    if any(n > have for n, have in zip(size, image.shape[2:], strict=True)):
        raise ValueError(f"views of {size} do not fit into volumes of {tuple(image.shape[2:])}")
    if turns and size[1] != size[2]:
        raise ValueError(f"views of {size}: a quarter turn needs H and W alike")
    seeds = torch.randint(2**62, (3, len(image))).numpy()
    crops = [_crop(one, size, seed) for one, seed in zip(image, seeds[0], strict=True)]
    rngs = [np.random.default_rng(int(seed)) for seed in seeds[1:].flatten()]
    turn = [int(rng.integers(TURNS)) if turns else 0 for rng in rngs]
    whole = [quarter_turns(crop, k) for crop, k in zip([*crops, *crops], turn, strict=True)]
    holes = np.stack([draw_holes(rng, size, most=most, block=block) for rng in rngs])
    return Views(
        whole_VCDHW=torch.stack(whole),
        turn_V=torch.tensor(turn, device=image.device),
        hole_VDHW=torch.from_numpy(holes).to(image.device),
        least_VC=image.amin((2, 3, 4)).repeat(2, 1),
        most_VC=image.amax((2, 3, 4)).repeat(2, 1),
    )


def quarter_turns(volume: Tensor, count: int) -> Tensor:
    """A (...,D,H,W) volume turned about the head-feet axis, D.

    >>> quarter_turns(torch.tensor([[[1, 2], [3, 4]]]), 1).tolist()
    [[[2, 4], [1, 3]]]
    """
    return volume.rot90(count, (-2, -1))


def draw_holes(
    rng: np.random.Generator, shape: Sequence[int], *, most: float, block: float
) -> NDArray[np.bool_]:
    """Blocks to cut out of a view (D,H,W).

    The share to hide is drawn evenly from 0 to `most`; blocks of sides from `LEAST_BLOCK` to
    `block` of the view's are added at even places until their volumes, counted twice where they
    overlap, reach it. One more block would exceed it: the last is left out.

    Args:
        rng: Where to draw from.
        shape: D, H and W.
        most: Largest share that is hidden.
        block: Largest side of a block.
    """
    hole_DHW = np.zeros(tuple(shape), bool)
    size = np.array(shape)
    left = rng.uniform(0, most) * hole_DHW.size
    while True:
        side = np.maximum(1, np.rint(rng.uniform(LEAST_BLOCK, block, 3) * size)).astype(int)
        left -= int(side.prod())
        if left < 0:
            return hole_DHW
        start = rng.integers(0, size - side + 1)
        hole_DHW[tuple(slice(a, a + n) for a, n in zip(start, side, strict=True))] = True


def _crop(volume: Tensor, size: Sequence[int], seed: int) -> Tensor:
    rng = np.random.default_rng(int(seed))
    room = np.array(volume.shape[1:]) - np.array(size) + 1
    at = tuple(slice(a, a + n) for a, n in zip(rng.integers(0, room), size, strict=True))
    return volume[(slice(None), *at)]
