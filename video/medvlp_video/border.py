"""The black border that a recorder or a round lens puts around the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, far edges exclusive."""

BLACK = 24
"""Grey levels up to which a recorder's border counts as black."""

STRAY = 0.05
"""Fraction of bright pixels up to which a row or column still counts as border."""

RARE = 0.1
"""Share of a recording's frames up to which a bright border, as of a title, still is one."""


def picture_box(frames_FHWC: NDArray[np.uint8]) -> Box:
    """The picture inside a black border, from the few frames of a clip; see `recording_box`.

    A row or column belongs to the border if it stays black in all frames.
    """
    return box_of(bright(frames_FHWC.max(axis=0, keepdims=True)))


def recording_box(frames_FHWC: NDArray[np.uint8]) -> Box:
    """The picture inside a black border, from frames spread over a recording.

    A row or column belongs to the border if it stays black in nine of ten frames: titles fill the
    picture, and dark moments none of it. Less than half a side left means a dark scene rather
    than a border, and then the whole frame is the picture.
    """
    return box_of(bright(frames_FHWC), RARE)


def bright(frames_FHWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(F,H,W) whether each pixel is brighter than a border's."""
    return np.asarray((frames_FHWC > BLACK).any(axis=-1))


def box_of(bright_FHW: NDArray[np.bool_], rare: float = 0.0) -> Box:
    """The picture inside the border, from what is `bright`.

    Args:
        bright_FHW: Of some frames.
        rare: Share of them up to which a bright row or column still belongs to the border.
    """
    height, width = bright_FHW.shape[1:]
    # A few stray pixels (text of the recorder, compression) do not make a picture.
    rows = np.flatnonzero((bright_FHW.mean(axis=2) > STRAY).mean(axis=0) > rare)
    columns = np.flatnonzero((bright_FHW.mean(axis=1) > STRAY).mean(axis=0) > rare)
    if len(rows) == 0 or len(columns) == 0:
        return 0, 0, width, height
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    if x1 - x0 < width / 2 or y1 - y0 < height / 2:
        return 0, 0, width, height
    return x0, y0, x1, y1
