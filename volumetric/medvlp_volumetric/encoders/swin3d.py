"""The 3D Swin transformer of SwinUNETR (arXiv:2201.01266), from MONAI's blocks.

MONAI puts its blocks together with a library that it does not install, so the stages are put
together here; weights of its `SwinTransformer` fit by the order in which they stand.

Shape letters: B batch, C channels, D H W spatial, P tokens, E width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.models.recompute import recompute_blocks

Count = Annotated[int, Ge(1)]
Four = tuple[Count, Count, Count, Count]


def _monai() -> Any:
    # MONAI takes seconds to import and warns about the versions of others.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import swin_unetr
    return swin_unetr


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Swin3dConfig:
    """A 3D Swin transformer: attention within windows that are shifted from block to block.

    The defaults are VELVET-Med's sizes (arXiv:2508.12108). Five maps: of the embedded patches, and
    behind each stage, which halves the grid and doubles the channels. Any size of input will do;
    grids are filled up with zeros.
    """

    kind: Literal["swin3d"] = "swin3d"
    patch: tuple[Count, Count, Count] = (2, 2, 2)
    """Voxels of a patch along D, H and W."""
    embed: Count = 48
    """Channels of an embedded patch; the tower's width is 16 times as many."""
    depths: Four = (2, 8, 8, 8)
    """Blocks of the four stages."""
    heads: Four = (4, 8, 16, 32)
    """Attention heads in the blocks of each stage."""
    window: tuple[Count, Count, Count] = (7, 7, 7)
    """Patches of a window along D, H and W. Where the grid is smaller, MONAI's blocks read other
    entries of their table of relative positions than the patches' own; the weights that others
    publish were trained so."""
    mlp_ratio: Count = 4
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability with which training leaves out the last block for a sample (stochastic depth,
    arXiv:1603.09382); earlier blocks less, in a straight line from 0."""
    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    def __post_init__(self) -> None:
        for k, heads in enumerate(self.heads):
            if self.embed * 2**k % heads:
                raise ValueError(
                    f"heads {self.heads}: stage {k + 1} has {self.embed * 2**k} channels, "
                    f"no multiple of {heads}"
                )

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels."""
        return Swin3d(self, channels)


class Swin3d(ImageEncoder):
    """Patch embedding and four stages; the voxels of the last map are the tokens.

    Each map is normalised over its channels, without weights, and `pooled_BD` is the mean of the
    last one.
    """

    def __init__(self, config: Swin3dConfig, channels: int) -> None:
        super().__init__()
        self.map_widths = tuple(config.embed * 2**k for k in range(5))
        self.width = self.map_widths[-1]
        monai = _monai()
        self.embed = monai.PatchEmbed(
            patch_size=config.patch, in_chans=channels, embed_dim=config.embed, norm_layer=None
        )
        drops = torch.linspace(0, config.drop_path, sum(config.depths)).tolist()
        starts = [sum(config.depths[:k]) for k in range(4)]
        self.stages = nn.ModuleList(
            Stage(config, k, drops[start : start + config.depths[k]])
            for k, start in enumerate(starts)
        )
        if config.checkpoint_activations:
            recompute_blocks(self.stages, monai.SwinTransformerBlock)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,D,H,W)."""
        x = self.embed(image)
        maps = [_normalised(x)]
        for stage in self.stages:
            x = stage(x)
            maps.append(_normalised(x))
        tokens_BPE = maps[-1].flatten(2).transpose(1, 2)
        return ImageFeatures(
            pooled_BD=tokens_BPE.mean(dim=1),
            tokens_BPD=tokens_BPE,
            grid=tuple(x.shape[2:]),
            maps=tuple(maps),
        )


class Stage(nn.Module):
    """Blocks of one width, every second one with shifted windows, and the merging of neighbours.

    Args:
        config: The tower's.
        number: Which stage, from 0.
        drops: Each block's probability of being left out.
    """

    def __init__(self, config: Swin3dConfig, number: int, drops: Sequence[float]) -> None:
        super().__init__()
        monai, width = _monai(), config.embed * 2**number
        self.window = config.window
        self.shift = tuple(n // 2 for n in config.window)
        self.blocks = nn.ModuleList(
            monai.SwinTransformerBlock(
                dim=width,
                num_heads=config.heads[number],
                window_size=config.window,
                shift_size=self.shift if k % 2 else (0, 0, 0),
                mlp_ratio=config.mlp_ratio,
                qkv_bias=True,
                drop_path=drop,
            )
            for k, drop in enumerate(drops)
        )
        self.merge = monai.PatchMerging(dim=width, spatial_dims=3)
        self._fitted, self._mask = monai.get_window_size, monai.compute_mask

    def forward(self, map_BCDHW: Tensor) -> Tensor:
        """(B,C,D,H,W) to (B,2C,D/2,H/2,W/2), rounded up."""
        x = map_BCDHW.movedim(1, -1)
        grid = tuple(x.shape[1:4])
        window, shift = self._fitted(grid, self.window, self.shift)
        whole = [-(-n // size) * size for n, size in zip(grid, window, strict=True)]
        mask = self._mask(whole, window, shift, x.device)
        for block in self.blocks:
            x = block(x, mask)
        merged: Tensor = self.merge(x).movedim(-1, 1)
        return merged


def _normalised(map_BCDHW: Tensor) -> Tensor:
    normal = F.layer_norm(map_BCDHW.movedim(1, -1), (map_BCDHW.shape[1],))
    return normal.movedim(-1, 1)
