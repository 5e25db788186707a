"""CT-ViT: attention within slabs of slices, then along them, as CT-CLIP's (arXiv:2403.17834).

Shape letters: B batch, C channels, D H W spatial or patches along these, P tokens, N sequences, S
tokens of a sequence, E width, K offsets.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.models.pooling import split_heads
from medvlp.models.recompute import recompute_blocks
from medvlp_volumetric.encoders.primus import patch_grid

Count = Annotated[int, Ge(1)]
_SHARPNESS = 8.0
"""Factor on cosines of queries and keys, before each channel's own learned ones."""
_SLOPE = 0.1
"""Of the position bias's rectifiers below 0."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CtvitConfig:
    """Patches attend within their slab of slices, then to those of the same place in others.

    CT-ViT (arXiv:2305.16037) as in CT-CLIP, whose sizes are the defaults. CT-CLIP's published
    weights have `codes`, `pool: places` and `published_order` besides.
    """

    kind: Literal["ctvit"] = "ctvit"
    patch: tuple[Count, Count, Count] = (10, 20, 20)
    """Voxels of a patch along D, H and W; the input's shape must be a multiple."""
    width: Count = 512
    within: Count = 4
    """Blocks within slabs."""
    across: Count = 4
    """Blocks along D."""
    heads: Count = 8
    head: Count = 32
    """Channels of a head."""
    mlp_ratio: Annotated[float, Ge(0.1)] = 8 / 3
    """Hidden width of the gated perceptrons over `width`."""
    codes: Count | None = None
    """Vectors of a fixed code book, of which each token becomes the one with the largest cosine;
    gradients pass as if it did not. For weights that were trained so: nothing here learns one."""
    pool: Literal["mean", "places"] = "mean"
    """``places``: the mean along D, in which every place of a slab has a matrix of its own into
    `embed` channels; tokens are then given in that space, and their mean is the pooled vector."""
    grid: tuple[Count, Count] | None = None
    """Patches along H and W, for ``pool: places``."""
    embed: Count = 512
    """The tower's width with ``pool: places``."""
    published_order: bool = False
    """Along D, the convolution that tells positions reads the tokens, which lie column by column,
    as if they lay slab by slab, as the published code does. Weights from it need this; it makes
    no sense otherwise."""
    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    def __post_init__(self) -> None:
        if (self.pool == "places") != (self.grid is not None):
            raise ValueError("grid: belongs to pool: places, which needs it")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels."""
        return Ctvit(self, channels)


class Ctvit(ImageEncoder):
    """Patch embedding, blocks within slabs, blocks across them, perhaps a code book, pooling."""

    def __init__(self, config: CtvitConfig, channels: int) -> None:
        super().__init__()
        self.width = config.embed if config.pool == "places" else config.width
        self.map_widths = (config.width,)
        self._voxels = config.patch
        self._grid = config.grid
        volume = channels * math.prod(config.patch)
        self.embed = nn.Sequential(
            nn.LayerNorm(volume), nn.Linear(volume, config.width), nn.LayerNorm(config.width)
        )
        self.bias = PositionBias(config.width, config.heads)
        self._within = config.within
        self.blocks = nn.ModuleList(
            Block(config, columns=k >= config.within and not config.published_order)
            for k in range(config.within + config.across)
        )
        self.within_norm = nn.LayerNorm(config.width, bias=False)
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.codes: Tensor | None
        codes = None
        if config.codes is not None:
            codes = F.normalize(torch.randn(config.codes, config.width), dim=-1)
        self.register_buffer("codes", codes)
        if config.grid is not None:
            places = math.prod(config.grid)
            self.places = nn.Linear(places * config.width, config.embed, bias=False)
        if config.checkpoint_activations:
            recompute_blocks(self, Block)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,D,H,W).

        Raises:
            ValueError: The volume is not made of whole patches, or a slab of another number of
                them than ``pool: places`` was built for.
        """
        grid = patch_grid(image.shape[2:], self._voxels)
        if self._grid is not None and grid[1:] != self._grid:
            raise ValueError(f"slabs of {grid[1:]} patches: the tower takes {self._grid}")
        x_BDSE = self._encode(self._patches(image, grid), grid)
        if self.codes is not None:
            x_BDSE = self._coded(x_BDSE, self.codes)
        last = x_BDSE.flatten(1, 2).mT.reshape(len(image), -1, *grid)
        if self._grid is None:
            tokens_BPE = x_BDSE.flatten(1, 2)
            pooled_BE = tokens_BPE.mean(1)
        else:
            pooled_BE = self.places(x_BDSE.mean(1).flatten(1))
            places_ESE = self.places.weight.view(self.width, x_BDSE.shape[2], -1)
            tokens_BPE = torch.einsum("bdsi,esi->bdse", x_BDSE, places_ESE).flatten(1, 2)
            tokens_BPE = tokens_BPE * x_BDSE.shape[2]
        return ImageFeatures(pooled_BD=pooled_BE, tokens_BPD=tokens_BPE, grid=grid, maps=(last,))

    def _patches(self, image: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B,D,S,E): embedded patches, S in a slab."""
        d, h, w = self._voxels
        x = image.reshape(len(image), -1, grid[0], d, grid[1], h, grid[2], w)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(2, 3)
        patches_BDSE: Tensor = self.embed(x)
        return patches_BDSE

    def _encode(self, x_BDSE: Tensor, grid: tuple[int, ...]) -> Tensor:
        whole = (len(x_BDSE), *grid)
        bias = self.bias(grid[1], grid[2])
        x_NSE = x_BDSE.flatten(0, 1)
        for block in self.blocks[: self._within]:
            x_NSE = block(x_NSE, whole, bias)
        x_BDSE = self.within_norm(x_NSE).view(x_BDSE.shape)
        x_NDE = x_BDSE.transpose(1, 2).flatten(0, 1)
        for block in self.blocks[self._within :]:
            x_NDE = block(x_NDE, whole, None)
        x_BSDE: Tensor = self.norm(x_NDE).view(x_BDSE.transpose(1, 2).shape)
        return x_BSDE.transpose(1, 2)

    def _coded(self, x_BDSE: Tensor, codes_KE: Tensor) -> Tensor:
        nearest = (F.normalize(x_BDSE, dim=-1) @ codes_KE.T).argmax(-1)
        coded_BDSE = codes_KE[nearest]
        if not torch.is_grad_enabled():
            return coded_BDSE
        return x_BDSE + (coded_BDSE - x_BDSE).detach()


class Block(nn.Module):
    """A convolution that tells positions, attention within sequences, a gated perceptron.

    Each is added to its input. Attention is of cosines, scaled for each channel of a head; keys and
    values read the sequence as it is, queries its norm.

    Args:
        config: The tower's.
        columns: Whether sequences run along D, rather than within slabs, for the convolution.
    """

    def __init__(self, config: CtvitConfig, *, columns: bool) -> None:
        super().__init__()
        self.columns = columns
        self.heads = config.heads
        width, inner = config.width, config.heads * config.head
        hidden = int(config.mlp_ratio * width)
        self.position = nn.Conv3d(width, width, 3, groups=width)
        self.norm = nn.LayerNorm(width, bias=False)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.query_scale = nn.Parameter(torch.ones(config.head))
        self.key_scale = nn.Parameter(torch.ones(config.head))
        self.attention_out = nn.Linear(inner, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 2 * hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x_NSE: Tensor, whole: tuple[int, ...], bias: Tensor | None) -> Tensor:
        """The sequences after the block.

        Args:
            x_NSE: Sequences.
            whole: B, D, H and W of all tokens.
            bias: On the logits of attention, (heads,S,S).
        """
        x_NSE = x_NSE + self._placed(x_NSE, whole)
        x_NSE = x_NSE + self._attend(x_NSE, bias)
        value, gate = self.mlp_in(self.mlp_norm(x_NSE)).chunk(2, -1)
        added_NSE: Tensor = self.mlp_out(F.gelu(gate) * value)
        return x_NSE + added_NSE

    def _placed(self, x_NSE: Tensor, whole: tuple[int, ...]) -> Tensor:
        b, d, h, w = whole
        if self.columns:
            x_BEDHW = x_NSE.reshape(b, h, w, d, -1).permute(0, 4, 3, 1, 2)
        else:
            x_BEDHW = x_NSE.reshape(b, d, h, w, -1).permute(0, 4, 1, 2, 3)
        # A slab sees itself and the two before it.
        told: Tensor = self.position(F.pad(x_BEDHW, (1, 1, 1, 1, 2, 0)))
        order = (0, 3, 4, 2, 1) if self.columns else (0, 2, 3, 4, 1)
        return told.permute(order).reshape(x_NSE.shape)

    def _attend(self, x_NSE: Tensor, bias: Tensor | None) -> Tensor:
        parts = (self.query(self.norm(x_NSE)), *self.key_value(x_NSE).chunk(2, -1))
        query, key, value = (split_heads(part, self.heads) for part in parts)
        query = F.normalize(query, dim=-1) * self.query_scale
        key = F.normalize(key, dim=-1) * self.key_scale
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=_SHARPNESS)
        out_NSE: Tensor = self.attention_out(found.transpose(1, 2).flatten(2))
        return out_NSE


class PositionBias(nn.Module):
    """A bias on logits from how far apart two patches lie (Swin v2, arXiv:2111.09883, section 3.3).

    A perceptron of the signed logarithms of one plus the distances along H and W, computed once for
    each offset that occurs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(width, heads),
        )

    def forward(self, h: int, w: int) -> Tensor:
        """(heads,S,S) for the S = h·w patches of a slab in raster order."""
        weight: Any = self.layers[0].weight
        along_h = torch.arange(1 - h, h, device=weight.device)
        along_w = torch.arange(1 - w, w, device=weight.device)
        offset_K2 = torch.cartesian_prod(along_h, along_w).to(weight.dtype)
        of_offset = self.layers(offset_K2.sign() * (offset_K2.abs() + 1).log())
        row, column = torch.cartesian_prod(along_h[h - 1 :], along_w[w - 1 :]).T
        apart_h = row[:, None] - row + h - 1
        apart_w = column[:, None] - column + w - 1
        found: Tensor = of_offset[apart_h * (2 * w - 1) + apart_w]
        return found.permute(2, 0, 1)
