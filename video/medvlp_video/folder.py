"""Folders of frames: the number in each file's name is its time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.pictures import read_rgb
from medvlp.archive.verdict import Reject
from medvlp_video.frames import FrameReader

FRAME_SUFFIXES = (".jpeg", ".jpg", ".png")
DEFAULT_RATE = 1.0
"""Frame numbers a second: the number is the second, as Cholec80-type exports write it."""


class FolderReader(FrameReader):
    """Frames stored one image file each (backend ``frames``, or ``frames@RATE``).

    Args:
        paths: The image files.
        rate: Frame numbers a second.

    Raises:
        Reject: ``no_frames``, ``duplicate_frames`` (two files with one number) or
            ``undecodable``.
    """

    def __init__(self, paths: Sequence[Path], rate: float = DEFAULT_RATE) -> None:
        self._paths, numbers_F = numbered(paths)
        height, width = _first_size(self._paths)
        times_s = numbers_F / rate
        duration_s = float(times_s[-1] + 1 / rate)
        super().__init__(times_s, size=(height, width), fps=rate, duration_s=duration_s)

    def decode(self, index_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(F,H,W,3) RGB frames by their place in `times`."""
        frames = [read_rgb(self._paths[i]) for i in index_F.tolist()]
        if any(frame.shape[:2] != self.shape[1:] for frame in frames):
            raise Reject("mixed_sizes", "frames of one folder differ in size")
        return np.stack(frames)


def frame_files(folder: Path) -> list[Path]:
    """The image files directly in `folder`, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES)


def numbered(paths: Sequence[Path]) -> tuple[list[Path], NDArray[np.float64]]:
    """Frame files in order of their number, with the numbers.

    The number is the last run of digits in the name; where a name has none, the files count
    from 0 in name order.

    Raises:
        Reject: ``no_frames`` or ``duplicate_frames``.
    """
    if not paths:
        raise Reject("no_frames", "a folder without frames")
    digits = {path: re.findall(r"\d+", path.stem) for path in paths}
    if not all(digits.values()):
        return sorted(paths), np.arange(len(paths), dtype=np.float64)
    number = {path: int(found[-1]) for path, found in digits.items()}
    ordered = sorted(paths, key=number.__getitem__)
    if len(set(number.values())) < len(ordered):
        raise Reject("duplicate_frames", "two frames carry one number")
    return ordered, np.array([number[path] for path in ordered], np.float64)


def _first_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Rows and columns of the first frame that decodes; of a bad one, its verdict if none does."""
    first: Reject | None = None
    for path in paths:
        try:
            height, width = read_rgb(path).shape[:2]
        except Reject as verdict:
            first = first or verdict
        else:
            return height, width
    raise first or Reject("no_frames")
