"""An image tower of one's own: patches, two convolutions, and their mean."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PatchEncoderConfig:
    """A small tower whose grid is the image divided into patches."""

    kind: Literal["patches"] = "patches"
    patch: int = 16
    width: int = 128

    def build(self, channels: int) -> ImageEncoder:
        """The tower for images of `channels` channels."""
        return PatchEncoder(self, channels)


class PatchEncoder(ImageEncoder):
    """(B,C,H,W) to patch tokens; their mean is the pooled vector, so heatmaps mean something."""

    def __init__(self, config: PatchEncoderConfig, channels: int) -> None:
        super().__init__()
        self.width = config.width
        self.layers = nn.Sequential(
            nn.Conv2d(channels, config.width, config.patch, stride=config.patch),
            nn.GELU(),
            nn.Conv2d(config.width, config.width, 3, padding=1),
        )

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode a batch of images."""
        map_BDhw = self.layers(image)
        tokens_BPD = map_BDhw.flatten(2).transpose(1, 2)
        return ImageFeatures(
            pooled_BD=tokens_BPD.mean(1),
            tokens_BPD=tokens_BPD,
            grid=tuple(map_BDhw.shape[2:]),
            maps=(map_BDhw,),
        )
