"""A second decoder for some of the compressed files: decoders can be quietly wrong.

Which files are looked at twice follows from their digests, so that every process and every run
says the same of a file; and over an archive one of each transfer syntax and scanner is. Where one
disagrees, all compressed files of the archive are looked at twice (`tree`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.pixels import decode_frame
from medvlp.archive.dicom.values import tag_name
from medvlp.archive.verdict import Reject

DISAGREES = "decoder_disagrees"
SHARE = 0.04
"""The part of all files whose decoding is checked; together they take as much of the time."""
SECOND: Mapping[str, tuple[str, ...]] = {
    # pydicom's own cannot crash, which counts more than its speed.
    RLELossless: ("pydicom", "gdcm"),
    JPEGLSLossless: ("gdcm", "pylibjpeg"),
    JPEGLSNearLossless: ("gdcm", "pylibjpeg"),
    JPEG2000Lossless: ("gdcm", "pillow"),
    JPEG2000: ("gdcm", "pillow"),
}
"""Plugins of another origin than those of `pixels.PLUGINS`, the best first."""
_ROUNDING: Mapping[str, int] = {JPEG2000: 1}
"""How far two right decoders may lie apart where the transform is not exact."""


def is_sampled(sha256: str, share: float) -> bool:
    """Whether the file with this digest is one of those looked at twice.

    Args:
        sha256: Digest of the file's bytes.
        share: The part of all files, 0 to 1.
    """
    return int(sha256[:8], 16) < share * 2**32


def has_second(header: Header) -> bool:
    """Whether there are two decoders for such a file."""
    return header.transfer_syntax in SECOND


def cross_check(ds: Dataset, header: Header, stored: NDArray[Any]) -> None:
    """Hold the middle frame against what a second decoder makes of it, where there is one.

    A second decoder that gives up says nothing about the first.

    Args:
        ds: The data set, through `pixels.check`.
        header: What it declares.
        stored: What `pixels.decode` returned.

    Raises:
        Reject: ``decoder_disagrees``.
    """
    syntax, middle = header.transfer_syntax, header.frames // 2
    first = stored if header.frames == 1 else stored[middle]
    for plugin in SECOND.get(syntax, ()):
        second = decode_frame(ds, header, middle, plugin)
        if second is None:
            continue
        rounding = _ROUNDING.get(syntax, 0)
        if second.shape != first.shape or _apart(first, second) > rounding:
            raise Reject(DISAGREES, tag_name("PixelData"))
        return


def _apart(first: NDArray[Any], second: NDArray[Any]) -> int:
    """The greatest difference between two pictures of whole numbers."""
    if np.array_equal(first, second):
        return 0
    return int(np.abs(first.astype(np.int64) - second.astype(np.int64)).max())
