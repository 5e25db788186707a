"""One segmentation training: references and levels of a tower, a head, its search."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvlp.data.items import Item
from medvlp.data.preprocess import Preprocess, check_one_shape
from medvlp.evaluate.heads.arrays import KEPT_BYTES, Arrays, deterministic
from medvlp.evaluate.heads.decoders import HeadKind, Shapes, build_head, levels_of
from medvlp.evaluate.heads.entrants import Entrant
from medvlp.evaluate.heads.loop import search_trained, train
from medvlp.evaluate.heads.search import Found, SearchConfig, Setting
from medvlp.evaluate.masks import Reference, Regions
from medvlp.evaluate.metrics.regions import dice
from medvlp.evaluate.predict import Scorer
from medvlp.progress import track

Bools = NDArray[np.bool_]

CALLED = 0.5
"""A pixel from this probability on belongs to the structure."""


class References:
    """What is known of where things lie, on one contract's grid, kept as bits.

    Args:
        regions: Of the manifests.
        preprocess: The contract's.
        items: Every item that will be asked for, with its own image.
    """

    def __init__(self, regions: Regions, preprocess: Preprocess, items: Sequence[Item]) -> None:
        self._regions, self._preprocess = regions, preprocess
        self._own = {item.sample: item for item in items}
        self._kept: dict[str, tuple[NDArray[np.uint8], tuple[int, ...], Reference]] = {}

    def of(self, item: Item) -> Reference:
        """What is known of an item's sample, whosever image it is shown with.

        Raises:
            InputError: See `Regions.reference`.
        """
        if item.sample not in self._kept:
            found = self._regions.reference(self._own[item.sample], self._preprocess)
            about = dataclasses.replace(found, masks=np.zeros(0, bool))
            self._kept[item.sample] = (np.packbits(found.masks), found.masks.shape, about)
        bits, shape, about = self._kept[item.sample]
        masks = np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)
        return dataclasses.replace(about, masks=masks)


class FrozenLevels:
    """A frozen tower's levels, computed once an image as long as memory is left."""

    def __init__(self, scorer: Scorer, arrays: Arrays) -> None:
        self._tower = scorer.bundle.model.image.eval()
        self._arrays = arrays
        self._kept: dict[Any, list[Tensor]] = {}
        self._left = KEPT_BYTES

    @torch.no_grad()
    def __call__(self, items: Sequence[Item], image: Tensor) -> list[Tensor]:
        """The items' levels; `image` is their model input."""
        each = [self._one(item, image[i : i + 1]) for i, item in enumerate(items)]
        return [torch.cat(level).to(image) for level in zip(*each, strict=True)]

    def _one(self, item: Item, image: Tensor) -> list[Tensor]:
        key = (item.source_paths, item.span, item.flags)
        found = self._kept.get(key)
        if found is None:
            found = levels_of(self._tower(image))
            size = sum(level.nbytes for level in found)
            if size <= self._left:
                self._left -= size
                self._kept[key] = found
        return found


class Segmenter(nn.Module):
    """A head, and a copy of the tower where that learns, too.

    Parts are named as `medvlp.train.parts` has it.
    """

    def __init__(self, head: nn.Module, tower: nn.Module | None) -> None:
        super().__init__()
        self.model = nn.ModuleDict({} if tower is None else {"image": copy.deepcopy(tower)})
        self.objectives = nn.ModuleDict({"head": head})

    def forward(self, levels: list[Tensor] | None, image: Tensor) -> Tensor:
        """(B,K,*image) logits; `levels` of a frozen tower, else the own tower sees the image."""
        if levels is None:
            levels = levels_of(self.model["image"](image))
        logits: Tensor = self.objectives["head"](levels, image)
        return logits.float()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every entrant is trained."""

    head: HeadKind
    width: int
    tuned: bool
    structures: int
    search: SearchConfig


Segment = Callable[[Sequence[Item]], NDArray[np.float32]]
"""(items) -> (N,K,*grid) probabilities."""


def fit_segmenter(
    entrant: Entrant, references: References, recipe: Recipe, seed: int
) -> Found[Segment]:
    """Train a head for every setting and keep the one with the best Dice on the validation split.

    Args:
        entrant: The encoder, and its items with what they are shown.
        references: On the grid of the encoder's contract.
        recipe: Head and budget, the same for all.
        seed: Of the head's first weights and of the order of items.

    Raises:
        ConfigError: Every trial diverged, or the encoder's volumes differ in depth.
        InputError: An image or a region cannot be read any more.
    """
    check_one_shape(entrant.scorer.bundle.preprocess.config, "segmentation")
    arrays = Arrays(entrant.scorer)
    frozen = FrozenLevels(entrant.scorer, arrays)
    tower = entrant.scorer.bundle.model.image
    items = entrant.splits.train
    share = mean_masks(items, references).reshape(recipe.structures, -1).mean(axis=1).tolist()
    first = arrays.input(items[:1])
    with torch.no_grad():
        shapes = Shapes.of(first, levels_of(tower.eval()(first)))

    def forward(module: Segmenter, chosen: Sequence[Item]) -> Tensor:
        image = arrays.input(chosen)
        out: Tensor = module(None if recipe.tuned else frozen(chosen, image), image)
        return out

    def segment(module: Segmenter) -> Segment:
        @torch.no_grad()
        def probabilities(chosen: Sequence[Item]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = forward(module.eval(), chosen).sigmoid().cpu().numpy()
            return found

        return probabilities

    def trial(setting: Setting) -> tuple[Segmenter, float]:
        with torch.random.fork_rng(devices=[]):
            deterministic(seed, "segmentation")
            head = build_head(recipe.head, shapes, recipe.width, share)
            module = Segmenter(head, tower if recipe.tuned else None).to(first.device)

            def loss(numbers: list[int], epoch: int) -> Tensor:
                chosen = [items[i] for i in numbers]
                known = [references.of(item) for item in chosen]
                return overlap_loss(forward(module.train(), chosen), known)

            score = train(
                module,
                loss,
                lambda: mean_dice(segment(module), entrant.splits.valid, references, recipe),
                count=len(items),
                config=recipe.search,
                setting=setting,
                seed=seed,
                label=f"{entrant.name}: training",
            )
        return module, score

    found = search_trained(recipe.search, trial, entrant.name)
    return Found(best=segment(found.best), chosen=found.chosen, trials=found.trials)


def overlap_loss(logits: Tensor, known: Sequence[Reference]) -> Tensor:
    """Dice plus binary cross-entropy (MONAI), the mean over the structures that are known.

    Args:
        logits: (B,K,*grid).
        known: The batch's references.
    """
    with warnings.catch_warnings():
        # MONAI takes seconds to import and warns about the versions of others.
        warnings.simplefilter("ignore")
        from monai.losses.dice import DiceCELoss

        criterion = DiceCELoss(sigmoid=True)
    masks = torch.from_numpy(np.stack([r.masks for r in known])).to(logits)
    known_BK = torch.from_numpy(np.stack([r.known_K for r in known])).to(logits.device)
    if not known_BK.any():
        return (logits * 0).sum()
    # One channel each: structures overlap, so each is told apart from its own background.
    chosen = logits[known_BK].unsqueeze(1), masks[known_BK].unsqueeze(1)
    value: Tensor = criterion(*chosen)
    return value


def mean_dice(
    segment: Segment, items: Sequence[Item], references: References, recipe: Recipe
) -> float:
    """The mean over structures of the mean Dice of references that are not empty; else NaN."""
    scores: dict[int, list[float]] = {}
    for start in range(0, len(items), recipe.search.batch_size):
        chosen = items[start : start + recipe.search.batch_size]
        for item, found in zip(chosen, segment(chosen), strict=True):
            reference = references.of(item)
            for k, mask in enumerate(reference.masks):
                if mask.any():
                    scores.setdefault(k, []).append(dice(found[k] >= CALLED, mask))
    return float(np.mean([np.mean(s) for s in scores.values()])) if scores else float("nan")


def mean_masks(items: Sequence[Item], references: References) -> NDArray[np.float32]:
    """(K,*grid) the share of the items that know a structure in which it covers a pixel."""
    total, count = None, None
    for item in track(items, "mean mask"):
        reference = references.of(item)
        known = reference.known_K.astype(np.float64)
        masks = reference.masks.astype(np.float64)
        total = masks if total is None else total + masks
        count = known if count is None else count + known
    assert total is not None
    assert count is not None
    shape = (len(count),) + (1,) * (total.ndim - 1)
    share: NDArray[np.float32] = (total / np.maximum(count, 1).reshape(shape)).astype(np.float32)
    return share
