"""The one interface of frame readers: frames are asked for by presentation time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvlp_video.border import Box

TOLERANCE_S = 1e-4
"""Rounding allowance when a time is compared with a timestamp; far below one frame."""


class FrameReader(ABC):
    """A video, or a folder of frames, read by presentation time and never by an assumed rate."""

    def __init__(
        self, times_s: NDArray[np.float64], *, size: tuple[int, int], fps: float, duration_s: float
    ) -> None:
        self.times = times_s
        """Seconds at which each frame appears, ascending; a video's first frame is at 0."""
        self.shape = (len(times_s), *size)
        """(frames, rows, columns)."""
        self.fps = fps
        """The mean rate in frames per second, for information only."""
        self.duration_s = duration_s
        """Seconds until the last frame disappears."""
        self.cut_tail = False
        """Whether the last frames that the file speaks of are not there."""
        self.border: Box | None = None
        """The picture inside the recording's black border, where it was looked for."""

    def index_at(self, times_s: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
        """The frames that a player shows at `times_s`: the last that appeared by then."""
        wanted_F = np.asarray(times_s, np.float64) + TOLERANCE_S
        found_F = np.searchsorted(self.times, wanted_F, side="right") - 1
        return np.clip(found_F, 0, len(self.times) - 1).astype(np.int64)

    def frames_at(self, times_s: Sequence[float] | NDArray[np.float64]) -> NDArray[np.uint8]:
        """(F,H,W,3) RGB frames shown at `times_s` (seconds, any order, repeats allowed).

        Raises:
            Reject: A frame cannot be decoded.
        """
        return self.decode(self.index_at(times_s))

    @abstractmethod
    def decode(self, index_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(F,H,W,3) RGB frames by their place in `times`."""
