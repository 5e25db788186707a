"""What reports tell, as tensors of the values of `medvlp.data.presence`."""

from __future__ import annotations

import torch
from torch import Tensor

from medvlp.data.presence import ABSENT, BY_STRENGTH, PRESENT


def known(told: Tensor) -> Tensor:
    """Where something is present or absent; uncertain is neither."""
    return (told == PRESENT) | (told == ABSENT)


def strongest(told: Tensor, dim: int) -> Tensor:
    """The strongest value along an axis: present, uncertain, absent, untold.

    Something that may be in one place is not absent because it is denied in another.

    >>> strongest(torch.tensor([[-2, 0, 0], [-2, -1, 1]]), 0).tolist()
    [-2, -1, 1]
    """
    found = torch.full_like(told.select(dim, 0), BY_STRENGTH[0])
    for value in BY_STRENGTH[1:]:
        found = found.masked_fill((told == value).any(dim), value)
    return found
