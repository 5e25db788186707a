"""A 3D vision transformer, pooled by the mean over its tokens unless told otherwise.

A patch's similarity to a text is then its share of the whole volume's similarity, and heatmaps mean
something.

Shape letters: B batch, C channels, D H W spatial, P tokens, E width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.models.patch_dropout import DropRate, PatchDropout, scattered
from medvlp.models.recompute import recompute_blocks

Count = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Vit3dConfig:
    """A 3D vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

    kind: Literal["vit3d"] = "vit3d"
    patch: tuple[Count, Count, Count] = (8, 16, 16)
    """Voxels of a patch along D, H and W; the input's shape must be a multiple."""
    width: Count = 384
    """A multiple of `heads`, and of 6 where positions have a sine and a cosine for each axis."""
    depth: Count = 8
    heads: Count = 6
    mlp_ratio: Count = 4
    positions: Literal["sincos", "learned"] = "sincos"
    grid: tuple[Count, Count, Count] | None = None
    """Patches along D, H and W for which positions are learned; on another grid they are
    interpolated."""
    pool: Literal["mean", "cls"] = "mean"
    """``cls``: a token in front of the patches, without a position, stands for the volume."""
    dropout: Annotated[float, Ge(0)] = 0.0
    patch_dropout: DropRate = 0.0
    """Share of each image's patches that a training step leaves out, chosen anew each time;
    evaluation sees them all (arXiv:2212.00794)."""
    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.positions == "sincos" and self.width % 6):
            raise ValueError(f"width {self.width}: must be a multiple of 6 and of heads")
        if (self.positions == "learned") != (self.grid is not None):
            raise ValueError("grid: belongs to learned positions, and these need it")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels."""
        return Vit3d(self, channels)


def sincos_positions(grid: tuple[int, int, int], width: int) -> Tensor:
    """Fixed positions (P,E): a sine and a cosine of each axis at geometrically spaced rates.

    Computed for the grid at hand, so that one tower takes volumes of any shape.
    """
    rates = 10_000.0 ** -(torch.arange(width // 6, dtype=torch.float32) / (width // 6))
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * rates for axis in axes]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


class Vit3d(ImageEncoder):
    """Patch embedding, pre-norm transformer blocks, layer norm."""

    def __init__(self, config: Vit3dConfig, channels: int) -> None:
        super().__init__()
        self.width = config.width
        self.map_widths = (config.width,)
        self.patch = config.patch
        self.embed = nn.Conv3d(channels, config.width, config.patch, stride=config.patch)
        self._grid = config.grid
        if config.grid is not None:
            self.position = nn.Parameter(torch.empty(1, config.width, *config.grid))
            nn.init.trunc_normal_(self.position, std=0.02)
        self._lead = int(config.pool == "cls")
        if self._lead:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                config.width * config.mlp_ratio,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.patch_dropout = PatchDropout(config.patch_dropout, lead=self._lead)
        if config.checkpoint_activations:
            recompute_blocks(self.blocks, nn.TransformerEncoderLayer)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,D,H,W).

        Raises:
            ValueError: The volume is not made of whole patches.
        """
        shape = tuple(image.shape[2:])
        if any(n % p for n, p in zip(shape, self.patch, strict=True)):
            raise ValueError(f"volume {shape}: must be a multiple of the patch {self.patch}")
        map_BEDHW = self.embed(image)
        d, h, w = map_BEDHW.shape[2:]
        x_BPE = map_BEDHW.flatten(2).transpose(1, 2)
        x_BPE = x_BPE + self._positions((d, h, w)).to(x_BPE)
        if self._lead:
            x_BPE = torch.cat([self.cls_token.expand(len(x_BPE), -1, -1), x_BPE], 1)
        x_BPE = self.patch_dropout(x_BPE)
        for block in self.blocks:
            x_BPE = block(x_BPE)
        x_BPE = self.norm(x_BPE)
        tokens_BPE = x_BPE[:, self._lead :]
        pooled_BE = x_BPE[:, 0] if self._lead else tokens_BPE.mean(dim=1)
        if self.patch_dropout.active:
            return replace(scattered(tokens_BPE), pooled_BD=pooled_BE)
        last = tokens_BPE.transpose(1, 2).reshape(-1, self.width, d, h, w)
        return ImageFeatures(
            pooled_BD=pooled_BE, tokens_BPD=tokens_BPE, grid=(d, h, w), maps=(last,)
        )

    def _positions(self, grid: tuple[int, int, int]) -> Tensor:
        if self._grid is None:
            return sincos_positions(grid, self.width)
        position: Tensor = self.position
        if grid != self._grid:
            position = F.interpolate(position, grid, mode="trilinear", align_corners=False)
        return position.flatten(2).transpose(1, 2)
