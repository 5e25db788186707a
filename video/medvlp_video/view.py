"""How a video is shown by `medvlp inspect`: frames spread over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvlp.archive.view import View, fit, picture, tile
from medvlp_video.read import open_reader

_FRAMES = 20
_COLUMNS = 5
_SIDE = 200


def view(paths: Sequence[Path], *, flags: Sequence[str] = ()) -> View:
    """Frames at equal distances, by presentation time.

    Raises:
        Reject: The files cannot be read.
    """
    reader = open_reader(paths)
    frames, rows, columns = reader.shape
    chosen = np.unique(np.linspace(0, frames - 1, _FRAMES).round().astype(np.int64))
    shown = [fit(frame, _SIDE) for frame in reader.decode(chosen)]
    gaps_s = np.diff(np.asarray(reader.times, dtype=float))
    steady = len(gaps_s) == 0 or float(gaps_s.max()) < 1.5 * float(np.median(gaps_s))
    facts = (
        ("size", f"{frames} frames, {rows} rows, {columns} columns"),
        ("duration", f"{reader.duration_s:.1f} s"),
        ("rate", f"{reader.fps:.3f} frames/s, {'steady' if steady else 'variable'}"),
    )
    caption = f"{len(shown)} of {frames} frames from first to last"
    return View(facts=facts, pictures=(picture(tile(shown, _COLUMNS), caption),))
