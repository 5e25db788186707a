"""Stored values out of a parsed DICOM file: sizes checked first, decoders in a chosen order."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import parse_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_windowing
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medvlp.archive.header import Header, tag_name
from medvlp.archive.verdict import Reject

# The fastest exact plugin of each syntax; pydicom's own order picks slower ones.
PLUGINS = {
    RLELossless: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEG2000Lossless: "gdcm",
    JPEG2000: "gdcm",
}
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma


def check_size(ds: Dataset, header: Header) -> tuple[str, ...]:
    """Compare what the header declares with the bytes that are there, before any allocation.

    Returns:
        Flags: ``excess_pixels`` where bytes are left over.

    Raises:
        Reject: No pixels, too few bytes, or fewer fragments than frames.
    """
    element = ds.get_item("PixelData")
    if element is None:
        raise Reject("pixel_module", tag_name("PixelData"))
    data: bytes = element.value or b""
    syntax = UID(header.transfer_syntax)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise Reject("transfer_syntax", tag_name("TransferSyntaxUID"))
    if syntax.is_encapsulated:
        _check_fragments(data, header)
        return ()
    return _check_native(data, _declared_length(element), header, _follows(ds))


def _declared_length(element: Any) -> int:
    return int(getattr(element, "length", len(element.value or b"")))


def _follows(ds: Dataset) -> bool:
    return bool(list(ds.keys())[-1] > 0x7FE00010)


def _check_native(data: bytes, declared: int, header: Header, follows: bool) -> tuple[str, ...]:
    bits = header.rows * header.columns * header.samples * header.frames * header.bits_allocated
    expected = math.ceil(bits / 8)
    if header.photometric == "YBR_FULL_422":
        expected = expected * 2 // 3
    if len(data) < declared:
        beyond = declared not in (expected, expected + expected % 2)
        raise Reject("length_beyond_eof" if beyond else "truncated_pixels", tag_name("PixelData"))
    if len(data) < expected:
        code = "length_mismatch" if follows else "declared_exceeds_bytes"
        raise Reject(code, f"{len(data)} of {expected} bytes")
    return ("excess_pixels",) if len(data) > expected + expected % 2 else ()


def _check_fragments(data: bytes, header: Header) -> None:
    try:
        count, _ = parse_fragments(data)
    except Exception:
        raise Reject("codec_truncated", tag_name("PixelData")) from None
    # The first item is the offset table, which parse_fragments may or may not count.
    if count == 0 or count < header.frames:
        raise Reject("fragment_count", f"{count} fragments, {header.frames} frames")


def decode(ds: Dataset, header: Header) -> NDArray[Any]:
    """Stored values, (rows, columns), (frames, rows, columns), or either with 3 colours last.

    Raises:
        Reject: The bytes do not decode to what the header declares.
    """
    check_size(ds, header)
    syntax = UID(header.transfer_syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Reject("transfer_syntax", tag_name("TransferSyntaxUID")) from None
    wanted = PLUGINS.get(syntax, "")
    plugin = wanted if wanted in decoder.available_plugins else ""
    try:
        stored, _ = decoder.as_array(ds, decoding_plugin=plugin)
    except (KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        raise Reject("memory", tag_name("PixelData")) from None
    except BaseException:
        # StopIteration when frames run out; a panic of pylibjpeg-rle, which is no Exception.
        raise Reject("codec" if syntax.is_encapsulated else "pixel_module") from None
    _check_decoded(stored, header)
    return np.asarray(stored)


def _check_decoded(stored: NDArray[Any], header: Header) -> None:
    shape: tuple[int, ...] = (header.rows, header.columns)
    shape = shape if header.frames == 1 else (header.frames, *shape)
    shape = shape if header.samples == 1 else (*shape, header.samples)
    if stored.shape != shape:
        raise Reject("codec_dims", f"{stored.ndim} axes")


def stored_digest(stored: NDArray[Any]) -> str:
    """SHA-256 of stored values: equal pixels, whatever surrounds and compresses them."""
    # The shape belongs to the pixels: the same bytes in other rows are another image.
    digest = hashlib.sha256(f"{stored.shape}{stored.dtype.str}".encode())
    digest.update(np.ascontiguousarray(stored).data)
    return digest.hexdigest()


def planes_of_values(ds: Dataset, header: Header) -> NDArray[np.float32]:
    """Rescaled values (HU, for CT) of every frame: (frames, rows, columns).

    Raises:
        Reject: Not grey, not decodable, or not finite.
    """
    if header.colour:
        raise Reject("colour", tag_name("PhotometricInterpretation"))
    stored = decode(ds, header).reshape(header.frames, header.rows, header.columns)
    values = stored.astype(np.float32)
    for frame, plane in zip(values, header.planes, strict=True):
        frame *= np.float32(plane.slope)
        frame += np.float32(plane.intercept)
    return values


def xray_values(ds: Dataset, header: Header) -> NDArray[np.float32]:
    """A radiograph as meant to be looked at: (rows, columns), brighter where X-rays were stopped.

    Modality rescale or LUT, then VOI LUT or window, then MONOCHROME1 inverted, each once
    (PS3.4 N.2). The full bit depth is kept.

    Raises:
        Reject: Several frames, a palette, or pixels that do not decode.
    """
    return shown_values(decode(ds, header), ds, header)


def shown_values(stored: NDArray[Any], ds: Dataset, header: Header) -> NDArray[np.float32]:
    """`xray_values` from the stored values that `decode` returned.

    Raises:
        Reject: Several frames, a palette, or a table that cannot be applied.
    """
    if header.frames != 1:
        raise Reject("multi_frame", tag_name("NumberOfFrames"))
    if header.photometric.startswith("PALETTE"):
        raise Reject("palette", tag_name("PhotometricInterpretation"))
    if header.samples == 3:
        return stored.astype(np.float32) @ _GREY_WEIGHTS
    try:
        values = _voi(_modality(stored, ds, header), ds)
    except Exception:
        raise Reject("bad_lut", tag_name("VOILUTSequence")) from None
    if not np.isfinite(values).all():
        raise Reject("nonfinite_pixels")
    if header.photometric == "MONOCHROME1":
        values = values.min() + values.max() - values
    return values


def _modality(stored: NDArray[Any], ds: Dataset, header: Header) -> NDArray[np.float32]:
    if ds.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, ds).astype(np.float32)
    plane = header.planes[0]
    return stored.astype(np.float32) * np.float32(plane.slope) + np.float32(plane.intercept)


def _voi(values: NDArray[np.float32], ds: Dataset) -> NDArray[np.float32]:
    """VOI LUT if there is one, else the first window, else the values as they are."""
    if ds.get("VOILUTSequence"):
        return _voi_lut(values, ds.VOILUTSequence[0])
    widths = np.atleast_1d(np.asarray(ds.get("WindowWidth") or 0, dtype=float))
    if not np.isfinite(widths[0]) or widths[0] < 1:
        return values
    return apply_windowing(values, ds, index=0).astype(np.float32)


def _voi_lut(values: NDArray[np.float32], item: Dataset) -> NDArray[np.float32]:
    """Look values up (PS3.3 C.11.2.1.1); pydicom's own wraps long tables of 8-bit entries."""
    entries, first, _ = (int(x) for x in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    table = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data)
    if len(table) < entries:
        raise Reject("bad_lut", tag_name("LUTData"))
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table.astype(np.float32)[index]
