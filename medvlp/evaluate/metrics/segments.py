"""Sequences of phases as segments: edit score, segmental F1, and the relaxed boundary.

Windows are taken in the order of time; those that are left out (nothing is annotated there) are
cut out of the recording, so a segment may reach over them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]


class Segments(NamedTuple):
    """Maximal runs of one label, S of them."""

    label_S: Ints
    start_S: Ints
    """First window."""

    end_S: Ints
    """The window after the last."""


class Matches(NamedTuple):
    """Segments found, called in vain, and missed."""

    hits: int
    false: int
    missed: int


def segments(label_W: Ints) -> Segments:
    """The segments of a sequence.

    >>> segments(np.array([4, 4, 2, 4]))
    Segments(label_S=array([4, 2, 4]), start_S=array([0, 2, 3]), end_S=array([2, 3, 4]))
    """
    start = np.flatnonzero(np.diff(label_W, prepend=np.nan) != 0)
    end = np.append(start[1:], len(label_W))[: len(start)]
    return Segments(label_W[start], start, end)


def edit_score(truth_W: Ints, called_W: Ints) -> float:
    """1 − Levenshtein distance of the segments' labels / the longer number of segments.

    The segmental edit score (Lea et al. 2016, arXiv:1602.02995), on a scale of 0 to 1: the order
    of what happens, whatever the boundaries.
    """
    truth, called = segments(truth_W).label_S, segments(called_W).label_S
    return 1 - _distance(truth, called) / max(len(truth), len(called))


def _distance(a: Ints, b: Ints) -> int:
    """Levenshtein distance, a row of the table at once."""
    step = np.arange(len(b) + 1)
    row = step.copy()
    for i, label in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (b != label))
        # Insertions run along the row: each cell is the least of an earlier one plus the steps.
        row = np.minimum.accumulate(np.append(i, best) - step) + step
    return int(row[-1])


def segment_matches(truth_W: Ints, called_W: Ints, overlap: float) -> Matches:
    """Called segments that find a true one, for F1@overlap (Lea et al. 2017, arXiv:1611.05267).

    Each called segment, in the order of time, is held against the true segment of its label with
    the largest intersection over union (the first of equals). It is a hit if that reaches
    `overlap` and nothing has found the segment before.

    Args:
        truth_W: True label of each window.
        called_W: Called label of each window.
        overlap: Least intersection over union, such as 0.5.
    """
    truth, called = segments(truth_W), segments(called_W)
    taken = np.zeros(len(truth.label_S), dtype=bool)
    for label, start, end in zip(*called, strict=True):
        common = np.minimum(truth.end_S, end) - np.maximum(truth.start_S, start)
        union = np.maximum(truth.end_S, end) - np.minimum(truth.start_S, start)
        share = np.where(truth.label_S == label, np.maximum(common, 0) / union, 0.0)
        best = int(np.argmax(share))
        if share[best] >= overlap and not taken[best]:
            taken[best] = True
    hits = int(taken.sum())
    return Matches(hits, len(called.label_S) - hits, len(taken) - hits)


def relax(truth_W: Ints, called_W: Ints, time_W: Floats, tolerance_s: float) -> Ints:
    """The calls, forgiven near boundaries: what is true within `tolerance_s` counts as right.

    Args:
        truth_W: True label of each window of one recording, in the order of time.
        called_W: Called label.
        time_W: Middle of each window in seconds; a rate of frames plays no part.
        tolerance_s: Seconds before and after a window in which its call may be true.

    Returns:
        (W,) the true label where the call is forgiven, the call elsewhere.
    """
    forgiven = np.zeros(len(truth_W), dtype=bool)
    for label in np.unique(called_W):
        times = time_W[truth_W == label]
        mine = called_W == label
        if len(times):
            place = np.searchsorted(times, time_W[mine])
            before = np.abs(time_W[mine] - times[np.maximum(place - 1, 0)])
            after = np.abs(times[np.minimum(place, len(times) - 1)] - time_W[mine])
            forgiven[mine] = np.minimum(before, after) <= tolerance_s + 1e-9
    return np.where(forgiven, truth_W, called_W)
