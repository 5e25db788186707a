"""Masked language modelling: the text tower restores words that were hidden from it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Encodings, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.objective import Objective, SampleObjective


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskedTextConfig:
    """Masked language modelling (arXiv:1810.04805, section 3.1)."""

    reads_tokens: ClassVar[str] = "alters texts"

    kind: Literal["masked-text"] = "masked-text"
    weight: float = 1.0
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the words' tokens that are predicted; of these 80 % are hidden behind the mask
    token, 10 % replaced by another token and 10 % left, as in the paper."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective with its head.

        Raises:
            ConfigError: The tokenizer has no mask token.
        """
        if sizes.tokens is None or sizes.tokens.mask is None:
            raise ConfigError(
                "objective masked-text: the tokenizer has no mask token",
                remedy="use a tokenizer with a mask_token, or train one on the reports",
            )
        return MaskedTextObjective(self, sizes.text, sizes.tokens)


class MaskedTextObjective(SampleObjective):
    """Cross-entropy of the hidden tokens, averaged over all ranks' hidden tokens."""

    reads: ClassVar[frozenset[str]] = frozenset({"read", "text_BNT", "text_mask_BNT"})

    def __init__(self, config: MaskedTextConfig, width: int, tokens: TokenIds) -> None:
        super().__init__()
        self.fraction = config.fraction
        self.tokens = tokens
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.decoder = nn.Linear(width, tokens.count)

    def targets(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor]:
        """A fresh draw: the altered texts, and where a token is hidden."""
        ids_MT, mask_MT = batch.text_BNT.flatten(0, 1), batch.text_mask_BNT.flatten(0, 1)
        altered_MT, hidden_MT = hide(ids_MT, mask_MT, self.fraction, self.tokens)
        shape = batch.text_BNT.shape
        return (altered_MT.view(shape), hidden_MT.view(shape)), hidden_MT.sum()

    def total(self, encodings: Encodings, batch: Batch, targets: tuple[Tensor, ...]) -> Tensor:
        """The cross-entropies of the hidden tokens."""
        altered_MT, hidden_MT = (target.flatten(0, 1) for target in targets)
        features = encodings.read(altered_MT, batch.text_mask_BNT.flatten(0, 1))
        logits_KV = self.decoder(self.transform(features.tokens_MTD[hidden_MT])).float()
        wanted_K = batch.text_BNT.flatten(0, 1)[hidden_MT]
        # A batch in which nothing is hidden still depends on the tower's weights.
        return (
            F.cross_entropy(logits_KV, wanted_K, reduction="sum") + 0.0 * features.pooled_MD.sum()
        )


def hide(
    ids_MT: Tensor, mask_MT: Tensor, fraction: float, tokens: TokenIds
) -> tuple[Tensor, Tensor]:
    """Hide a share of the words' tokens; every text with a word loses at least one.

    Draws from torch's default generator.

    Args:
        ids_MT: Token ids.
        mask_MT: True where a token is real.
        fraction: Share of tokens to predict.
        tokens: The tokenizer's ids; special ones are never hidden nor put in a word's place.

    Returns:
        The altered ids, and where a token is to be predicted.
    """
    special = torch.tensor(tokens.special, device=ids_MT.device)
    word_MT = mask_MT & ~torch.isin(ids_MT, special)
    draw_MT = torch.rand(ids_MT.shape, device=ids_MT.device).masked_fill(~word_MT, 2.0)
    least_M1 = draw_MT.min(1, keepdim=True).values
    hidden_MT = word_MT & ((draw_MT < fraction) | (draw_MT == least_M1))
    kind_MT = torch.rand(ids_MT.shape, device=ids_MT.device)
    other_MT = torch.randint(tokens.count, ids_MT.shape, device=ids_MT.device)
    other_MT = torch.where(torch.isin(other_MT, special), ids_MT, other_MT)
    altered_MT = torch.where(hidden_MT & (kind_MT < 0.8), tokens.mask or 0, ids_MT)
    altered_MT = torch.where(hidden_MT & (kind_MT >= 0.9), other_MT, altered_MT)
    return altered_MT, hidden_MT
