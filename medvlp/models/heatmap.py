"""Where in an image a text is found: the cosine of each patch with the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medvlp.data.preprocess import Preprocess, model_input
from medvlp.models.two_tower import TwoTower


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

    share_D: NDArray[np.float32] | None = None
    """Share of each slice in the whole volume's vector, from towers that weigh slices."""


@torch.inference_mode()
def text_heatmap(
    model: TwoTower, preprocess: Preprocess, stored: NDArray[Any], text_E: Tensor
) -> Heatmap:
    """A text's place in one stored array.

    Args:
        model: The model.
        preprocess: What makes its input.
        stored: The array.
        text_E: The text's embedding, on the model's device.
    """
    image = model_input(preprocess, [stored], text_E.device)
    features, image_1E, patch_1PE = model.encode_image(image)
    cosines = patch_cosines(patch_1PE[0], text_E, features.grid)
    index = None if cosines.ndim == 2 else best_slice(cosines, len(stored))
    at = 0.5 if index is None else (index + 0.5) / len(stored)
    picture = preprocess.picture(stored, at)
    size = picture.shape[:2]
    if index is None:
        map_HW = upsample(cosines, size)
    else:
        map_HW = upsample(cosines, (len(stored), *size))[index]
    return Heatmap(
        picture=picture,
        map_HW=map_HW.cpu().numpy(),
        similarity=(image_1E[0] @ text_E).item(),
        grid=cosines.cpu().numpy(),
        index=index,
        share_D=None if features.share_BD is None else features.share_BD[0].cpu().numpy(),
    )


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
