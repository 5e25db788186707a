"""The rows printed beside every model: what can be had without looking, or without text.

`chance`, `all-positive`, `prevalence` and `metadata-only` are computed here from items alone,
`border-only` and `random-label` from images and from a model's scores; `image-blind` and
`supervised-unimodal` are bundles that were trained as such controls. `table` says which control
belongs to which task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from medvlp.data.items import Item
from medvlp.data.randomness import generator
from medvlp.evaluate.controls.border import Floats, fitted, strangers
from medvlp.evaluate.predictions import SUBGROUPS

TRAINED = ("image-blind", "supervised-unimodal")
"""Controls that are bundles."""

MOST_FITTED = 2000
"""So many training images are enough for a few hundred pixels, and are read quickly."""

Scores = NDArray[np.float64]


def chance(items: Sequence[Item], labels: int, seed: int) -> Scores:
    """(N,L) scores drawn uniformly, each from the item it belongs to."""
    return np.stack([generator(seed, 0, item.key, "chance").random(labels) for item in items])


def all_positive(items: Sequence[Item], labels: int) -> Scores:
    """(N,L) scores of one: F1 is 2p/(1+p) at prevalence p, however little was seen."""
    return np.ones((len(items), labels))


def random_label(scores: Scores, items: Sequence[Item], seed: int) -> Scores:
    """(N,L) a model's scores handed to other patients: the same as truth permuted across them."""
    rng = generator(seed, 0, "patients", "random-label")
    return scores[strangers([item.patient for item in items], rng)]


def border_only(
    items: Sequence[Item],
    train: Sequence[Item],
    labels: int,
    frame: Callable[[Sequence[Item]], Floats],
    seed: int,
) -> Scores:
    """(N,L) a logistic regression on the outer tenth of the picture (`border.frame`).

    Fitted on at most `MOST_FITTED` training items, drawn evenly.

    Args:
        items: What is scored.
        train: The training split's items.
        labels: L.
        frame: Items to their frames' features.
        seed: Of the draw.
    """
    chosen = list(train)
    if len(chosen) > MOST_FITTED:
        rng = generator(seed, 0, "items", "border-only")
        drawn = rng.choice(len(chosen), MOST_FITTED, replace=False)
        chosen = [chosen[i] for i in np.sort(drawn)]
    truth = np.stack([item.labels_L for item in chosen])
    return fitted(frame(chosen), truth, frame(items), prevalence(items, train, labels))


def prevalence(items: Sequence[Item], train: Sequence[Item], labels: int) -> Scores:
    """(N,L) each label's share of positives among the training items that know it."""
    return np.tile(_rates(train, labels), (len(items), 1))


def metadata_only(
    items: Sequence[Item],
    train: Sequence[Item],
    labels: int,
    meta: Mapping[str, Mapping[str, str | None]],
) -> Scores:
    """(N,L) a logistic regression on sex, age band, view, site and scanner.

    Fitted on the training split, one label at a time; a label that is never or always present
    there falls back to its prevalence.
    """
    encoder = OneHotEncoder(handle_unknown="ignore")
    encoder.fit(_columns(train, meta))
    train_x, test_x = (
        encoder.transform(_columns(train, meta)),
        encoder.transform(_columns(items, meta)),
    )
    truth = np.stack([item.labels_L for item in train])
    fallback = prevalence(items, train, labels)
    return fitted(train_x, truth, test_x, fallback, make=lambda: LogisticRegression(max_iter=1000))


def computed(
    items: Sequence[Item],
    train: Sequence[Item],
    labels: int,
    meta: Mapping[str, Mapping[str, str | None]],
    seed: int,
) -> dict[str, Scores]:
    """The controls that need no bundle; those that need training items only where there are."""
    rows = {
        "chance": chance(items, labels, seed),
        "all-positive": all_positive(items, labels),
    }
    if train:
        rows["prevalence"] = prevalence(items, train, labels)
        rows["metadata-only"] = metadata_only(items, train, labels, meta)
    return rows


def _rates(train: Sequence[Item], labels: int) -> Scores:
    truth = np.stack([item.labels_L for item in train])
    known = np.isin(truth, (0, 1))
    positives = ((truth == 1) & known).sum(axis=0)
    rates: Scores = np.where(known.any(axis=0), positives / np.maximum(known.sum(axis=0), 1), 0.5)
    return rates


def _columns(items: Sequence[Item], meta: Mapping[str, Mapping[str, str | None]]) -> NDArray[Any]:
    return np.array(
        [[meta[item.sample][name] or "unknown" for name in SUBGROUPS] for item in items],
        dtype=object,
    )
