"""Where in stored images a model finds something, on its token grid.

By words: the cosine of each patch with a text. In a model's own way: what its trained head shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medvlp.data.items import Item
from medvlp.data.preprocess import model_input
from medvlp.evaluate.predict import Scorer
from medvlp.models.answers import place_grids, pointing_head
from medvlp.models.heatmap import patch_cosines

Floats = NDArray[np.float32]


def heat_grids(
    scorer: Scorer, items: Sequence[Item], texts_KE: Sequence[Floats]
) -> Iterator[list[Floats]]:
    """Each item's maps, one a text.

    Images go through the model one at a time, so that a map never depends on another sample, not
    even by rounding.

    Args:
        scorer: The model.
        items: What it sees.
        texts_KE: Each item's texts as unit vectors, (K,E).
    """
    for stored, text_KE in zip(scorer.stored(items), texts_KE, strict=True):
        yield _grids(scorer, stored, text_KE)


def head_grids(
    scorer: Scorer, items: Sequence[Item], names_K: Sequence[Sequence[str]]
) -> Iterator[list[Floats]]:
    """As `heat_grids`, by the trained head that points.

    Args:
        scorer: The model.
        items: What it sees.
        names_K: Of each item, what to show; the head knows them all.
    """
    head = pointing_head(scorer.bundle)
    for stored, names in zip(scorer.stored(items), names_K, strict=True):
        assert head is not None
        grids = place_grids(scorer.bundle, head, stored)
        yield [grids[name] for name in names]


@torch.inference_mode()
def _grids(scorer: Scorer, stored: NDArray[np.generic], text_KE: Floats) -> list[Floats]:
    bundle = scorer.bundle
    image = model_input(bundle.preprocess, [stored], bundle.device)
    features, _, patch_1PE = bundle.model.encode_image(image)
    return [
        patch_cosines(patch_1PE[0], torch.from_numpy(text_E).to(bundle.device), features.grid)
        .cpu()
        .numpy()
        for text_E in text_KE
    ]


def smoothed(grid: Floats, sigma: float) -> Floats:
    """A map blurred by a Gaussian of `sigma` cells, level beyond its edges; as it is at 0."""
    blurred: Floats = gaussian_filter(grid, sigma, mode="nearest") if sigma else grid
    return blurred
