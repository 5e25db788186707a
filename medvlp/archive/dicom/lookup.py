"""Lookup tables of DICOM images: modality, display and palette (PS3.3 C.11.1, C.11.2, C.7.9)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medvlp.archive.dicom.values import Fields, tag_name
from medvlp.archive.verdict import Reject

Array = NDArray[np.float32]
_COLOURS = ("Red", "Green", "Blue")


def look_up(values: NDArray[Any], item: Dataset, *, signed: bool) -> Array:
    """Values through a modality or display table; what lies outside takes its first or last entry.

    Args:
        values: What to look up, any shape.
        item: The item of the sequence that holds the table.
        signed: Whether the first value mapped is a signed number.

    Raises:
        Reject: ``bad_lut``: the table is not what its descriptor says.
    """
    table, first = _table(Fields(item), "LUTDescriptor", "LUTData", signed)
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    looked_up: Array = table.astype(np.float32)[index]
    return looked_up


def palette_rgb(stored: NDArray[Any], ds: Dataset, *, signed: bool) -> Array:
    """Palette colours as RGB: (..., 3) in the palette's own range.

    Raises:
        Reject: ``palette`` where there is none (or one in segments), ``bad_lut`` for one that is
            not what its descriptor says, ``palette_index`` where a pixel points behind its end.
    """
    fields = Fields(ds)
    planes = []
    for colour in _COLOURS:
        name = f"{colour}PaletteColorLookupTable"
        if f"{name}Data" not in fields:
            raise Reject("palette", tag_name(f"{name}Data"))
        table, first = _table(fields, f"{name}Descriptor", f"{name}Data", signed)
        index = stored.astype(np.int64) - first
        if index.max() >= len(table):
            raise Reject("palette_index", tag_name(f"{colour}PaletteColorLookupTableData"))
        planes.append(table.astype(np.float32)[np.maximum(index, 0)])
    return np.stack(planes, axis=-1)


def _table(
    fields: Fields, descriptor: str, data: str, signed: bool
) -> tuple[NDArray[np.uint16], int]:
    """A table's entries, and the value that its first entry stands for."""
    try:
        described = fields.finite(descriptor, 3)
    except Reject:
        described = None
    if described is None:
        raise Reject("bad_lut", tag_name(descriptor))
    entries, first, bits = (int(x) for x in described)
    entries = entries % 2**16 or 2**16
    first = first - 2**16 if signed and first >= 2**15 else first
    content = fields.content(data)
    if 1 <= bits <= 16 and len(content) >= 2 * entries:
        return np.frombuffer(content, fields.order(data) + "u2", entries), first
    if 1 <= bits <= 8 and len(content) >= entries:
        return np.frombuffer(content, np.uint8, entries).astype(np.uint16), first
    raise Reject("bad_lut", tag_name(data))
