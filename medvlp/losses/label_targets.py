"""Which labels of a batch count, and what they count as."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Uncertain = Literal["ignore", "positive", "negative"]
"""What an uncertain label (-1) counts as (arXiv:1901.07031, section 3)."""


def known_labels(labels_BL: Tensor, uncertain: Uncertain) -> tuple[Tensor, Tensor]:
    """Where a label counts, and its target of 0 or 1 (0 where it does not count).

    Args:
        labels_BL: 1 present, 0 absent, -1 uncertain, NaN unknown.
        uncertain: What an uncertain label counts as.

    >>> known_labels(torch.tensor([[1.0, -1.0, torch.nan]]), "positive")
    (tensor([[ True,  True, False]]), tensor([[1., 1., 0.]]))
    """
    uncertain_BL = labels_BL == -1
    known_BL = ~labels_BL.isnan()
    if uncertain == "ignore":
        known_BL &= ~uncertain_BL
    target_BL = torch.where(uncertain_BL, float(uncertain == "positive"), labels_BL)
    return known_BL, torch.where(known_BL, target_BL, 0.0)
