"""How a text's tokens become one vector, and what a tower sees of a text that is not there."""

from __future__ import annotations

import torch
from torch import Tensor


def never_blank(mask_MT: Tensor) -> Tensor:
    """The mask, but that an absent text shows its first token: attention over nothing is NaN."""
    seen_MT = mask_MT.clone()
    seen_MT[:, 0] |= ~mask_MT.any(1)
    return seen_MT


def last_token(tokens_MTD: Tensor, seen_MT: Tensor) -> Tensor:
    """(M,D): each text's vector at the last place that the mask shows."""
    place_T = torch.arange(seen_MT.shape[1], device=seen_MT.device)
    last_M = (seen_MT * place_T).amax(1)
    return tokens_MTD[torch.arange(len(last_M), device=last_M.device), last_M]
