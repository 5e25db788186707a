"""A small transformer decoder over text that attends to an image's tokens.

A transformer decoder (Vaswani et al. 2017, arXiv:1706.03762) with the encoder's side replaced by
the image. It reads a text one way, each token seeing those before it, to write; or both ways, to
judge image and text together.

Shape letters: B rows, T text tokens, P visual tokens, D the image tower's width, W the decoder's
width, V vocabulary, K tokens that are learnt.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageFeatures
from medvlp.losses.contrastive import widened

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecoderConfig:
    """Size of a decoder of text."""

    depth: Count = 3
    width: Count = 192
    heads: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_tokens: Annotated[int, Field(gt=2)] = 128
    """Longest text, its prefix and end included; longer ones are cut."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")


class TextDecoder(nn.Module):
    """Text beside an image.

    Args:
        config: Sizes.
        vocabulary: V.
        width: D of the visual tokens.
        count: P, where every image has as many: their places are then learnt.
    """

    def __init__(
        self, config: DecoderConfig, vocabulary: int, width: int, count: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(vocabulary, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(config.max_tokens, config.width))
        self.visual_place = None
        if count is not None:
            self.visual_place = nn.Parameter(0.02 * torch.randn(count, config.width))
        self.visual = nn.Linear(width, config.width)
        self.visual_norm = nn.LayerNorm(config.width)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, "gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerDecoder(layer, config.depth, nn.LayerNorm(config.width))
        nn.init.normal_(self.token.weight, std=0.02)

    def memory(self, token_BPD: Tensor, grid: tuple[int, ...]) -> Tensor:
        """What of an image is attended to (B,P,W).

        Args:
            token_BPD: Visual tokens in the raster order of `grid`.
            grid: Their number along each axis; empty where their places are learnt or not known.
        """
        memory_BPW: Tensor = self.visual_norm(self.visual(token_BPD))
        if self.visual_place is not None:
            return memory_BPW + self.visual_place
        return memory_BPW + grid_places(grid, memory_BPW)

    def look(self, features: ImageFeatures) -> Tensor:
        """`memory` of a tower's output."""
        # Under patch dropout there are no maps, and nobody knows which tokens were kept.
        return self.memory(features.tokens_BPD, features.grid if features.maps else ())

    def forward(self, ids_BT: Tensor, memory_BPW: Tensor) -> Tensor:
        """Logits (B,T,V) of the token after each one."""
        return self.logits(self.one_way(ids_BT, memory_BPW))

    def logits(self, hidden_XW: Tensor) -> Tensor:
        """Logits (...,V) of the next token."""
        # Input and output share their embedding (Press & Wolf 2017, arXiv:1608.05859).
        return hidden_XW @ self.token.weight.T

    def one_way(self, ids_BT: Tensor, memory_BPW: Tensor) -> Tensor:
        """(B,T,W), where a token sees itself and those before it."""
        length = ids_BT.shape[1]
        token_BTW = self.token(ids_BT) + self.place[:length]
        ahead_TT = torch.ones(length, length, dtype=torch.bool, device=ids_BT.device).triu(1)
        hidden_BTW: Tensor = self.layers(token_BTW, memory_BPW, tgt_mask=ahead_TT)
        return hidden_BTW

    def both_ways(self, token_BTW: Tensor, mask_BT: Tensor, memory_BPW: Tensor) -> Tensor:
        """(B,T,W), where a token sees all of its text.

        Args:
            token_BTW: Tokens as vectors.
            mask_BT: True where a token is real; each row has one.
            memory_BPW: Of each row's image.
        """
        placed_BTW = token_BTW + self.place[: token_BTW.shape[1]]
        if not len(placed_BTW):
            return placed_BTW  # torch's attention takes no mask of no rows
        hidden_BTW: Tensor = self.layers(placed_BTW, memory_BPW, tgt_key_padding_mask=~mask_BT)
        return hidden_BTW


def next_token_losses(
    decoder: TextDecoder, ids_BT: Tensor, learnt_BT: Tensor, memory_BPW: Tensor
) -> Tensor:
    """Negative log-likelihoods (nats, K) of the learnt tokens, row by row.

    Args:
        decoder: The decoder.
        ids_BT: Token ids, padded at the end.
        learnt_BT: True where a token is predicted from those before it; never the first one.
        memory_BPW: Of each row's image.
    """
    hidden_BTW = decoder.one_way(ids_BT[:, :-1], memory_BPW)
    learnt_BT = learnt_BT[:, 1:]
    # Logits over a vocabulary are the largest tensor by far: of padding, there need be none.
    logits_KV = widened(decoder.logits(hidden_BTW[learnt_BT]))
    return F.cross_entropy(logits_KV, ids_BT[:, 1:][learnt_BT], reduction="none")


def grid_places(grid: tuple[int, ...], memory_BPW: Tensor) -> Tensor:
    """Sines and cosines of each token's coordinates (P,W); zeros without a grid.

    Each axis has its equal share of the channels, with the frequencies of arXiv:1706.03762,
    section 3.5. Tokens of a convolutional tower would not know where they are, and a report
    names sides. Nothing is learnt, so images of any size and dimension will do.

    Args:
        grid: Number of tokens along each axis.
        memory_BPW: Gives W, device and type.
    """
    width = memory_BPW.shape[2]
    place_PW = memory_BPW.new_zeros(memory_BPW.shape[1], width)
    if not grid:
        return place_PW
    half = width // (2 * len(grid))
    frequency_H = 10000 ** (-torch.arange(half, device=place_PW.device) / max(half, 1))
    axes = [torch.arange(size, device=place_PW.device) for size in grid]
    for axis, at in enumerate(torch.meshgrid(*axes, indexing="ij")):
        angle_PH = at.flatten()[:, None] * frequency_H
        wave_PX = torch.cat([angle_PH.sin(), angle_PH.cos()], 1)
        place_PW[:, 2 * half * axis : 2 * half * (axis + 1)] = wave_PX
    return place_PW
