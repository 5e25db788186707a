"""Run lengths as the SIIM-ACR challenge writes them: relative, down the columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.verdict import Reject

_NONE = "-1"


def is_empty(code: str) -> bool:
    """Whether a row says that there is no mask; a blank before the -1 is in some copies."""
    return code.strip() == _NONE


def decode_rle(code: str, shape_HW: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of one row, (H,W).

    Args:
        code: Pairs of a gap and a length. A gap counts pixels from the end of the run before it
            (the first from the top left corner), and pixels are counted down the columns.
        shape_HW: Rows and columns of the image.

    Raises:
        Reject: ``bad_mask``: no pairs of whole numbers, a run without length, or one that ends
            beyond the image.

    >>> decode_rle("1 2 1 1", (2, 3)).astype(int).tolist()
    [[0, 1, 1], [1, 0, 0]]
    """
    words = code.split()
    if not words or len(words) % 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise Reject("bad_mask", "no pairs of whole numbers")
    rows, columns = shape_HW
    gaps, lengths = [int(w) for w in words[::2]], [int(w) for w in words[1::2]]
    if 0 in lengths or sum(gaps) + sum(lengths) > rows * columns:
        raise Reject("bad_mask", "runs do not fit the image")
    flat = np.zeros(rows * columns, bool)
    place = 0
    for gap, length in zip(gaps, lengths, strict=True):
        flat[place + gap : place + gap + length] = True
        place += gap + length
    return flat.reshape(columns, rows).T
