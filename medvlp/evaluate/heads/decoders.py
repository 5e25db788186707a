"""Segmentation heads: from a tower's maps to one logit a pixel and structure, in 2D and 3D.

Levels are a tower's maps, fine to coarse, each half as fine as the one before. Norms are over
groups of channels, so that a sample's mask does not depend on its batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvlp.encoding import ImageFeatures

HeadKind = Literal["unet", "upernet", "swinunetr"]

_TOKEN_SCALES = (4.0, 2.0, 1.0, 0.5)
_POOLS = (1, 2, 3, 6)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a head has to know of a tower and its input."""

    image: tuple[int, ...]
    """Spatial shape of the input."""

    image_channels: int
    grids: tuple[tuple[int, ...], ...]
    """Spatial shape of each level."""

    channels: tuple[int, ...]
    """Channels of each level."""

    @classmethod
    def of(cls, image: Tensor, levels: Sequence[Tensor]) -> Shapes:
        """From a batch and its levels."""
        return cls(
            image=tuple(image.shape[2:]),
            image_channels=image.shape[1],
            grids=tuple(tuple(level.shape[2:]) for level in levels),
            channels=tuple(level.shape[1] for level in levels),
        )

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.image)


def levels_of(features: ImageFeatures) -> list[Tensor]:
    """A tower's maps as levels.

    Maps of one grid, as a transformer has them, are resized to 4, 2, 1 and ½ times the grid, the
    deepest the coarsest (arXiv:2203.16527, section 3, makes them of the last map alone).
    """
    maps = list(features.maps)
    if len({level.shape[2:] for level in maps}) == len(maps) > 1:
        return maps
    padded = [maps[0]] * (len(_TOKEN_SCALES) - len(maps)) + maps
    chosen = padded[-len(_TOKEN_SCALES) :]
    return [
        resize(level, tuple(max(1, int(n * scale)) for n in level.shape[2:]))
        for level, scale in zip(chosen, _TOKEN_SCALES, strict=True)
    ]


def resize(values: Tensor, shape: Sequence[int]) -> Tensor:
    """(B,C,...) on another grid over the same extent, linear."""
    if tuple(values.shape[2:]) == tuple(shape):
        return values
    mode = "bilinear" if values.ndim == 4 else "trilinear"
    return F.interpolate(values, tuple(shape), mode=mode, align_corners=False)


def build_head(kind: HeadKind, shapes: Shapes, width: int, share_K: Sequence[float]) -> nn.Module:
    """A head: ``(levels, image) -> (B,K,*image)`` logits.

    It starts from each structure's share of the pixels: from even odds, small structures are
    first unlearned and then rarely found (arXiv:1708.02002, section 3.3).

    Args:
        kind: Which.
        shapes: Of the tower.
        width: Channels inside, a multiple of 8.
        share_K: Of the pixels, for each of K structures.
    """
    made: dict[str, Callable[[Shapes, int, int], nn.Module]] = {
        "unet": UNetHead,
        "upernet": UPerHead,
        "swinunetr": SwinUnetrHead,
    }
    head = made[kind](shapes, width, len(share_K))
    share = torch.tensor(share_K).clamp(1e-3, 0.5)
    with torch.no_grad():
        head.get_parameter("logits.bias").copy_(share.logit())
    return head


class UNetHead(nn.Module):
    """Upwards level by level, each joined with the tower's map there (arXiv:1505.04597)."""

    def __init__(self, shapes: Shapes, width: int, structures: int) -> None:
        super().__init__()
        dims, channels = shapes.dims, shapes.channels
        self.bottom = _block(dims, channels[-1], width)
        self.steps = nn.ModuleList(
            nn.Sequential(_block(dims, width + skip, width), _block(dims, width, width))
            for skip in channels[-2::-1]
        )
        self.logits = _conv(dims)(width, structures, 1)

    def forward(self, levels: Sequence[Tensor], image: Tensor) -> Tensor:
        """(B,K,*image) logits."""
        x = self.bottom(levels[-1])
        for step, skip in zip(self.steps, levels[-2::-1], strict=True):
            x = step(torch.cat([resize(x, skip.shape[2:]), skip], 1))
        return resize(self.logits(x), image.shape[2:])


class UPerHead(nn.Module):
    """Pooling at four scales on the coarsest level, then a feature pyramid, all levels fused.

    Xiao et al. 2018 (arXiv:1807.10221, section 3.1), with the pyramid pooling of
    arXiv:1612.01105 and the pyramid of arXiv:1612.03144.
    """

    def __init__(self, shapes: Shapes, width: int, structures: int) -> None:
        super().__init__()
        dims, channels = shapes.dims, shapes.channels
        # Without a norm: that of a single pooled pixel would keep signs alone.
        self.pools = nn.ModuleList(
            nn.Sequential(_conv(dims)(channels[-1], width, 1), nn.ReLU()) for _ in _POOLS
        )
        self.top = _block(dims, channels[-1] + len(_POOLS) * width, width)
        self.sides = nn.ModuleList(_block(dims, c, width, 1) for c in channels[:-1])
        self.outs = nn.ModuleList(_block(dims, width, width) for _ in channels[:-1])
        self.fuse = _block(dims, width * len(channels), width)
        self.logits = _conv(dims)(width, structures, 1)
        self._pool: Callable[[Tensor, int], Tensor] = (
            F.adaptive_avg_pool2d if dims == 2 else F.adaptive_avg_pool3d
        )

    def forward(self, levels: Sequence[Tensor], image: Tensor) -> Tensor:
        """(B,K,*image) logits."""
        deepest = levels[-1]
        pooled = [
            resize(pool(self._pool(deepest, size)), deepest.shape[2:])
            for pool, size in zip(self.pools, _POOLS, strict=True)
        ]
        x = self.top(torch.cat([deepest, *pooled], 1))
        outs = [x]
        for k in reversed(range(len(self.sides))):
            x = self.sides[k](levels[k]) + resize(x, levels[k].shape[2:])
            outs.append(self.outs[k](x))
        finest = levels[0].shape[2:]
        fused = self.fuse(torch.cat([resize(out, finest) for out in outs], 1))
        return resize(self.logits(fused), image.shape[2:])


class SwinUnetrHead(nn.Module):
    """The decoder of SwinUNETR (arXiv:2201.01266) from MONAI's blocks, on any tower's levels.

    Residual blocks on every level, transposed convolutions between them, and at last the image
    itself at full resolution.
    """

    def __init__(self, shapes: Shapes, width: int, structures: int) -> None:
        super().__init__()
        basic, up = _monai_blocks()
        norm = ("group", {"num_groups": _groups(width)})
        common = {"kernel_size": 3, "norm_name": norm, "res_block": True}

        def enter(channels: int) -> nn.Module:
            made: nn.Module = basic(shapes.dims, channels, width, stride=1, **common)
            return made

        self.image = enter(shapes.image_channels)
        self.sides = nn.ModuleList(enter(channels) for channels in shapes.channels)
        grids = (shapes.image, *shapes.grids)
        self.factors = [_ratio(fine, coarse) for fine, coarse in pairwise(grids)]
        self.ups = nn.ModuleList(
            up(shapes.dims, width, width, upsample_kernel_size=factor, **common)
            for factor in self.factors
        )
        self.logits = _conv(shapes.dims)(width, structures, 1)

    def forward(self, levels: Sequence[Tensor], image: Tensor) -> Tensor:
        """(B,K,*image) logits."""
        sides = [side(level) for side, level in zip(self.sides, levels, strict=True)]
        skips = [self.image(image), *sides]
        x = skips[-1]
        for k in reversed(range(len(self.ups))):
            # Where a grid is no whole multiple of the next, the skip is brought to that multiple.
            shape = [n * f for n, f in zip(x.shape[2:], self.factors[k], strict=True)]
            x = self.ups[k](x, resize(skips[k], shape))
        return resize(self.logits(x), image.shape[2:])


def _ratio(fine: Sequence[int], coarse: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(1, round(a / b)) for a, b in zip(fine, coarse, strict=True))


def _conv(dims: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dims == 2 else nn.Conv3d


def _block(dims: int, before: int, width: int, kernel: int = 3) -> nn.Sequential:
    conv = _conv(dims)(before, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(_groups(width), width), nn.ReLU())


def _groups(width: int) -> int:
    """Groups of eight channels: a norm over fewer leaves little of a map of few pixels."""
    return max(1, width // 8)


def _monai_blocks() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        # MONAI takes seconds to import and warns about the versions of others.
        warnings.simplefilter("ignore")
        from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
    return UnetrBasicBlock, UnetrUpBlock
