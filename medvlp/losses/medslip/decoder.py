"""Queries look at an image's patches: the decoders that MeDSLIP shares with MedKLIP.

A pre-norm transformer decoder (arXiv:1706.03762, section 3; norms before each part as in
arXiv:2002.04745) whose tokens are queries by name and whose memory is the patches of one stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def grid_positions(grid: Sequence[int], width: int, like: Tensor) -> Tensor:
    """Sinusoids of each patch's place (P,width), the axes one after the other.

    ``sin(i / 10000^(k/K)), cos(...)`` of the index i along each axis (arXiv:1706.03762, section
    3.5), K = width // (2 · axes); columns that are left over are 0.

    Args:
        grid: Patches along each axis.
        width: Columns.
        like: Gives device and dtype.
    """
    count = width // (2 * len(grid))
    slow_K = 10000.0 ** (torch.arange(count, device=like.device) / max(count, 1))
    axes = [torch.arange(size, device=like.device) for size in grid]
    place_PX = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))
    angle_PXK = place_PX[:, :, None] / slow_K
    waves = torch.cat([angle_PXK.sin(), angle_PXK.cos()], -1).flatten(1)
    return nn.functional.pad(waves, (0, width - waves.shape[1])).to(like.dtype)


class DecoderLayer(nn.Module):
    """Queries among themselves, then queries at patches, then each query by itself."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.own = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.cross = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self, query_BMd: Tensor, key_BPd: Tensor, value_BPd: Tensor, *, look: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The queries after the layer and, with `look`, where they looked (B,M,P)."""
        x_BMd = self.norms[0](query_BMd)
        query_BMd = query_BMd + self.drop(self.own(x_BMd, x_BMd, x_BMd, need_weights=False)[0])
        x_BMd = self.norms[1](query_BMd)
        found_BMd, look_BMP = self.cross(x_BMd, key_BPd, value_BPd, need_weights=look)
        query_BMd = query_BMd + self.drop(found_BMd)
        return query_BMd + self.drop(self.mlp(self.norms[2](query_BMd))), look_BMP


class Stream(nn.Module):
    """One of the two streams: its patches made narrow, its decoder, its two heads.

    Args:
        tower: Width of the image tower's patches.
        book: Width of the query vectors.
        width: Width d of the decoder, a multiple of `heads`.
        depth: Layers.
        heads: Heads of each attention.
        hidden: Width within a layer's perceptron.
        dropout: In the decoder and before the prototypes.
    """

    def __init__(
        self, *, tower: int, book: int, width: int, depth: int, heads: int, hidden: int,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.narrow = nn.Sequential(nn.Linear(tower, tower), nn.ReLU(), nn.Linear(tower, width))
        self.layers = nn.ModuleList(
            [DecoderLayer(width, heads, hidden, dropout) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(width)
        self.exist = nn.Linear(width, 2)
        self.drop = nn.Dropout(dropout)
        self.prototype = nn.Linear(width, book)

    def forward(self, patch_BPD: Tensor, query_Md: Tensor, place_Pd: Tensor | None) -> Tensor:
        """What each query found in each image, (B,M,d).

        Args:
            patch_BPD: The stream's part of the patches.
            query_Md: The queries.
            place_Pd: Added to the keys of the patches; nothing if None.
        """
        return self._decode(patch_BPD, query_Md, place_Pd, look=False)[0]

    def looks(self, patch_BPD: Tensor, query_Md: Tensor, place_Pd: Tensor | None) -> Tensor:
        """Mean over the layers (and heads) of where each query looks, (B,M,P); rows sum to 1."""
        looks = self._decode(patch_BPD, query_Md, place_Pd, look=True)[1]
        return torch.stack(looks).mean(0)

    def _decode(
        self, patch_BPD: Tensor, query_Md: Tensor, place_Pd: Tensor | None, *, look: bool
    ) -> tuple[Tensor, list[Tensor]]:
        value_BPd = self.narrow(patch_BPD)
        key_BPd = value_BPd if place_Pd is None else value_BPd + place_Pd
        query_BMd = query_Md.expand(len(patch_BPD), -1, -1)
        looks = []
        for layer in self.layers:
            query_BMd, look_BMP = layer(query_BMd, key_BPd, value_BPd, look=look)
            if look_BMP is not None:
                looks.append(look_BMP)
        return self.norm(query_BMd), looks
