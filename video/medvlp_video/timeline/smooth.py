"""From scores to steady labels, online: each label is final when it is told.

Phases last for minutes, scores of single clips flicker. Two ways to use that, one after the other:
a hidden Markov model's forward filter, which weighs each clip against what came before, and a
minimum duration, which makes no segment shorter than that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class ForwardFilter:
    """The forward pass of a hidden Markov model over phases (Rabiner 1989, doi:10.1109/5.18626).

    The state is the phase. It jumps, at a rate of one in `dwell_s` seconds, to any of the others
    with equal chance, so that over an interval of t seconds it stays with probability
    1/L + (1 − 1/L)·exp(−t·L / ((L−1)·dwell_s)). A clip's probabilities p count as p^s, where s is
    the share of the window that is new since the clip before: neighbouring clips share frames, and
    as independent evidence would count them over and over.

    Args:
        labels: L, at least two.
        dwell_s: Mean seconds between jumps.
        window_s: Length of a clip in seconds.
    """

    def __init__(self, labels: int, dwell_s: float, window_s: float) -> None:
        self._rate = labels / ((labels - 1) * dwell_s)
        self._window_s = window_s
        self._belief_L = np.full(labels, 1 / labels)
        self._at_s: float | None = None
        self._seen_s: float | None = None

    def update(self, probability_L: Floats | None, time_s: float) -> NDArray[np.float64]:
        """(L,) probability of each phase, given all clips up to `time_s`.

        Args:
            probability_L: The clip's; None where nothing was seen.
            time_s: Seconds, ascending from call to call.
        """
        if self._at_s is not None:
            kept = np.exp(-self._rate * (time_s - self._at_s))
            self._belief_L = kept * self._belief_L + (1 - kept) / len(self._belief_L)
        self._at_s = time_s
        if probability_L is not None:
            new_s = self._window_s if self._seen_s is None else time_s - self._seen_s
            share = min(1.0, new_s / self._window_s)
            # The floor keeps one wrong certainty from ruling a phase out for good.
            likely_L = np.maximum(np.asarray(probability_L, np.float64), 1e-12) ** share
            self._belief_L = self._belief_L * likely_L
            self._belief_L /= self._belief_L.sum()
            self._seen_s = time_s
        return self._belief_L.copy()


class MinimumDuration:
    """A label changes when another one has led without a break for `least_s` seconds.

    So every segment but the last is at least that long, and a change is told that much late.
    """

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._label: int | None = None
        self._rival: int | None = None
        self._since_s = 0.0

    def update(self, label: int, time_s: float) -> int:
        """The label that holds at `time_s`, where `label` leads."""
        if self._label is None or label == self._label:
            self._label, self._rival = label, None
            return label
        if label != self._rival:
            self._rival, self._since_s = label, time_s
        if time_s - self._since_s >= self._least_s - 1e-9:
            self._label, self._rival = label, None
        return self._label
