"""Stored arrays as pictures in [0,1], and a bundle's answers to them, with gradients.

Attacks live in the space of input tensors: a picture is `Preprocess.tensor` of the stored array,
scaled by the input's own lowest and highest value, which the contract tells when it is given the
lowest and highest stored value. For X-ray and video a rounded picture is one that could be stored.
With several CT windows every channel is attacked by itself, which no one volume could show: there,
success is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medvlp.data.preprocess import check_one_shape, model_input
from medvlp.data.prompts import PromptSet
from medvlp.evaluate.robustness.corruptions.planes import recompressed
from medvlp.models.bundle import Bundle

Floats = NDArray[np.float32]


class Pictures:
    """From stored arrays to pictures, and from pictures to a bundle's input.

    Args:
        bundle: The model.
        like: An array of the shape and type of all that will be attacked.

    Raises:
        ConfigError: The bundle's arrays have no common shape.
    """

    def __init__(self, bundle: Bundle, like: NDArray[Any]) -> None:
        check_one_shape(bundle.preprocess.config, "attacks on pictures")
        self.bundle = bundle
        span = np.iinfo(like.dtype)
        ends = [np.full_like(like, value) for value in (span.min, span.max)]
        both = model_input(bundle.preprocess, ends, bundle.device)
        self.low, self.span = both[:1], both[1:] - both[:1]

    def of(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """Pictures (B,...) in [0,1] of stored arrays."""
        given = model_input(self.bundle.preprocess, arrays, self.bundle.device)
        return ((given - self.low) / self.span).clamp(0, 1)

    def embed(self, pictures: Tensor) -> Tensor:
        """Unit vectors (B,E), differentiable."""
        _, image_BE, _ = self.bundle.model.encode_image(self.low + pictures * self.span)
        return image_BE

    def seen(self, pictures: Tensor) -> Floats:
        """Unit vectors (B,E) as an array."""
        with torch.inference_mode():
            found: Floats = self.embed(pictures).cpu().numpy()
        return found

    def calmed(self, pictures: Tensor) -> Floats:
        """Unit vectors (B,E): the mean over the picture, a blurred and a JPEG version.

        A weak transform that an attack did not reckon with, averaged at test time.
        """
        flat = pictures.reshape(-1, 1, *pictures.shape[-2:])
        blurred = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1)
        packed = torch.from_numpy(recompressed(flat[:, 0].cpu().numpy(), 75)).to(pictures)
        versions = (pictures, blurred.reshape(pictures.shape), packed.reshape(pictures.shape))
        mean_BE = np.mean([self.seen(version) for version in versions], axis=0)
        unit_BE: Floats = mean_BE / np.linalg.norm(mean_BE, axis=1, keepdims=True)
        return unit_BE


class Answers:
    """How right a bundle's answers to pictures are: the mean signed margin over known labels.

    Args:
        pictures: The bundle's.
        truth_BL: 1 present, 0 absent, anything else unknown.
        way_BLE: Each picture's and label's direction: the product with the image's vector is the
            margin. (1,L,E) where all pictures are asked alike.
        exclusive: One label holds: its margin counts against the mean of all others.
    """

    def __init__(
        self, pictures: Pictures, truth_BL: NDArray[Any], way_BLE: Floats, *, exclusive: bool
    ) -> None:
        self.pictures = pictures
        self.weight_BL = torch.from_numpy(weights(truth_BL, exclusive)).to(pictures.low)
        self.way_BLE = torch.from_numpy(np.ascontiguousarray(way_BLE)).to(pictures.low)

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B,)."""
        image_BE = self.pictures.embed(pictures)
        return ((image_BE[:, None] * self.way_BLE).sum(-1) * self.weight_BL).sum(1)


def weights(truth_BL: NDArray[Any], exclusive: bool) -> Floats:
    """(B,L) how much each margin counts; over a picture's known labels the sizes sum to 1 or 2."""
    sign_BL = signs(truth_BL)
    counts = [np.abs(sign_BL).sum(1, keepdims=True)] * 2
    if exclusive:
        counts = [(sign_BL == side).sum(1, keepdims=True) for side in (1, -1)]
    count_BL = np.where(sign_BL > 0, *(np.maximum(count, 1) for count in counts))
    found: Floats = (sign_BL / count_BL).astype(np.float32)
    return found


def signs(truth_BL: NDArray[Any]) -> Floats:
    """1 present, -1 absent, 0 unknown."""
    return np.where(truth_BL == 1, 1, np.where(truth_BL == 0, -1, 0)).astype(np.float32)


def label_directions(bundle: Bundle, prompts: PromptSet, names: Sequence[str]) -> Floats:
    """(L,E) of the labels `names`: positive minus negative prompts; of exclusive sets, positive."""
    embedded = bundle.embed_prompts(prompts)
    way_LE = embedded.positive_LE
    if embedded.negative_LE is not None:
        way_LE = way_LE - embedded.negative_LE
    found: Floats = way_LE[[prompts.names.index(name) for name in names]]
    return found
