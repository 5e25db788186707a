"""The fast path: decord, for files whose frames were checked against the reference reader.

decord returns wrong frames without a word on stream-copied cuts and open GOPs, and can hang on
files that promise more frames than they hold. So a file has to earn it (`earns_decord`), in a
process that can be killed; a reader is opened in the process that uses it, never before a fork.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.verdict import Reject
from medvlp_video.frames import FrameReader
from medvlp_video.timestamps import TimestampReader

SPREAD = 24
"""Frames compared with the reference reader's, spread over the file."""

CLOSE = 0.5
"""Mean difference in grey levels that conversion from YUV may leave between two readers."""


class DecordReader(FrameReader):
    """Frames of one video file through decord; for files that passed `earns_decord`."""

    def __init__(self, path: Path) -> None:
        reference = TimestampReader(path)
        super().__init__(
            reference.times,
            size=reference.shape[1:],
            fps=reference.fps,
            duration_s=reference.duration_s,
        )
        self._path = path

    def decode(self, index_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(F,H,W,3) RGB frames by their place in `times`."""
        return _batch(_open(self._path), index_F)


def has_decord() -> bool:
    """Whether decord is installed; it has no wheel for arm64."""
    return find_spec("decord") is not None


def earns_decord(path: Path, reference: TimestampReader, exact: NDArray[np.uint8]) -> bool:
    """Whether decord returns this file's frames; call it in a process that can be killed.

    Args:
        path: The video file.
        reference: The timestamp reader of the same file.
        exact: The reference reader's frames at `spread`.
    """
    if not has_decord():
        return False
    try:
        reader = _open(path)
        if len(reader) != len(reference.times):
            return False
        fast = _batch(reader, spread(len(reference.times)))
    except Reject:
        return False
    if fast.shape != exact.shape:
        return False
    gap_F = np.abs(fast.astype(np.int16) - exact.astype(np.int16)).mean(axis=(1, 2, 3))
    return bool((gap_F <= CLOSE).all())


def spread(count: int) -> NDArray[np.int64]:
    """Up to `SPREAD` places spread evenly over `count` frames, first and last among them."""
    return np.unique(np.linspace(0, count - 1, SPREAD).round().astype(np.int64))


def _open(path: Path) -> Any:
    import decord

    try:
        return decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise Reject("undecodable", type(error).__name__) from error


def _batch(reader: Any, index_F: NDArray[np.int64]) -> NDArray[np.uint8]:
    import decord

    try:
        return np.asarray(reader.get_batch(index_F.tolist()).asnumpy(), np.uint8)
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise Reject("undecodable", type(error).__name__) from error
