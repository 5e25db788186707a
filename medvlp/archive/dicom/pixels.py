"""Stored values out of a parsed DICOM file: sizes checked first, decoders in a chosen order."""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medvlp.archive.dicom.elements import PIXEL_DATA, UNDEFINED
from medvlp.archive.dicom.frames import frames_of, joined
from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.lookup import look_up, palette_rgb
from medvlp.archive.dicom.streams import Shape, check_stream, rle_is_short
from medvlp.archive.dicom.values import Fields, tag_name
from medvlp.archive.verdict import Ignore, Reject

# The fastest exact plugin of each syntax; pydicom's own order picks slower ones.
PLUGINS = {
    # Damaged streams make GDCM end the process.
    JPEGBaseline8Bit: "pillow",
    RLELossless: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
}
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601 luma
_VIDEO = "1.2.840.10008.1.2.4.10"
"""How the UIDs of the MPEG and HEVC transfer syntaxes begin."""
_FREE_BYTES = 256 * 2**20
_MOST_RATIO = 2000
"""No picture worth having is packed tighter than this, once it is over `_FREE_BYTES`."""
_RLE_RATIO = 64


def check(ds: Dataset, header: Header, *, follows: bool) -> tuple[str, ...]:
    """Compare what the header declares with the bytes that are there, before any allocation.

    Compressed pixels are put into one fragment a frame, so that no decoder looks at offset tables.

    Args:
        ds: The data set; its pixel element is not converted yet.
        header: What it declares.
        follows: Whether anything stands behind the pixels in the file.

    Returns:
        Flags: ``excess_pixels``, ``high_bits``, ``offset_table``.

    Raises:
        Reject: No pixels, too few bytes, streams that are cut off or of another size.
        Ignore: ``video_syntax``.
    """
    element: Any = ds.get_item(PIXEL_DATA)
    if element is None or not element.value:
        raise Reject("pixel_module", tag_name("PixelData"))
    syntax = UID(header.transfer_syntax)
    if syntax.startswith(_VIDEO):
        raise Ignore("video_syntax")
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise Reject("transfer_syntax", tag_name("TransferSyntaxUID"))
    items = element.length == UNDEFINED or element.value.startswith(b"\xfe\xff\x00\xe0")
    if syntax.is_encapsulated and items:
        return _check_frames(ds, element, header)
    if syntax.is_encapsulated or element.length == UNDEFINED:
        raise Reject("transfer_syntax", tag_name("PixelData"))
    return _check_native(element, header, follows)


def _check_native(element: RawDataElement, header: Header, follows: bool) -> tuple[str, ...]:
    data, declared = element.value or b"", element.length
    bits = header.rows * header.columns * header.samples * header.frames * header.bits_allocated
    expected = math.ceil(bits / 8)
    if header.photometric == "YBR_FULL_422":
        expected = expected * 2 // 3
    fits = (expected, expected + expected % 2)
    if len(data) < declared:
        cut = declared in fits
        raise Reject("truncated_pixels" if cut else "length_beyond_eof", tag_name("PixelData"))
    if len(data) < expected:
        raise Reject(_shortage(len(data), expected, header, follows), f"{len(data)} of {expected}")
    excess = len(data) - fits[1]
    if excess >= max(1, expected // header.frames):
        # No padding: more frames, or wider pixels, than the header says.
        raise Reject("length_mismatch", f"{len(data)} of {expected}")
    flags = ("excess_pixels",) if excess > 0 else ()
    return (*flags, *_high_bits(data[:expected], header, element.is_little_endian))


def _shortage(have: int, expected: int, header: Header, follows: bool) -> str:
    if header.samples == 3 and have - have % 2 == expected // 3 - expected // 3 % 2:
        return "pixel_module"
    return "length_mismatch" if follows else "declared_exceeds_bytes"


def _high_bits(data: bytes, header: Header, little: bool) -> tuple[str, ...]:
    """``high_bits`` where bits above the stored ones are set: an old overlay, or noise."""
    if header.signed or header.bits_allocated not in (8, 16):
        return ()
    if header.bits_stored == header.bits_allocated:
        return ()
    order = "<" if little else ">"
    stored = np.frombuffer(data, order + ("u2" if header.bits_allocated == 16 else "u1"))
    return ("high_bits",) if int(stored.max()) >> header.bits_stored else ()


def _check_frames(ds: Dataset, element: RawDataElement, header: Header) -> tuple[str, ...]:
    syntax = header.transfer_syntax
    table = Fields(ds).content("ExtendedOffsetTable")
    extended = struct.unpack(f"<{len(table) // 8}Q", table[: len(table) // 8 * 8])
    frames, flags = frames_of(element.value or b"", header.frames, syntax, extended)
    shape = Shape(header.rows, header.columns, header.samples, header.bits_allocated)
    size = header.rows * header.columns * header.samples * math.ceil(header.bits_allocated / 8)
    most = _RLE_RATIO if syntax == RLELossless else _MOST_RATIO
    for frame in frames:
        check_stream(frame, syntax, shape)
        if size > most * len(frame) and (size > _FREE_BYTES or syntax == RLELossless):
            code = "codec_truncated" if syntax == RLELossless else "declared_exceeds_bytes"
            raise Reject(code, f"{len(frame)} of {size}")
    ds[PIXEL_DATA] = element._replace(value=joined(frames), length=UNDEFINED)
    return flags


def decode(ds: Dataset, header: Header) -> NDArray[Any]:
    """Stored values, (rows, columns), (frames, rows, columns), or either with 3 colours last.

    Args:
        ds: The data set, through `check`.
        header: What it declares.

    Raises:
        Reject: The bytes do not decode to what the header declares.
    """
    element: Any = ds.get_item(PIXEL_DATA)
    syntax = UID(header.transfer_syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Reject("transfer_syntax", tag_name("TransferSyntaxUID")) from None
    wanted = PLUGINS.get(syntax, "")
    plugin = wanted if wanted in decoder.available_plugins else ""
    try:
        stored, _ = decoder.as_array(
            element.value, decoding_plugin=plugin, **_options(header, element.VR)
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        raise Reject("memory", tag_name("PixelData")) from None
    except BaseException:
        # Even a panic of pylibjpeg-rle, which is no Exception.
        raise Reject(_failure(element.value, header, syntax)) from None
    _check_decoded(stored, header)
    return np.asarray(stored)


def decode_frame(ds: Dataset, header: Header, index: int, plugin: str) -> NDArray[Any] | None:
    """One frame as `decode` gives it, by a decoder of choice.

    Args:
        ds: The data set, through `check`.
        header: What it declares.
        index: Which frame, from 0.
        plugin: pydicom's name of the decoder.

    Returns:
        The frame; None where the decoder is not installed or gives up.
    """
    element: Any = ds.get_item(PIXEL_DATA)
    decoder = get_decoder(UID(header.transfer_syntax))
    if plugin not in decoder.available_plugins:
        return None
    try:
        stored, _ = decoder.as_array(
            element.value,
            index=index,
            decoding_plugin=plugin,
            **_options(header, element.VR),
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # As in `decode`: a panic may be no Exception.
        return None
    return np.asarray(stored)


def _options(header: Header, vr: str | None) -> dict[str, Any]:
    return {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": header.frames,
        "samples_per_pixel": header.samples,
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "photometric_interpretation": header.photometric,
        "pixel_representation": int(header.signed),
        "planar_configuration": int(header.planar),
        "pixel_keyword": "PixelData",
        "pixel_vr": vr or "OW",
    }


def _failure(value: bytes, header: Header, syntax: UID) -> str:
    if not syntax.is_encapsulated:
        return "pixel_module"
    if syntax == RLELossless:
        shape = Shape(header.rows, header.columns, header.samples, header.bits_allocated)
        frames, _ = frames_of(value, header.frames, syntax)
        return "codec_truncated" if any(rle_is_short(f, shape) for f in frames) else "codec"
    return "codec"


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
    _require_finite(values)
    return values


def _require_finite(values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise Reject("nonfinite_pixels", tag_name("PixelData"))


def xray_values(ds: Dataset, header: Header) -> NDArray[np.float32]:
    """A radiograph as meant to be looked at: (rows, columns), brighter where X-rays were stopped.

    Modality rescale or LUT, then VOI LUT or window, then MONOCHROME1 inverted, each once
    (PS3.4 N.2). The full bit depth is kept. Colours, also those of a palette, become grey.

    Raises:
        Reject: Several frames, or pixels and tables that do not decode.
    """
    return shown_values(decode(ds, header), ds, header)


def shown_values(stored: NDArray[Any], ds: Dataset, header: Header) -> NDArray[np.float32]:
    """`xray_values` from the stored values that `decode` returned.

    Raises:
        Reject: Several frames, a palette, or a table that cannot be applied.
    """
    if header.frames != 1:
        raise Reject("multi_frame", tag_name("NumberOfFrames"))
    if header.photometric == "PALETTE COLOR":
        return palette_rgb(stored, ds, signed=header.signed) @ _GREY_WEIGHTS
    if header.samples == 3:
        return stored.astype(np.float32) @ _GREY_WEIGHTS
    values = _shown(_modality(stored, ds, header), ds, header)
    _require_finite(values)
    if header.photometric == "MONOCHROME1":
        values = values.min() + values.max() - values
    return values


def _modality(stored: NDArray[Any], ds: Dataset, header: Header) -> NDArray[np.float32]:
    tables = Fields(ds).items("ModalityLUTSequence")
    if tables:
        return look_up(stored, tables[0].dataset, signed=header.signed)
    plane = header.planes[0]
    return stored.astype(np.float32) * np.float32(plane.slope) + np.float32(plane.intercept)


def _shown(values: NDArray[np.float32], ds: Dataset, header: Header) -> NDArray[np.float32]:
    """Through the display table if there is one, else the window, else the values as they are."""
    tables = Fields(ds).items("VOILUTSequence")
    if tables:
        return look_up(values, tables[0].dataset, signed=values.min() < 0)
    if header.window is None:
        return values
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.WindowCenter, window.WindowWidth = header.window
    window.VOILUTFunction = header.window_function
    window.BitsStored, window.PixelRepresentation = header.bits_stored, int(header.signed)
    plane = header.planes[0]
    window.RescaleSlope, window.RescaleIntercept = plane.slope, plane.intercept
    return apply_windowing(values, window).astype(np.float32)
