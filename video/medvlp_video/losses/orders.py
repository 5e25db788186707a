"""Wrong orders of a procedure's steps: reversed, shuffled, neighbours exchanged."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvlp.data.randomness import generator

Wrong = Literal["reverse", "shuffle", "swap"]


def wrong_orders(kind: Wrong, length_B: Tensor, seed_B: Tensor, draws: int, most: int) -> Tensor:
    """Places of the steps in `draws` wrong orders of each sample (B,J,K); one order for `reverse`.

    Orders follow from each sample's seed alone. A sample of one step has none: its steps, like
    the places beyond a sample's steps, stay where they are.

    Args:
        kind: How they are wrong: from the last to the first; in any other order; one pair of
            neighbours exchanged.
        length_B: Steps of each sample.
        seed_B: A number of each sample.
        draws: J.
        most: K.
    """
    count = 1 if kind == "reverse" else draws
    order_BJK = np.tile(np.arange(most), (len(length_B), count, 1))
    seeded = zip(length_B.tolist(), seed_B.tolist(), strict=True)
    for b, (length, seed) in enumerate(seeded):
        rng = generator(seed, 0, kind, "wrong order")
        for j in range(count if length > 1 else 0):
            order_BJK[b, j, :length] = _order(kind, length, rng)
    return torch.from_numpy(order_BJK).to(length_B.device)


def _order(kind: Wrong, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    right = np.arange(length)
    if kind == "reverse":
        return right[::-1]
    if kind == "swap":
        i = int(rng.integers(length - 1))
        right[[i, i + 1]] = i + 1, i
        return right
    while True:
        order = rng.permutation(length)
        if (order != right).any():
            return order
