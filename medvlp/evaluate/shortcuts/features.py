"""Numbers about a sample that know nothing of anatomy: the detectors' eyes.

A sample's *view* is what people are shown of it: (H,W) grey, or (F,H,W) for slices or moments in
order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, laplace
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import OneHotEncoder

from medvlp.archive.duplicates.fingerprint import triangle_weights
from medvlp.evaluate.controls.border import frame

Floats = NDArray[np.floating[Any]]

_SHARES = (1, 5, 25, 50, 75, 95, 99)
_BLOCK = 8
"""JPEG's blocks."""
_LINES, _STEP = 48, 2
_CORNER, _CELL = 0.25, 24


def flat(view: Floats) -> Floats:
    """A view as one picture: the mean over its slices or moments."""
    return np.asarray(view if view.ndim == 2 else view.mean(axis=0), dtype=np.float64)


def statistics(view: Floats) -> Floats:
    """Two dozen numbers of the greys: level, spread, histogram, sharpness, noise, blocks."""
    values = np.asarray(view, dtype=np.float64)
    one = flat(view) if values.ndim == 2 else values[len(values) // 2]
    high = one - gaussian_filter(one, 1)
    edges = laplace(one)
    spread = max(float(values.std()), 1e-9)
    return np.array(
        [
            values.mean(),
            spread,
            *np.percentile(values, _SHARES),
            float((values <= values.min()).mean()),
            float((values >= values.max()).mean()),
            np.log(high.std() + 1e-9),
            np.log(high.std() / spread + 1e-9),
            np.log(np.median(np.abs(edges)) + 1e-9),
            np.log(edges.std() / spread + 1e-9),
            *_blockiness(one),
            *_histogram(values),
        ]
    )


def _blockiness(one_HW: Floats) -> tuple[float, float]:
    """How much larger steps are at the edges of eighths than elsewhere, down and across."""
    found = []
    for axis in (0, 1):
        step = np.abs(np.diff(one_HW, axis=axis)).mean(axis=1 - axis)
        edge = np.arange(1, len(step) + 1) % _BLOCK == 0
        found.append(float(np.log((step[edge].mean() + 1e-9) / (step[~edge].mean() + 1e-9))))
    return found[0], found[1]


def _histogram(values: Floats) -> Floats:
    """How often distinct greys occur: few after compression, many after resampling."""
    counts = np.histogram(values, bins=64)[0] / values.size
    return np.array([float((counts > 0).mean()), float(-(counts * np.log(counts + 1e-12)).sum())])


def lines(view: Floats) -> Floats:
    """Sharp horizontal and vertical lines anywhere: a table, a stripe, a ruler, a comb of noise.

    A pixel less the mean of those two steps before and after it, and of that the median along the
    line: outlines of anatomy bend and cancel, what is straight remains.
    """
    one = flat(view)
    found: list[Floats] = []
    for picture in (one, one.T):
        padded = np.pad(picture, ((_STEP, _STEP), (0, 0)), mode="edge")
        around = (padded[: -2 * _STEP] + padded[2 * _STEP :]) / 2
        straight = np.median(picture - around, axis=1)
        most = np.sort(np.abs(straight))[::-1][:2]
        weights = triangle_weights(len(straight), _LINES)
        spread = np.median(np.abs(straight)) + 1e-9
        found += [weights @ straight, weights @ np.abs(straight), most, np.log(most / spread)]
    return np.concatenate(found)


def corners(view: Floats) -> Floats:
    """The four corner fields in coarse cells, each less its own median: letters and marks."""
    one = flat(view)
    rows, columns = (max(1, round(size * _CORNER)) for size in one.shape)
    fields = []
    for down in (slice(0, rows), slice(-rows, None)):
        for across in (slice(0, columns), slice(-columns, None)):
            field = one[down, across]
            high = np.abs(field - np.median(field))
            weights = (triangle_weights(size, _CELL) for size in high.shape)
            first, second = weights
            fields.append((first @ high @ second.T).ravel())
    return np.concatenate(fields)


def order(view: Floats) -> Floats:
    """What changes from the first moment to the last: drift, speed, and how they are ordered."""
    if view.ndim == 2 or len(view) < 2:
        return np.zeros(6)
    values = np.asarray(view, dtype=np.float64)
    level = values.mean(axis=(1, 2))
    steps = np.abs(np.diff(values, axis=0)).mean(axis=(1, 2))
    drift = np.diff(level)
    return np.array(
        [
            level[-1] - level[0],
            float(np.corrcoef(np.arange(len(level)), level)[0, 1]) if level.std() > 0 else 0.0,
            np.log(steps.mean() + 1e-9),
            steps[-1] - steps[0],
            float((drift > 0).mean()),
            np.log(steps.max() + 1e-9) - np.log(steps.mean() + 1e-9),
        ]
    )


def framed(view: Floats) -> Floats:
    """The outer tenth; see `border.frame`."""
    return frame(flat(view))


def facts(train: pl.DataFrame, test: pl.DataFrame) -> tuple[Floats, Floats]:
    """What is known of a sample besides its image: words one-hot, numbers with their rank.

    Words that training does not know, and what is missing, say nothing.
    """
    parts: list[tuple[Floats, Floats]] = []
    for name, kind in train.schema.items():
        if kind == pl.String:
            encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
            fields = [
                np.array([[value or "unknown"] for value in table[name]], dtype=object)
                for table in (train, test)
            ]
            encoder.fit(fields[0])
            parts.append((encoder.transform(fields[0]), encoder.transform(fields[1])))
        else:
            known = np.sort(train[name].drop_nulls().cast(pl.Float64).to_numpy())
            if len(known):
                parts.append((_ranked(train[name], known), _ranked(test[name], known)))
    if not parts:
        return np.zeros((train.height, 1)), np.zeros((test.height, 1))
    return np.hstack([one for one, _ in parts]), np.hstack([other for _, other in parts])


def _ranked(column: pl.Series, known: Floats) -> Floats:
    """A number's place among those of training, and the place squared; the middle if missing."""
    value = column.cast(pl.Float64).fill_null(float(np.median(known))).to_numpy()
    below = np.searchsorted(known, value, "left") + np.searchsorted(known, value, "right")
    place = below / (2 * len(known)) - 0.5
    return np.stack([place, place**2], axis=1)


def words(
    train: Sequence[str], test: Sequence[str], names: Sequence[str] = ()
) -> tuple[Floats, Floats]:
    """Which words the texts hold, but those of the labels themselves, which may be told.

    Args:
        train: Texts of the training samples.
        test: Of the others.
        names: Label names, whose words are left out.
    """
    own = {word for name in names for word in re.findall(r"\w+", name.casefold())}
    counter = CountVectorizer(
        binary=True, min_df=2, stop_words=sorted(own) or None, token_pattern=r"(?u)\b\w+\b"
    )
    try:
        found = counter.fit_transform(train).toarray()
    except ValueError:  # no word stands in two texts
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    return found.astype(np.float64), counter.transform(test).toarray().astype(np.float64)
