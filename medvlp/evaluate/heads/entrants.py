"""Who is trained: every model, and the controls that are the same training with altered inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medvlp.data.permuted import permute_images
from medvlp.evaluate.heads.arrays import seeded
from medvlp.evaluate.heads.splits import Splits, shuffle_images
from medvlp.evaluate.predict import Scorer
from medvlp.models.untrained import reinitialised

Control = Literal["random-encoder", "image-blind", "random-label"]
CONTROLS: tuple[Control, ...] = ("random-encoder", "image-blind", "random-label")
"""``random-encoder``: the first model's architecture with weights drawn anew; ``image-blind``:
the first model trained, chosen and tested with images permuted across patients;
``random-label``: the first model trained with labels permuted across training patients."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One training."""

    name: str
    control: bool
    scorer: Scorer
    """The encoder."""

    splits: Splits


def entrants(
    scorers: Sequence[Scorer], splits: Splits, seed: int, controls: Sequence[Control]
) -> list[Entrant]:
    """The models, then the controls; a bundle of a control's name stands in its place.

    Args:
        scorers: The bundles. One that was trained image-blind goes on without its images.
        splits: What all train on.
        seed: Of the training, and so of what is drawn anew and permuted.
        controls: Which controls are wanted; they need at least one model that is none.
    """
    found = [
        Entrant(
            name=scorer.name,
            control=scorer.control is not None,
            scorer=scorer,
            splits=_blind(splits, seed) if scorer.control == "image-blind" else splits,
        )
        for scorer in scorers
    ]
    models = [scorer for scorer in scorers if scorer.control is None]
    taken = {entrant.name for entrant in found}
    for control in controls if models else ():
        if control not in taken:
            found.append(_control(control, models[0], splits, seed))
    return found


def _control(control: Control, model: Scorer, splits: Splits, seed: int) -> Entrant:
    scorer, altered = model, splits
    if control == "random-encoder":
        # Not the seed itself: from it the model's own training may have started.
        bundle = reinitialised(model.bundle, seeded(seed, control))
        scorer = dataclasses.replace(model, name=control, control=control, bundle=bundle)
    elif control == "image-blind":
        altered = _blind(splits, seed)
    else:
        altered = dataclasses.replace(splits, train=tuple(shuffle_images(splits.train, seed)))
    return Entrant(name=control, control=True, scorer=scorer, splits=altered)


def _blind(splits: Splits, seed: int) -> Splits:
    return Splits(
        train=tuple(permute_images(splits.train, seed)),
        valid=tuple(permute_images(splits.valid, seed)),
        test=tuple(permute_images(splits.test, seed)),
    )
