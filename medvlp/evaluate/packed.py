"""Masks as a table holds them: packed bits, compressed, beside the rows that refer to them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

_ABOUT: dict[str, pl.DataType] = {
    "model": pl.String(),
    "seed": pl.Int64(),
    "sample": pl.String(),
    "name": pl.String(),
    "shape": pl.List(pl.Int64),
    "spacing_mm": pl.List(pl.Float64),
}
_BITS = {"prediction": pl.Binary(), "reference": pl.Binary(), "digest": pl.String()}
MASKS = pl.Schema({**_ABOUT, **_BITS})
"""Columns of ``masks.parquet``. `prediction` and `reference`: bits in raster order, eight a byte,
the first the highest, compressed by zlib. `spacing_mm`: between the grid's pixels, null where it
is not known. `digest`: `mask_digest` of the prediction."""


def pack_mask(mask: Bools) -> bytes:
    """A mask's bits, compressed."""
    return zlib.compress(np.packbits(mask).tobytes(), 6)


def unpack_mask(data: bytes, shape: Sequence[int]) -> Bools:
    """The mask of `shape` that was packed.

    Raises:
        ValueError: There are other than as many bits as the shape has pixels.
    """
    size = int(np.prod(shape))
    expected = -(-size // 8)
    # What somebody else wrote may unpack without end; one byte more tells.
    packed = zlib.decompressobj().decompress(data, expected + 1)
    if len(packed) != expected:
        raise ValueError(f"a mask of shape {tuple(shape)} does not have {len(packed)} bytes")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=size)
    return bits.astype(bool).reshape(tuple(shape))


def mask_digest(mask: Bools) -> str:
    """SHA-256 of a mask's shape and bits."""
    told = f"{mask.shape}|".encode()
    return hashlib.sha256(told + np.packbits(mask).tobytes()).hexdigest()


def mask_row(
    about: dict[str, Any], prediction: Bools, reference: Bools, spacing_mm: Sequence[float] | None
) -> dict[str, Any]:
    """One row of `MASKS`.

    Args:
        about: `model`, `seed`, `sample` and `name`.
        prediction: On the grid of the model's input.
        reference: On the same grid.
        spacing_mm: Of the grid.
    """
    return about | {
        "shape": list(prediction.shape),
        "spacing_mm": None if spacing_mm is None else list(spacing_mm),
        "prediction": pack_mask(prediction),
        "reference": pack_mask(reference),
        "digest": mask_digest(prediction),
    }
