"""What a timeline keeps of a recording: a few numbers a moment, and one picture a phase."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.view import Picture, fit, picture
from medvlp.evaluate.metrics.segments import segments
from medvlp_video.timeline.stream import STATES, Moment, State

BLANKED = "outside the body (blanked)"

_NONE = -1
_SIDE = 240


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A time in which one thing holds."""

    name: str
    """A label, or `BLANKED`."""

    label: int | None
    """The label's place; None for what is blanked."""

    start_s: float
    end_s: float
    confidence: float
    """Mean over its moments; 0 for what is blanked."""


class Track:
    """Moments one after the other.

    Args:
        names: The labels.
        pictures: Keep, of each label, the frame that was surest of it; never a blanked one.
    """

    def __init__(self, names: Sequence[str], *, pictures: bool) -> None:
        self.names = tuple(names)
        self._times_s = array("d")
        self._took_s = array("f")
        self._sure = array("f")
        self._states, self._labels, self._smoothed = array("b"), array("h"), array("h")
        self._best: dict[int, tuple[float, float, NDArray[np.uint8]]] = {}
        self._pictures = pictures

    def add(self, moment: Moment, frame_HWC: NDArray[np.uint8] | None, took_s: float) -> None:
        """Take in a moment, its frame, and how long it took to tell."""
        self._times_s.append(moment.time_s)
        self._took_s.append(took_s)
        self._sure.append(moment.confidence)
        self._states.append(STATES.index(moment.state))
        self._labels.append(_NONE if moment.label is None else moment.label)
        self._smoothed.append(_NONE if moment.smoothed is None else moment.smoothed)
        if self._pictures and moment.state == "seen" and frame_HWC is not None:
            self._look(moment, frame_HWC)

    def _look(self, moment: Moment, frame_HWC: NDArray[np.uint8]) -> None:
        assert moment.smoothed is not None
        best = self._best.get(moment.smoothed)
        if moment.smoothed == moment.label and (best is None or moment.confidence > best[0]):
            shown = fit(frame_HWC, _SIDE)
            self._best[moment.smoothed] = (moment.confidence, moment.time_s, shown)

    def __len__(self) -> int:
        return len(self._times_s)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(M,) seconds."""
        return np.array(self._times_s)

    @property
    def took_s(self) -> NDArray[np.float32]:
        """(M,) seconds from having a frame to having told its phase."""
        return np.array(self._took_s)

    def last_took_s(self, count: int) -> NDArray[np.float32]:
        """`took_s` of the last `count` moments."""
        return np.array(self._took_s[-count:])

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(M,) probability of the smoothed label; 0 where there is none."""
        return np.array(self._sure)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(M,) each clip's own label; -1 where none was seen."""
        return np.array(self._labels, np.int64)

    @property
    def smoothed(self) -> NDArray[np.int64]:
        """(M,) the steady label; -1 where there is none."""
        return np.array(self._smoothed, np.int64)

    def among(self, state: State) -> NDArray[np.bool_]:
        """(M,) whether a moment was ``seen``, ``blanked`` or ``damaged``."""
        return np.asarray(np.array(self._states, np.int64) == STATES.index(state))

    def counts(self) -> dict[str, int]:
        """Moments by state."""
        return {state: int(self.among(state).sum()) for state in STATES}

    def segments(self, end_s: float) -> list[Segment]:
        """Runs of the smoothed label and of what was blanked.

        Each lasts until the next begins, the last until `end_s`. A damaged frame ends none: what
        held before it holds on.
        """
        count = int(np.searchsorted(self.times_s, end_s))
        code_M = np.where(self.among("blanked"), len(self.names), self.smoothed)[:count]
        seen_M, sure_M = self.among("seen"), self.confidence
        times_s = np.append(self.times_s[:count], end_s)
        found = []
        for code, a, b in zip(*(part.tolist() for part in segments(code_M)), strict=True):
            blanked = code == len(self.names)
            told_M = sure_M[a:b][seen_M[a:b]]
            one = Segment(
                name=BLANKED if blanked else self.names[code],
                label=None if blanked else code,
                start_s=float(times_s[a]),
                end_s=float(times_s[b]),
                confidence=float(told_M.mean()) if len(told_M) else 0.0,
            )
            found += [one] if code != _NONE else []
        return found

    def pictures(self) -> Iterator[tuple[str, float, Picture]]:
        """Label, seconds, and the frame that was surest of it."""
        for label in sorted(self._best):
            _, time_s, shown = self._best[label]
            yield self.names[label], time_s, picture(shown, self.names[label])
