"""The preprocessing contract: it travels in the bundle, which refuses to work under another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.placement import Placed, Placement, Region, place
from medvlp.data.preprocess import Span
from medvlp_fundus.read import read_picture


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FundusPreprocessConfig:
    """From a photograph to a (3,size,size) tensor."""

    kind: Literal["fundus"] = "fundus"
    size: int = 224
    jitter: float = 0.1
    """Augmentation: largest change of brightness, as a fraction."""

    @property
    def channels(self) -> int:
        """Channels of the model input."""
        return 3

    def build(self) -> FundusPreprocess:
        """The preprocessing that this contract describes."""
        return FundusPreprocess(self)


class FundusPreprocess:
    """Photographs to model input; the stored array is uint8 (size,size,3)."""

    def __init__(self, config: FundusPreprocessConfig) -> None:
        self.config = config

    def read(
        self, paths: Sequence[Path], span: Span | None = None, flags: Sequence[str] = ()
    ) -> NDArray[np.uint8]:
        """Decode one photograph; `span` has no meaning here."""
        return self.from_array(read_picture(paths[0]))

    def from_array(
        self, array: NDArray[Any], spacing_mm: Sequence[float] | None = None
    ) -> NDArray[np.uint8]:
        """The middle square of a decoded (H,W,3) photograph, resized."""
        height, width = array.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(array[top : top + side, left : left + side])
        return np.asarray(square.resize((self.config.size, self.config.size)))

    def regions(
        self, paths: Sequence[Path], flags: Sequence[str], regions: Sequence[Region]
    ) -> Placed:
        """Boxes and masks on the photograph's own pixels, on the stored square."""
        height, width = read_picture(paths[0]).shape[:2]
        side = min(height, width)
        scale = self.config.size / side
        placement = Placement(
            native=(height, width),
            grid=(self.config.size, self.config.size),
            axes=(0, 1),
            scale=(scale, scale),
            offset=(-scale * ((height - side) // 2), -scale * ((width - side) // 2)),
        )
        return place(placement, regions, lambda files: read_picture(files[0]).max(axis=-1))

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """One photograph's brightness; every draw comes from `rng`, so that a run repeats."""
        return np.array([1 + rng.uniform(-1, 1) * self.config.jitter])

    def tensor(self, stored: Tensor, drawn_BK: Tensor | None = None) -> Tensor:
        """(B,3,size,size) in [-1,1], of a whole batch on its device."""
        image_BCHW = stored.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        if drawn_BK is not None:
            image_BCHW = image_BCHW * drawn_BK.to(image_BCHW).view(-1, 1, 1, 1)
        return image_BCHW

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """The photograph for people; `at` has no meaning here."""
        return stored
