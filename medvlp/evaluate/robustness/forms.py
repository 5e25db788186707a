"""The three forms of stored arrays, and what can be done to one in physical units.

X-ray: uint16 (H,W), greys in [0,1] of the full range. CT: int16 (D,H,W), Hounsfield units. Video:
uint8 (F,H,W,3), colours in [0,1]. A domain of its own whose stored arrays have one of these types
and shapes takes part; others are told so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvlp.errors import ConfigError

Kind = Literal["xray", "ct", "video"]
Floats = NDArray[np.float32]

CORNER = (0.16, 0.24)
"""Height and width of a covered corner, as fractions of the picture: where side markers stand."""


@dataclass(frozen=True)
class Form:
    """How values of one kind are stored."""

    kind: Kind
    stored: type[np.integer[Any]]
    lowest: float
    highest: float
    """Range in physical units: HU for CT, greys or colours in [0,1] otherwise."""

    full: int
    """Stored value of the physical 1."""

    row_axis: int
    """Axis from top to bottom; the next one runs from the patient's right to the left."""

    def physical(self, stored: NDArray[Any]) -> Floats:
        """Stored values in physical units, float32."""
        return stored.astype(np.float32) / np.float32(self.full)

    def restored(self, values: Floats) -> NDArray[Any]:
        """Physical values as they are stored: clipped to the range and rounded."""
        inside = np.clip(values, self.lowest, self.highest)
        return np.rint(inside * self.full).astype(self.stored)


FORMS: dict[Kind, Form] = {
    "xray": Form("xray", np.uint16, 0.0, 1.0, 65535, -2),
    "ct": Form("ct", np.int16, -1024.0, 3071.0, 1, -2),
    "video": Form("video", np.uint8, 0.0, 1.0, 255, -3),
}
"""CT keeps the 12 bits of a scanner."""

_SEEN: dict[tuple[str, int], Kind] = {
    ("uint16", 2): "xray",
    ("int16", 3): "ct",
    ("uint8", 4): "video",
}


def form_of(stored: NDArray[Any]) -> Form:
    """The form of a stored array.

    Raises:
        ConfigError: The axis does not know such arrays.
    """
    kind = _SEEN.get((stored.dtype.name, stored.ndim))
    if kind is None:
        raise ConfigError(
            f"stored arrays of type {stored.dtype} with {stored.ndim} axes have no known form",
            remedy="store uint16 (H,W), int16 HU (D,H,W) or uint8 (F,H,W,3)",
        )
    return FORMS[kind]


def mirrored(stored: NDArray[Any]) -> NDArray[Any]:
    """Left and right exchanged."""
    return np.ascontiguousarray(np.flip(stored, form_of(stored).row_axis + 1))


def corners_covered(stored: NDArray[Any]) -> NDArray[Any]:
    """The four corners set to the median of the picture's border, slice or frame by frame."""
    form = form_of(stored)
    rows, columns = stored.shape[form.row_axis], stored.shape[form.row_axis + 1]
    height, width = round(rows * CORNER[0]), round(columns * CORNER[1])
    covered = stored.copy()
    moved = np.moveaxis(covered, (form.row_axis, form.row_axis + 1), (0, 1))
    border = np.concatenate([moved[[0, -1]].reshape(-1, *moved.shape[2:]),
                             moved[:, [0, -1]].reshape(-1, *moved.shape[2:])])  # fmt: skip
    fill = np.median(border, axis=0).astype(stored.dtype)
    for vertical in (slice(0, height), slice(rows - height, rows)):
        for horizontal in (slice(0, width), slice(columns - width, columns)):
            moved[vertical, horizontal] = fill
    return covered
