"""A reader of DICOM files whose first decoder cuts values off, as a real one once did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEG2000Lossless, RLELossless

from medvlp.archive.dicom import scan
from medvlp.archive.dicom.pixels import PLUGINS

Decode = Callable[[bytes, Any], bytes | bytearray]


def clamped(syntax: str, right: Decode) -> Decode:
    """A decoder of 16 signed bits that clamps where it should wrap."""

    def words(src: bytes, runner: Any) -> bytearray:
        return bytearray(np.maximum(np.frombuffer(right(src, runner), np.int16), 0).tobytes())

    def planes(src: bytes, runner: Any) -> bytearray:
        # Decoders of RLE give the low bytes of all pixels, then the high ones or the reverse.
        return bytearray(min(byte, 0x7F) for byte in right(src, runner))

    return planes if syntax == RLELossless else words


def plant(syntax: str) -> None:
    """From now on this process decodes wrongly."""
    available: dict[str, Decode] = get_decoder(syntax)._available
    plugin = PLUGINS[syntax]
    if available[plugin].__module__ != __name__:
        available[plugin] = clamped(syntax, available[plugin])


def scan_file(paths: Sequence[Path], **settings: Any) -> scan.Scan:
    """`scan.scan_file` with a clamping decoder of JPEG 2000."""
    plant(JPEG2000Lossless)
    return scan.scan_file(paths, **settings)
