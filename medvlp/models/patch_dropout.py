"""Patch dropout: a vision transformer reads some of an image's patches while it trains.

FLIP (Li et al. 2022, arXiv:2212.00794) and PatchDropout (Liu et al. 2022, arXiv:2208.07220).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from medvlp.encoding import ImageFeatures

DropRate = Annotated[float, Field(ge=0, lt=1)]
"""Share of an image's patches that a step leaves out."""


class PatchDropout(nn.Module):
    """Keeps, for each sample, a random choice of its tokens in training; all of them otherwise.

    Tokens carry their positions before they come here and keep their order. Every sample keeps
    the same number, at least one. Draws from torch's default generator.

    Args:
        rate: Share of the tokens that is left out.
        lead: Tokens in front that are no patches and always stay.
    """

    def __init__(self, rate: float, lead: int = 0) -> None:
        super().__init__()
        self.rate = rate
        self.lead = lead

    @property
    def active(self) -> bool:
        """Whether tokens are being left out."""
        return self.training and self.rate > 0

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        """The tokens that stay (B,K,D)."""
        if not self.active:
            return tokens_BPD
        count, width = len(tokens_BPD), tokens_BPD.shape[2]
        patches = tokens_BPD.shape[1] - self.lead
        draw_BP = torch.rand(count, patches, device=tokens_BPD.device)
        kept = max(1, round(patches * (1 - self.rate)))
        rows_BK = draw_BP.topk(kept, dim=1).indices.sort(dim=1).values + self.lead
        chosen_BKD = tokens_BPD.gather(1, rows_BK[..., None].expand(-1, -1, width))
        return torch.cat([tokens_BPD[:, : self.lead], chosen_BKD], dim=1)


def scattered(tokens_BPD: Tensor) -> ImageFeatures:
    """The features of patches that no longer fill a grid."""
    return ImageFeatures(
        pooled_BD=tokens_BPD.mean(1), tokens_BPD=tokens_BPD, grid=(tokens_BPD.shape[1],), maps=()
    )
