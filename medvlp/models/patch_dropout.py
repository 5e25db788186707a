"""Patch dropout: a vision transformer reads some of an image's patches while it trains.

FLIP (Li et al. 2022, arXiv:2212.00794) and PatchDropout (Liu et al. 2022, arXiv:2208.07220).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from medvlp.encoding import ImageFeatures
from medvlp.errors import ConfigError

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
        self.choice: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether tokens are being left out."""
        return self.choice is not None or (self.training and self.rate > 0)

    def kept(self, tokens_BPD: Tensor) -> Tensor | None:
        """Places of the patches that stay (B,K), ascending, `lead` not counted; None if all do."""
        if self.choice is not None or not self.active:
            return self.choice
        patches = tokens_BPD.shape[1] - self.lead
        draw_BP = torch.rand(len(tokens_BPD), patches, device=tokens_BPD.device)
        count = max(1, round(patches * (1 - self.rate)))
        return draw_BP.topk(count, dim=1).indices.sort(dim=1).values

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        """The tokens that stay (B,K,D)."""
        kept_BK = self.kept(tokens_BPD)
        if kept_BK is None:
            return tokens_BPD
        chosen_BKD = taken(tokens_BPD[:, self.lead :], kept_BK)
        return torch.cat([tokens_BPD[:, : self.lead], chosen_BKD], dim=1)


@contextmanager
def keeping(see: Callable[[Tensor], ImageFeatures], kept_BK: Tensor) -> Iterator[None]:
    """Within it, an image tower sees these patches of each image and no others.

    Masked modelling chooses what is hidden; training or evaluation makes no difference.

    Args:
        see: The image tower.
        kept_BK: Places of the patches in raster order, ascending.

    Raises:
        ConfigError: The tower cannot leave patches out.
    """
    modules = see.modules() if isinstance(see, nn.Module) else ()
    dropouts = [module for module in modules if isinstance(module, PatchDropout)]
    if not dropouts:
        raise ConfigError(
            "patches are to be hidden, and the image tower sees an image as a whole",
            remedy="choose an image tower of patches",
        )
    for dropout in dropouts:
        dropout.choice = kept_BK
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.choice = None


def taken(tokens_BPD: Tensor, place_BK: Tensor) -> Tensor:
    """Some of each sample's tokens (B,K,D)."""
    return tokens_BPD.gather(1, place_BK[..., None].expand(-1, -1, tokens_BPD.shape[2]))


def scattered(tokens_BPD: Tensor) -> ImageFeatures:
    """The features of patches that no longer fill a grid."""
    return ImageFeatures(
        pooled_BD=tokens_BPD.mean(1), tokens_BPD=tokens_BPD, grid=(tokens_BPD.shape[1],), maps=()
    )
