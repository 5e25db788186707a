"""Images as the tokens that a decoder attends to: computed once, tuned along, or blank."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medvlp.data.items import Item
from medvlp.data.preprocess import check_one_shape, model_input
from medvlp.encoding import ImageFeatures
from medvlp.evaluate.predict import Scorer
from medvlp.models.inputs import chunks

BATCH = 16


class Visual:
    """Visual tokens (n,P,D) by row, frozen.

    Args:
        token_NPD: Patch tokens of n images.
        grid: Their number along each axis; empty where they are averaged over it.
    """

    def __init__(self, token_NPD: Tensor, grid: tuple[int, ...] = ()) -> None:
        self._token_NPD = token_NPD
        self.grid = grid

    @property
    def shape(self) -> tuple[int, int]:
        """(P, D)."""
        return self._token_NPD.shape[1], self._token_NPD.shape[2]

    @property
    def tower(self) -> nn.Module | None:
        """What is trained along; None where the tokens are frozen."""
        return None

    def tokens(self, rows: Sequence[int]) -> Tensor:
        """(B,P,D) of some images."""
        return self._token_NPD[list(rows)].float()

    def state(self) -> dict[str, Tensor]:
        """A copy of what was learnt."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""

    def blank(self) -> Visual:
        """As many images of which nothing can be seen: the text-only control."""
        return BlankVisual(torch.zeros_like(self._token_NPD[:1]), self.grid)


class BlankVisual(Visual):
    """Zeros for every image."""

    def tokens(self, rows: Sequence[int]) -> Tensor:
        """(B,P,D) zeros."""
        return self._token_NPD.float().expand(len(rows), -1, -1)


class TunedVisual(Visual):
    """Visual tokens from a copy of an image tower that is trained along.

    Args:
        scorer: The bundle.
        arrays: The stored arrays of n images.
        limit: The most visual tokens; all of them if None.
    """

    def __init__(self, scorer: Scorer, arrays: Sequence[NDArray[Any]], limit: int | None) -> None:
        self._preprocess, self._limit = scorer.bundle.preprocess, limit
        self._device, self._arrays = scorer.bundle.device, arrays
        # The bundle itself stays what its digest says.
        self._tower = copy.deepcopy(scorer.bundle.model.image).eval().requires_grad_(True)
        with torch.no_grad():
            one = self._see([0])
        super().__init__(pooled(one.tokens_BPD, limit), grid_of(one, limit))

    @property
    def tower(self) -> nn.Module:
        """The copy of the image tower."""
        return self._tower

    def tokens(self, rows: Sequence[int]) -> Tensor:
        """(B,P,D) of some images; normalisation layers keep the statistics they came with."""
        return pooled(self._see(rows).tokens_BPD, self._limit)

    def state(self) -> dict[str, Tensor]:
        """A copy of the tower's weights."""
        return copy.deepcopy(self._tower.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._tower.load_state_dict(state)

    def _see(self, rows: Sequence[int]) -> ImageFeatures:
        image = model_input(self._preprocess, [self._arrays[row] for row in rows], self._device)
        features: ImageFeatures = self._tower(image)
        return features


def see(scorer: Scorer, items: Sequence[Item], *, limit: int | None, tune: bool) -> Visual:
    """The items' visual tokens by a bundle's image tower, row by row.

    Args:
        scorer: The bundle.
        items: What is looked at.
        limit: The most tokens an image; more are averaged with their neighbours. None for all.
        tune: Whether a copy of the tower is trained along; all stored arrays then lie in memory.

    Raises:
        ConfigError: The bundle's volumes differ in depth, and so in the number of their tokens.
        InputError: A sample cannot be read any more.
    """
    check_one_shape(scorer.bundle.preprocess.config, "a decoder over visual tokens")
    if tune:
        return TunedVisual(scorer, list(scorer.stored(items)), limit)
    parts: list[Tensor] = []
    grid: tuple[int, ...] = ()
    for chunk in chunks(scorer.stored(items), BATCH):
        features = _encode(scorer, chunk)
        parts.append(pooled(features.tokens_BPD, limit).half())
        grid = grid_of(features, limit)
    return Visual(torch.cat(parts), grid)


@torch.no_grad()
def _encode(scorer: Scorer, arrays: Sequence[NDArray[Any]]) -> ImageFeatures:
    image = model_input(scorer.bundle.preprocess, arrays, scorer.bundle.device)
    return scorer.bundle.model.encode_image(image)[0]


def grid_of(features: ImageFeatures, limit: int | None) -> tuple[int, ...]:
    """The grid of tokens that are not averaged; nothing where they are."""
    kept = limit is None or features.tokens_BPD.shape[1] <= limit
    return features.grid if kept else ()


def pooled(token_BPD: Tensor, limit: int | None) -> Tensor:
    """At most `limit` tokens: runs of neighbours in raster order are averaged."""
    if limit is None or token_BPD.shape[1] <= limit:
        return token_BPD
    return F.adaptive_avg_pool1d(token_BPD.transpose(1, 2), limit).transpose(1, 2)
