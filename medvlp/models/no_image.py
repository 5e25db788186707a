"""The image tower of runs that read texts alone."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.encoding import ImageEncoder, ImageFeatures


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoImageEncoderConfig:
    """Stands in the image tower's place where there is none; it has no weights."""

    kind: Literal["none"] = "none"

    def build(self, channels: int) -> ImageEncoder:
        """The empty tower."""
        return _NoImageEncoder()


class _NoImageEncoder(ImageEncoder):
    width = 1

    def forward(self, image: Tensor) -> ImageFeatures:
        empty_B11 = image.new_zeros(len(image), 1, 1)
        return ImageFeatures(
            pooled_BD=empty_B11[:, 0],
            tokens_BPD=empty_B11,
            grid=(1, 1),
            maps=(empty_B11[..., None],),
        )
