"""The frame tower: a 2D tower on every frame, then pooling over time."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures
from medvlp.errors import ConfigError
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig

Frame2d = Annotated[ResNet2dConfig | Vit2dConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FrameEncoderConfig:
    """A 2D tower applied frame by frame, and how frames become one vector."""

    kind: Literal["frames"] = "frames"
    frame: Frame2d = Field(default_factory=ResNet2dConfig)
    """The 2D tower: the core's ``resnet`` or ``vit``."""

    pool: Literal["mean", "attention"] = "mean"
    """``mean`` over frames (the order means nothing), or ``attention``: a learned query over
    frame vectors that carry their place in the clip."""

    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads, for ``attention``."""

    max_frames: Annotated[int, Field(ge=1)] = 64
    """The longest clip, for ``attention``."""

    def build(self, channels: int) -> ImageEncoder:
        """The tower for clips (B,F,`channels`,H,W)."""
        return FrameEncoder(self, channels)


class FrameEncoder(ImageEncoder):
    """(B,F,C,H,W) to features with tokens of all frames, grid (F,h,w).

    Tokens lie frame by frame in raster order. With ``mean``, `pooled_BD` is the mean of the
    tokens, as the contract of `Encodings.patch_BPE` wants, and the clip's parts are its frames.
    """

    within = "frame"

    def __init__(self, config: FrameEncoderConfig, channels: int) -> None:
        super().__init__()
        self.frame = config.frame.build(channels)
        self.width = self.frame.width
        self.map_widths = self.frame.map_widths
        self.pool = AttentionPool(self.width, config) if config.pool == "attention" else None
        self.gives_parts = self.pool is None
        if self.frame.portable is not None:
            self.portable = dataclasses.replace(config, frame=self.frame.portable)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B,F,C,H,W)."""
        batch, frames = image.shape[:2]
        each = self.frame(image.flatten(0, 1))
        frame_BFD = each.pooled_BD.unflatten(0, (batch, frames))
        return ImageFeatures(
            pooled_BD=frame_BFD.mean(1) if self.pool is None else self.pool(frame_BFD),
            part_BGD=frame_BFD if self.pool is None else None,
            tokens_BPD=each.tokens_BPD.unflatten(0, (batch, frames)).flatten(1, 2),
            grid=(frames, *each.grid),
            maps=tuple(level.unflatten(0, (batch, frames)).transpose(1, 2) for level in each.maps),
        )


class AttentionPool(nn.Module):
    """One learned query that attends to frame vectors marked with their place in the clip.

    Places are fractions of the clip, so clips of any length up to `max_frames` share them: the
    learned table is read by linear interpolation.
    """

    def __init__(self, width: int, config: FrameEncoderConfig) -> None:
        super().__init__()
        if width % config.heads:
            raise ConfigError(
                f"image.heads: {config.heads} does not divide the width {width}",
                remedy="choose a number of heads that divides the frame tower's width",
            )
        self.max_frames = config.max_frames
        self.place_FD = nn.Parameter(0.02 * torch.randn(config.max_frames, width))
        self.query_11D = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, config.heads, batch_first=True)

    def forward(self, frame_BFD: Tensor) -> Tensor:
        """(B,F,D) to (B,D).

        Raises:
            ConfigError: More frames than `max_frames`.
        """
        frames = frame_BFD.shape[1]
        if frames > self.max_frames:
            raise ConfigError(
                f"clips of {frames} frames, the tower takes {self.max_frames}",
                remedy="raise image.max_frames or lower preprocess.frames",
            )
        key_BFD = self.norm(frame_BFD + at_fractions(self.place_FD, frames))
        query_B1D = self.query_11D.expand(len(frame_BFD), -1, -1)
        out_B1D = self.attention(query_B1D, key_BFD, key_BFD, need_weights=False)[0]
        # The mean stays in, so that an untrained pool already tells clips apart.
        pooled_BD: Tensor = frame_BFD.mean(1) + out_B1D[:, 0]
        return pooled_BD


def at_fractions(place_FD: Tensor, frames: int) -> Tensor:
    """The table's rows at the middle of each of `frames` equal parts."""
    at_1DF = nn.functional.interpolate(
        place_FD.T[None], size=frames, mode="linear", align_corners=False
    )
    return at_1DF[0].T
