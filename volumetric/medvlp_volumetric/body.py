"""Where the patient lies in a CT volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvlp.archive.series.geometry import Volume

_STEP_MM = 4.0
_ABOVE_HU = -300
"""Between lung and fat. The lungs lie within the box of what surrounds them."""


def body_centre(canonical: Volume) -> tuple[float, ...] | None:
    """The centre of the box around the body, as shares of the extent along D, H and W.

    The body is the largest piece above -300 HU once what is thinner than about a centimetre, such
    as the table's shell, is taken away. Looked at every 4 mm.

    Args:
        canonical: The volume, as `Volume.canonical` gives it.

    Returns:
        None where there is no such piece.
    """
    hu_DHW = canonical.hu_DHW
    steps = [max(1, int(_STEP_MM / mm)) for mm in canonical.spacing_mm]
    coarse = hu_DHW[tuple(slice(step // 2, None, step) for step in steps)]
    # What reaches the edge goes on there: it is not thin for being cut off.
    around = np.pad(coarse > _ABOVE_HU, 1, mode="edge")
    box = _largest(ndimage.binary_opening(around)[1:-1, 1:-1, 1:-1])
    if box is None:
        return None
    return tuple(
        (part.start * step + min(part.stop * step, n)) / (2 * n)
        for part, step, n in zip(box, steps, hu_DHW.shape, strict=True)
    )


def _largest(body: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    pieces, count = ndimage.label(body)
    if not count:
        return None
    largest = int(np.bincount(pieces.ravel())[1:].argmax())
    found: tuple[slice, ...] = ndimage.find_objects(pieces)[largest]
    return found
