"""What a compressed stream says of itself, read before a decoder allocates anything for it.

Only the parts that tell sizes and ends: JPEG and JPEG-LS marker segments (ITU-T T.81, T.87), the
JPEG 2000 codestream's main header and tile-part lengths (T.800 annex A), and the RLE header
(PS3.5 annex G).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medvlp.archive.verdict import Reject

J2K_SYNTAXES = frozenset(
    {
        *(JPEG2000, JPEG2000Lossless, JPEG2000MC, JPEG2000MCLossless),
        *(HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL),
    }
)
JPEG_SYNTAXES = frozenset((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1))
JPEG_LS_SYNTAXES = frozenset((JPEGLSLossless, JPEGLSNearLossless))

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_J2K_START = b"\xff\x4f\xff\x51"
_TILE_PART = b"\xff\x90"
_RLE_START = b"\0\0\0\x40\0\0\0"
"""An RLE header behind its first byte, the number of segments: the first begins at byte 64."""
_MOST_RLE_SEGMENTS = 15
_JP2_BOXES = 4096
"""How far behind the start a codestream may stand inside a JP2 file."""
_MOST_TILES = 65535
_MOST_SEGMENTS = 4096
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF_LS = 0xF7
_SOS = 0xDA
_LOSSLESS_SOF = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a stream's header declares."""

    rows: int
    columns: int
    samples: int
    bits: int


def check_stream(frame: bytes, syntax: str, wanted: Shape) -> None:
    """Hold one frame's stream against the DICOM header.

    Args:
        frame: The stream.
        syntax: The transfer syntax.
        wanted: What the header declares; `bits` are the allocated ones.

    Raises:
        Reject: ``codec`` for what is no such stream, ``transfer_syntax`` for one of another
            syntax, ``codec_dims`` for another size, ``codec_truncated`` for one that was cut off.
    """
    if syntax == RLELossless:
        return _check_rle(frame, wanted)
    if syntax in J2K_SYNTAXES:
        shape = _j2k_shape(frame)
    elif syntax in JPEG_SYNTAXES or syntax in JPEG_LS_SYNTAXES:
        shape = _jpeg_shape(frame, syntax)
    else:
        return None
    if (shape.rows, shape.columns, shape.samples) != (wanted.rows, wanted.columns, wanted.samples):
        raise Reject("codec_dims", f"{shape.rows} x {shape.columns} x {shape.samples}")
    if shape.bits > wanted.bits:
        raise Reject("codec_dims", f"{shape.bits} bits in {wanted.bits}")
    return None


def begins_frame(fragment: bytes, syntax: str) -> bool:
    """Whether a fragment is the first of a frame."""
    if syntax in J2K_SYNTAXES:
        return fragment.startswith((_J2K_START, b"\0\0\0\x0cjP"))
    if syntax == RLELossless:
        return fragment[1:8] == _RLE_START and 1 <= fragment[0] <= _MOST_RLE_SEGMENTS
    return fragment.startswith(_SOI)


def ends_frame(fragment: bytes, syntax: str) -> bool:
    """Whether a stream may be over behind a fragment; RLE does not mark its ends."""
    return syntax == RLELossless or fragment.rstrip(b"\0").endswith(_EOI)


def _jpeg_shape(frame: bytes, syntax: str) -> Shape:
    start = frame.find(_SOI, 0, 16)
    if start < 0:
        raise Reject("transfer_syntax" if _J2K_START in frame[:_JP2_BOXES] else "codec")
    pos, shape = start + 2, None
    for _ in range(_MOST_SEGMENTS):
        marker, body, pos = _segment(frame, pos)
        if marker == _SOS:
            break
        if marker in _SOF or marker == _SOF_LS:
            _check_process(marker, syntax)
            shape = _frame_header(body)
    if shape is None:
        raise Reject("codec")
    # Without its end a JPEG decodes to a picture that is grey from somewhere on.
    if frame.rfind(_EOI, max(pos, len(frame) - 4096)) < 0:
        raise Reject("codec_truncated")
    return shape


def _segment(frame: bytes, pos: int) -> tuple[int, bytes, int]:
    """The next marker, its segment, and what stands behind it."""
    while pos + 1 < len(frame) and frame[pos : pos + 2] == b"\xff\xff":
        pos += 1
    if pos + 4 > len(frame):
        raise Reject("codec_truncated")
    if frame[pos] != 0xFF:
        raise Reject("codec")
    marker = frame[pos + 1]
    if marker in _BARE:
        return marker, b"", pos + 2
    length = int.from_bytes(frame[pos + 2 : pos + 4], "big")
    if length < 2:
        raise Reject("codec")
    end = pos + 2 + length
    if end > len(frame):
        raise Reject("codec_truncated")
    return marker, frame[pos + 4 : end], end


def _check_process(marker: int, syntax: str) -> None:
    """Does the stream's process belong to the syntax's family?"""
    if (marker == _SOF_LS) != (syntax in JPEG_LS_SYNTAXES):
        raise Reject("transfer_syntax")
    lossless = syntax in (JPEGLossless, JPEGLosslessSV1)
    if marker != _SOF_LS and (marker in _LOSSLESS_SOF) != lossless:
        raise Reject("transfer_syntax")


def _frame_header(body: bytes) -> Shape:
    if len(body) < 6:
        raise Reject("codec")
    bits, rows, columns, samples = struct.unpack_from(">BHHB", body)
    if not 2 <= bits <= 16 or len(body) < 6 + 3 * samples:
        raise Reject("codec")
    return Shape(rows, columns, samples, bits)


def _j2k_shape(frame: bytes) -> Shape:
    start = frame.find(_J2K_START, 0, _JP2_BOXES)
    if start < 0:
        raise Reject("transfer_syntax" if frame.startswith(b"\xff\xd8\xff") else "codec")
    size = int.from_bytes(frame[start + 4 : start + 6], "big")
    if len(frame) < start + 4 + max(size, 41):
        raise Reject("codec_truncated")
    _, width, height, left, top, tile_w, tile_h, tile_x, tile_y, samples = struct.unpack_from(
        ">HIIIIIIIIH", frame, start + 6
    )
    parts = frame[start + 42 : start + 42 + 3 * samples]
    if size != 38 + 3 * samples or not samples or min(tile_w, tile_h) == 0:
        raise Reject("codec")
    if left >= width or top >= height or tile_x > left or tile_y > top:
        raise Reject("codec")
    tiles = -(-(width - tile_x) // tile_w) * -(-(height - tile_y) // tile_h)
    if tiles > _MOST_TILES:
        raise Reject("codec", "tiles")
    if any(step != 1 for k in (1, 2) for step in parts[k::3]):
        raise Reject("codec_dims", "subsampling")
    _check_tile_parts(frame, start + 4 + size)
    bits = max((depth & 0x7F) + 1 for depth in parts[::3])
    return Shape(height - top, width - left, samples, bits)


def _check_tile_parts(frame: bytes, pos: int) -> None:
    """Follow the lengths of all tile-parts to the end of the codestream."""
    pos = _first_tile_part(frame, pos)
    for _ in range(_MOST_TILES):
        if frame[pos : pos + 2] != _TILE_PART:
            break
        length = int.from_bytes(frame[pos + 6 : pos + 10], "big")
        if length == 0:
            # The last tile-part reaches to the end of the codestream, which must then be there.
            length = frame.rfind(_EOI, pos) - pos
        if length < 12:
            raise Reject("codec_truncated" if length < 0 else "codec")
        pos += length
        if pos > len(frame):
            raise Reject("codec_truncated")


def _first_tile_part(frame: bytes, pos: int) -> int:
    """Behind the main header's segments."""
    for _ in range(_MOST_SEGMENTS):
        marker = frame[pos : pos + 2]
        if len(marker) < 2:
            raise Reject("codec_truncated")
        if marker == _TILE_PART:
            return pos
        if marker[0] != 0xFF:
            raise Reject("codec")
        pos += 2 + max(2, int.from_bytes(frame[pos + 2 : pos + 4], "big"))
    raise Reject("codec")


def _check_rle(frame: bytes, wanted: Shape) -> None:
    if len(frame) < 64:
        raise Reject("codec_truncated")
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != wanted.samples * max(1, wanted.bits // 8):
        raise Reject("codec", f"{count} segments")
    used = offsets[:count]
    if used[0] != 64 or any(b <= a for a, b in pairwise(used)):
        raise Reject("codec", "segment offsets")
    if used[-1] >= len(frame):
        raise Reject("codec_truncated", "segment offsets")


def rle_length(segment: bytes, enough: int) -> int:
    """Bytes that an RLE segment unpacks to, counted up to `enough`."""
    pos = out = 0
    while pos < len(segment) and out < enough:
        code = segment[pos]
        if code < 128:
            out += min(code + 1, len(segment) - pos - 1)
            pos += code + 2
        else:
            out += (257 - code) if code != 128 and pos + 1 < len(segment) else 0
            pos += 1 if code == 128 else 2
    return out


def rle_is_short(frame: bytes, wanted: Shape) -> bool:
    """Whether a frame's segments unpack to fewer bytes than its pixels have."""
    count, *offsets = struct.unpack_from("<16I", frame)
    ends = [*offsets[1:count], len(frame)]
    enough = wanted.rows * wanted.columns
    return any(
        rle_length(frame[start:end], enough) < enough
        for start, end in zip(offsets[:count], ends, strict=True)
    )
