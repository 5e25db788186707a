"""Keeping pace with what happens now: the newest frame wins, older ones are dropped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Clock(Protocol):
    """What tells the time; tests bring one of their own."""

    def now(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""


class WallClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Newest:
    """The moments of a recording at its own pace.

    Iterating gives the newest moment that has come, or waits for the next one. What has come in
    the meantime and is older is dropped, so that work which is too slow falls behind by one frame
    and no more.

    Args:
        times_s: Seconds at which frames appear, ascending; the first appears at once.
        clock: Tells the time.
    """

    def __init__(self, times_s: NDArray[np.float64], clock: Clock) -> None:
        self._times_s = times_s
        self._clock = clock
        self._start_s = 0.0
        self.dropped = 0
        """Moments that were passed over so far."""

    def __iter__(self) -> Iterator[float]:
        times_s = self._times_s
        self._start_s = self._clock.now() - (float(times_s[0]) if len(times_s) else 0.0)
        place = 0
        while place < len(times_s):
            early_s = float(times_s[place]) - (self._clock.now() - self._start_s)
            if early_s > 0:
                self._clock.sleep(early_s)
            newest = int(np.searchsorted(times_s, self._clock.now() - self._start_s, "right")) - 1
            # A sleep may end a moment early.
            newest = max(newest, place)
            self.dropped += newest - place
            place = newest + 1
            yield float(times_s[newest])

    def lag_s(self, time_s: float) -> float:
        """How long ago the moment `time_s` came."""
        return self._clock.now() - self._start_s - time_s
