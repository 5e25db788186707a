"""A 3D residual network of MONAI's blocks.

It pools by the mean over tokens unless told otherwise, so a token's similarity to a text is its
share of the whole volume's similarity, and heatmaps mean something.

Shape letters: B batch, C channels, D H W spatial, P tokens, E width.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.models.recompute import recompute_blocks

Count = Annotated[int, Ge(1)]
_GROUPS = 8
_Norm = Literal["batch", "group"]


def _monai_block() -> Any:
    # MONAI takes seconds to import and warns about the versions of others.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets.resnet import ResNetBlock
    return ResNetBlock


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResNet3dConfig:
    """A 3D residual network (He et al. 2016, arXiv:1512.03385; Hara et al. 2018)."""

    kind: Literal["resnet3d"] = "resnet3d"
    widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512)
    """Channels of the four stages, each a multiple of 8; every stage after the first halves the
    grid."""
    blocks: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
    """Residual blocks of the four stages; (2,2,2,2) is ResNet-18."""
    stem_stride: Annotated[int, Ge(1)] = 2
    stem_kernel: Literal[3, 5, 7] = 7
    stem_pool: bool = False
    """A further halving by max pooling after the stem, as in the 2D original."""
    norm: _Norm = "group"
    """``group``: a sample's embedding does not depend on its batch, so gradient caching and
    several devices give the loss of one step on one device. ``batch`` learns faster on one."""
    pool: Literal["mean", "mean+max"] = "mean"
    """``mean+max`` adds each channel's maximum to its mean: a lesion of few voxels then counts."""
    checkpoint_activations: bool = False
    """In training, keep each block's input alone and compute the block twice: less memory, about
    a third more time, the same gradient (arXiv:1604.06174)."""

    def __post_init__(self) -> None:
        if any(width % _GROUPS for width in self.widths):
            raise ValueError(f"widths {self.widths}: each must be a multiple of {_GROUPS}")

    def build(self, channels: int) -> ImageEncoder:
        """The tower for inputs of `channels` channels."""
        return ResNet3d(self, channels)


class ResNet3d(ImageEncoder):
    """A stem and four stages of MONAI's residual blocks; the last stage's voxels are the tokens.

    MONAI's own `ResNet` hands its `norm` to the stem alone, so the stages are put together here.
    """

    def __init__(self, config: ResNet3dConfig, channels: int) -> None:
        super().__init__()
        self.width = config.widths[-1]
        self.map_widths = config.widths
        self.pool = config.pool
        stem: list[nn.Module] = [
            nn.Conv3d(
                channels,
                config.widths[0],
                config.stem_kernel,
                stride=config.stem_stride,
                padding=config.stem_kernel // 2,
                bias=False,
            ),
            _normalise(config.norm, config.widths[0]),
            nn.ReLU(inplace=True),
        ]
        if config.stem_pool:
            stem.append(nn.MaxPool3d(3, stride=2, padding=1))
        self.stem = nn.Sequential(*stem)
        before = (config.widths[0], *config.widths)
        self.stages = nn.ModuleList(
            _stage(
                before[k],
                config.widths[k],
                config.blocks[k],
                stride=1 if k == 0 else 2,
                norm=config.norm,
            )
            for k in range(4)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if config.checkpoint_activations:
            recompute_blocks(self.stages, _monai_block())

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,C,D,H,W)."""
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        tokens_BPE = x.flatten(2).transpose(1, 2)
        pooled_BE = tokens_BPE.mean(dim=1)
        if self.pool == "mean+max":
            pooled_BE = pooled_BE + tokens_BPE.amax(dim=1)
        return ImageFeatures(
            pooled_BD=pooled_BE,
            tokens_BPD=tokens_BPE,
            grid=tuple(x.shape[2:]),
            maps=tuple(maps),
        )


def _stage(before: int, width: int, blocks: int, *, stride: int, norm: _Norm) -> nn.Sequential:
    block = _monai_block()
    named = "batch" if norm == "batch" else ("group", {"num_groups": _GROUPS})
    shortcut = None
    if stride > 1 or before != width:
        shortcut = nn.Sequential(
            nn.Conv3d(before, width, 1, stride=stride, bias=False), _normalise(norm, width)
        )
    first = block(before, width, spatial_dims=3, stride=stride, downsample=shortcut, norm=named)
    rest = (block(width, width, spatial_dims=3, norm=named) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def _normalise(norm: _Norm, width: int) -> nn.Module:
    return nn.BatchNorm3d(width) if norm == "batch" else nn.GroupNorm(_GROUPS, width)
