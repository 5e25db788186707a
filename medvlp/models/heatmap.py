"""Where in an image a text is found: the cosine of each patch with the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A text's place in one image, slice or frame."""

    picture: NDArray[np.uint8]
    """(H,W,3), the view for people."""

    map_HW: NDArray[np.float32]
    """Cosine of patch and text, in [-1,1], upsampled to the picture."""

    similarity: float
    """Cosine of the whole input and the text."""

    grid: NDArray[np.float32]
    """The cosines on the token grid: (h,w), (d,h,w) or (f,h,w)."""

    index: int | None = None
    """The slice or frame of the stored array that is shown: that of the highest cosine; None for
    flat images."""


def patch_cosines(patch_PE: Tensor, text_E: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Cosine of every projected patch with a unit text vector, on the token grid."""
    return (F.normalize(patch_PE.float(), dim=-1) @ text_E.float()).reshape(grid)


def upsample(cosines: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cosines on the token grid at another resolution, linearly between patch centres."""
    mode = "bilinear" if cosines.ndim == 2 else "trilinear"
    spread: Tensor = F.interpolate(cosines[None, None], shape, mode=mode, align_corners=False)
    return spread[0, 0]


def best_slice(cosines: Tensor, depth: int) -> int:
    """The slice or frame, of `depth`, that holds the highest cosine of a (d,h,w) grid."""
    per_slice = upsample(cosines, (depth, *cosines.shape[1:])).flatten(1).amax(1)
    return int(torch.argmax(per_slice))
