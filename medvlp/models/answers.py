"""What a bundle's trained heads say in their own way: where something is, and at which place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvlp.data.preprocess import model_input
from medvlp.encoding import ImageFeatures
from medvlp.losses.objective import AligningObjective, AnsweringObjective, RelatingObjective
from medvlp.models.bundle import Bundle, ProjectedText

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a head for relations says of N images."""

    exist_NL: Floats
    """Logit of each of the head's answers."""

    relation_NAL: Floats
    """Logit of each answer at each of the head's anatomies."""


def pointing_head(bundle: Bundle) -> AnsweringObjective | None:
    """The first trained head that shows where; None where the bundle has none."""
    heads = (o for o in bundle.objectives.values() if isinstance(o, AnsweringObjective))
    return next((head for head in heads if head.points), None)


def aligning_objective(bundle: Bundle) -> AligningObjective | None:
    """What trained the model to align words with places; None where nothing did."""
    aligning = (o for o in bundle.objectives.values() if isinstance(o, AligningObjective))
    return next(aligning, None)


@torch.inference_mode()
def word_grids(
    bundle: Bundle,
    aligned: AligningObjective,
    stored: NDArray[Any],
    words_K: Sequence[Sequence[ProjectedText]],
) -> list[Floats]:
    """Where the words of K questions look in an image, each the mean over the question's texts.

    Args:
        bundle: A model.
        aligned: Its `aligning_objective`.
        stored: The image.
        words_K: `Bundle.project_texts` of each question.
    """
    image = model_input(bundle.preprocess, [stored], bundle.device)
    features, _, patch_1PE = bundle.model.encode_image(image)
    grids = []
    for texts in words_K:
        read = [text.read(bundle.device) for text in texts]
        places = [aligned.text_places(features, patch_1PE[0], text) for text in read]
        grids.append(torch.stack(places).mean(0).cpu().numpy())
    return grids


def relating_head(bundle: Bundle) -> RelatingObjective | None:
    """The first trained head that tells places apart; None where the bundle has none."""
    heads = (o for o in bundle.objectives.values() if isinstance(o, RelatingObjective))
    return next(heads, None)


@torch.inference_mode()
def place_grids(
    bundle: Bundle, head: AnsweringObjective, stored: NDArray[Any]
) -> dict[str, Floats]:
    """Where a bundle's `pointing_head` sees each of its answers: maps on the token grid."""
    image = model_input(bundle.preprocess, [stored], bundle.device)
    features, _, _ = bundle.model.encode_image(image)
    place_1LP = head.places(features)
    if place_1LP is None:
        raise ValueError("the head does not point")
    grids = place_1LP[0].reshape(-1, *features.grid).cpu().numpy()
    return dict(zip(head.answers, grids, strict=True))


def relations(
    bundle: Bundle, head: RelatingObjective, arrays: Iterable[NDArray[Any]], batch_size: int = 16
) -> Told:
    """What a bundle's `relating_head` says of stored arrays."""
    places, names = len(head.anatomies), len(head.answers)

    def both(features: ImageFeatures, _: Tensor) -> Tensor:
        told_BAL = head.relation_logits(features)
        return torch.cat([head.scores(features)[:, None], told_BAL], 1).flatten(1)

    found = bundle.rows_stored(arrays, batch_size, (1 + places) * names, both)
    logit_NAL = found.reshape(-1, 1 + places, names)
    return Told(exist_NL=logit_NAL[:, 0], relation_NAL=logit_NAL[:, 1:])
