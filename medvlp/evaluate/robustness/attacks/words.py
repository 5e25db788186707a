"""Prompts with one word exchanged, and pictures attacked in step with them.

After the description of the set-level guidance attack (SGA, Lu et al., arXiv:2307.14061): words
first, against the clean picture; then the picture, over several sizes of it and against those
words; then the words again, against the attacked picture. Budgets: one word a prompt, `eps` a
pixel. Words come from a list of near words instead of a masked language model, so that prompts
keep their meaning; the picture's sizes stand for SGA's set of pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medvlp.config import read_yaml
from medvlp.data.prompts import PromptSet
from medvlp.evaluate.robustness.attacks.gradient import Rightness
from medvlp.evaluate.robustness.attacks.pictures import Floats, signs
from medvlp.models.bundle import Bundle

SIZES = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Sizes of a picture that an attack must hold for."""


@cache
def near_words() -> dict[str, tuple[str, ...]]:
    """Word -> words of about the same meaning."""
    table = read_yaml(Path(__file__).with_name("near_words.yaml"))
    return {str(word): tuple(map(str, near)) for word, near in table.items()}


def versions(prompt: str) -> list[str]:
    """The prompt, then every version of it with one word exchanged."""
    found = [prompt]
    for match in re.finditer(r"[A-Za-z-]+", prompt):
        for near in near_words().get(match[0].lower(), ()):
            word = near.capitalize() if match[0][0].isupper() else near
            found.append(prompt[: match.start()] + word + prompt[match.end() :])
    return list(dict.fromkeys(found))


class WordAttack:
    """The worst wording of each label for each picture.

    Args:
        bundle: Whose text tower is attacked.
        prompts: The prompt set.
        names: Labels of it.
    """

    def __init__(self, bundle: Bundle, prompts: PromptSet, names: Sequence[str]) -> None:
        self.exclusive = prompts.mode == "exclusive"
        self.sides = [
            tuple(
                [bundle.embed_text(versions(text)) for text in side]
                for side in (prompts.labels[name].positive, prompts.labels[name].negative)
            )
            for name in names
        ]

    def ways(self, image_BE: Floats, truth_BL: NDArray[Any]) -> Floats:
        """(B,L,E) directions of the worst wordings for the pictures' vectors."""
        side_BL = signs(truth_BL)
        positive_BLE, negative_BLE = (
            np.stack(
                [
                    _worst(sides[k], image_BE, turn * side_BL[:, column])
                    for column, sides in enumerate(self.sides)
                ],
                axis=1,
            )
            for k, turn in ((0, 1.0), (1, -1.0))
        )
        found: Floats = positive_BLE if self.exclusive else positive_BLE - negative_BLE
        return found

    def logits(self, scale: float, image_BE: Floats, way_BLE: Floats) -> NDArray[np.float64]:
        """(B,L) logits of pictures asked in these words."""
        found: NDArray[np.float64] = scale * np.einsum("be,ble->bl", image_BE, way_BLE).astype(
            np.float64
        )
        return found


def _worst(prompts: Sequence[Floats], image_BE: Floats, side_B: Floats) -> Floats:
    """(B,E): the ensemble of each prompt's version that fits least where it should fit.

    Args:
        prompts: Each prompt's versions (V,E), the unchanged first.
        image_BE: The pictures.
        side_B: 1 where the prompts should fit, -1 where they should not, 0 where nobody knows.
    """
    if not prompts:
        return np.zeros_like(image_BE)
    chosen = []
    for version_VE in prompts:
        fit_BV = (image_BE @ version_VE.T) * side_B[:, None]
        chosen.append(version_VE[np.argmin(fit_BV, axis=1)])
    mean_BE = np.mean(chosen, axis=0)
    unit_BE: Floats = mean_BE / np.maximum(np.linalg.norm(mean_BE, axis=1, keepdims=True), 1e-12)
    return unit_BE


def over_sizes(right: Rightness) -> Rightness:
    """The mean rightness of a picture at several sizes, each brought back to the model's own."""

    def mean(pictures: Tensor) -> Tensor:
        total = right(pictures)
        for size in SIZES:
            if size != 1.0:
                total = total + right(_resized(pictures, size))
        return total / len(SIZES)

    return mean


def _resized(pictures: Tensor, size: float) -> Tensor:
    flat = pictures.reshape(-1, 1, *pictures.shape[-2:])
    sides = [max(2, round(n * size)) for n in flat.shape[-2:]]
    other = F.interpolate(flat, sides, mode="bilinear", align_corners=False)
    back = F.interpolate(other, flat.shape[-2:], mode="bilinear", align_corners=False)
    return back.reshape(pictures.shape)
