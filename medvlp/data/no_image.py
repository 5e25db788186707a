"""The preprocessing contract of runs that read texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.placement import Placed, Region
from medvlp.data.preprocess import Span
from medvlp.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NoImageConfig:
    """No image at all: reports that have none are trained on, and images are left unread."""

    kind: Literal["none"] = "none"

    @property
    def channels(self) -> int:
        """Channels of the empty input."""
        return 1

    def build(self) -> NoImage:
        """The preprocessing that this contract describes."""
        return NoImage(self)


class NoImage:
    """Gives every sample the same empty image, which nothing learns from."""

    def __init__(self, config: NoImageConfig) -> None:
        self.config = config

    def read(
        self, paths: Sequence[Path], span: Span | None = None, flags: Sequence[str] = ()
    ) -> NDArray[Any]:
        """The empty image; no file is opened."""
        return np.zeros((1, 1), np.uint8)

    def from_array(
        self, array: NDArray[Any], spacing_mm: Sequence[float] | None = None
    ) -> NDArray[Any]:
        """Refused.

        Raises:
            InputError: Always: the model has seen no image.
        """
        raise no_image_error()

    def regions(
        self, paths: Sequence[Path], flags: Sequence[str], regions: Sequence[Region]
    ) -> Placed:
        """Refused.

        Raises:
            InputError: Always: there is no image that they could lie in.
        """
        raise no_image_error()

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Nothing."""
        return np.empty(0)

    def tensor(self, stored: Tensor, drawn_BK: Tensor | None = None) -> Tensor:
        """Empty images as the model input, (B,1,1,1)."""
        return torch.zeros(len(stored), 1, 1, 1, device=stored.device)

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """A black pixel."""
        return np.zeros((1, 1, 3), np.uint8)


def no_image_error() -> InputError:
    """What a user is told who gives such a model an image."""
    return InputError(
        "the model was trained on texts alone and cannot take an image",
        remedy="train an image tower with init set to this bundle",
    )


CORE_PREPROCESS: dict[str, type] = {"none": NoImageConfig}
"""The contracts that every domain has beside its own, by `kind`."""
