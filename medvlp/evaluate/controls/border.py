"""Control `border-only`: what the outer frame of the pictures predicts.

Side markers, burned-in letters, collimator edges, padding and site-specific borders lie there;
anatomy hardly does. Whoever scores well on the frame has found a mark, not a disease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medvlp.archive.duplicates.fingerprint import triangle_weights
from medvlp.data.preprocess import Preprocess

Floats = NDArray[np.floating[Any]]

SIDE = 40
"""Rows and columns to which a picture is reduced before its frame is taken."""

FRAME = 0.1
"""The frame's width as a share of each side."""

MOMENTS = (0.25, 0.5, 0.75)
"""Where a volume or a clip is looked at, as fractions of its length."""


def frames(stored: Iterable[NDArray[Any]], preprocess: Preprocess) -> Floats:
    """(N,K) frame features of stored arrays, through the views that people are shown."""
    views = (
        np.mean([preprocess.picture(array, at)[..., 0] for at in MOMENTS], axis=0)
        for array in stored
    )
    return np.stack([frame(view) for view in views])


def frame(picture_HW: Floats) -> Floats:
    """The outer tenth of a picture, reduced to `SIDE` by `SIDE` pixels: one grey a pixel."""
    rows, columns = (triangle_weights(size, SIDE) for size in picture_HW.shape)
    small = rows @ np.asarray(picture_HW, dtype=np.float32) @ columns.T
    width = round(SIDE * FRAME)
    outer = np.ones((SIDE, SIDE), dtype=bool)
    outer[width:-width, width:-width] = False
    return np.asarray(small[outer])


def _on_pixels() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def fitted(
    train_NK: Any,
    truth_NL: Floats,
    test_MK: Any,
    fallback_ML: Floats,
    make: Callable[[], Any] = _on_pixels,
) -> NDArray[np.float64]:
    """(M,L) probabilities of a logistic regression, one label at a time, on features of any kind.

    A label that is never or always present in training keeps its `fallback_ML`.

    Args:
        train_NK: Features of the training samples, dense or sparse.
        truth_NL: Their labels: 1, 0, or anything else for unknown.
        test_MK: Features of the samples that are scored.
        fallback_ML: Scores where nothing can be fitted.
        make: A regression that is not fitted yet; by default a strongly held one for pixels.
    """
    scores = np.array(fallback_ML, dtype=np.float64)
    for column in range(truth_NL.shape[1]):
        known = np.isin(truth_NL[:, column], (0, 1))
        positive = truth_NL[known, column] == 1
        if 0 < positive.sum() < len(positive):
            scores[:, column] = make().fit(train_NK[known], positive).predict_proba(test_MK)[:, 1]
    return scores


def strangers(patients: Sequence[str], rng: np.random.Generator) -> NDArray[np.int64]:
    """(N,) for each sample one of another patient, drawn evenly: labels permuted across patients.

    The order of samples is shuffled and shifted past the largest patient, so that nobody meets
    their own; every sample is handed out once. Where one patient has more than half of the
    samples, some of these keep their own.
    """
    names = np.asarray(patients)
    # Grouped by patient, in a random order of patients and of samples within each.
    order = rng.permutation(len(names))
    place = {name: i for i, name in enumerate(rng.permutation(np.unique(names)).tolist())}
    order = order[np.argsort([place[name] for name in names[order]], kind="stable")]
    most = int(np.unique(names, return_counts=True)[1].max())
    low, high = most, max(most, len(names) - most)
    found = np.empty(len(names), dtype=np.int64)
    found[order] = np.roll(order, int(rng.integers(low, high + 1)))
    return found
