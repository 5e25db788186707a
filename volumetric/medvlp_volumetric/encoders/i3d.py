"""A residual network of images inflated to volumes (I3D, arXiv:1705.07750), as Merlin's.

Shape letters: B batch, C channels, D H W spatial, P tokens, E width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.models.recompute import recompute_blocks

Count = Annotated[int, Ge(1)]
_GROUPS = 8
_EXPANSION = 4


@dataclass(frozen=True, kw_only=True, config=STRICT)
class I3dConfig:
    """A ResNet of bottlenecks whose 3x3 kernels are cubes; ResNet-152 by default.

    The stem strides within slices alone; its pooling and every stage after the first halve all
    three axes. Merlin's sizes (arXiv:2406.06512).
    """

    kind: Literal["i3d"] = "i3d"
    stem: Count = 64
    """Channels of the stem, a multiple of 8."""
    widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512)
    """Channels within the bottlenecks of the four stages, each a multiple of 8; a stage gives four
    times as many."""
    blocks: tuple[Count, Count, Count, Count] = (3, 8, 36, 3)
    """Bottlenecks of the four stages."""
    norm: Literal["batch", "group"] = "batch"
    """``batch``: as published. ``group``: a sample's embedding does not depend on its batch."""
    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    def __post_init__(self) -> None:
        if any(width % _GROUPS for width in (self.stem, *self.widths)):
            raise ValueError(f"widths {self.widths}: each, and stem, must be a multiple of 8")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels."""
        return I3d(self, channels)


class I3d(ImageEncoder):
    """Stem and four stages; the last stage's voxels are the tokens, and their mean is pooled."""

    def __init__(self, config: I3dConfig, channels: int) -> None:
        super().__init__()
        self.map_widths = tuple(_EXPANSION * width for width in config.widths)
        self.width = self.map_widths[-1]
        self.stem = nn.Conv3d(channels, config.stem, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.stem_norm = _normalise(config, config.stem)
        before = (config.stem, *self.map_widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Bottleneck(
                        config,
                        before[k] if i == 0 else self.map_widths[k],
                        config.widths[k],
                        stride=2 if k and i == 0 else 1,
                    )
                    for i in range(config.blocks[k])
                )
            )
            for k in range(4)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if config.checkpoint_activations:
            recompute_blocks(self.stages, Bottleneck)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,D,H,W)."""
        x = F.max_pool3d(F.relu(self.stem_norm(self.stem(image))), 3, stride=2, padding=1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        tokens_BPE = x.flatten(2).transpose(1, 2)
        return ImageFeatures(
            pooled_BD=tokens_BPE.mean(dim=1),
            tokens_BPD=tokens_BPE,
            grid=tuple(x.shape[2:]),
            maps=tuple(maps),
        )


class Bottleneck(nn.Module):
    """A matrix to fewer channels, a cube of 3 voxels (which strides), a matrix to more; a residual.

    Args:
        config: The tower's.
        before: Channels of the input.
        width: Channels within; the output has four times as many.
        stride: Along all axes.
    """

    def __init__(self, config: I3dConfig, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        after = _EXPANSION * width
        self.narrow = nn.Conv3d(before, width, 1, bias=False)
        self.narrow_norm = _normalise(config, width)
        self.cube = nn.Conv3d(width, width, 3, stride, 1, bias=False)
        self.cube_norm = _normalise(config, width)
        self.widen = nn.Conv3d(width, after, 1, bias=False)
        self.widen_norm = _normalise(config, after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv3d(before, after, 1, stride, bias=False), _normalise(config, after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,D,H,W) to (B,4·width,D/stride,H/stride,W/stride), rounded up."""
        y = F.relu(self.narrow_norm(self.narrow(x)))
        y = F.relu(self.cube_norm(self.cube(y)))
        return F.relu(self.widen_norm(self.widen(y)) + self.shortcut(x))


def _normalise(config: I3dConfig, width: int) -> nn.Module:
    return nn.BatchNorm3d(width) if config.norm == "batch" else nn.GroupNorm(_GROUPS, width)
