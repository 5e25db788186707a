"""Compressed pixels that are cut off, of another size, or nothing of the kind."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image
from pydicom.pixels.encoders.base import get_encoder

from catalogue.case import Array, Case
from catalogue.dicom import grey, one
from catalogue.raw import (
    EXPLICIT,
    J2K_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    PIXELS,
    RLE,
    UNDEFINED,
    compressed,
    dataset,
    element,
    encapsulated,
    file_of,
    item,
    meta,
    part10,
    ramp,
    us,
    xray,
)

Changes = Mapping[int, tuple[str, bytes] | None]
MPEG4 = "1.2.840.10008.1.2.4.102"
FRAMES = 0x00280008


@cache
def stream(syntax: str, rows: int = 64, columns: int = 64) -> bytes:
    """The sound picture of any size, compressed without loss."""
    return bytes(
        get_encoder(syntax).encode(
            np.ascontiguousarray(ramp(rows, columns)),
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=16,
            bits_stored=12,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        )
    )


@cache
def jpeg(rows: int = 64, columns: int = 64) -> bytes:
    """A baseline JPEG of eight bits."""
    out = io.BytesIO()
    Image.fromarray(shades(rows, columns)).save(out, "JPEG", quality=90)
    return out.getvalue()


def shades(rows: int = 64, columns: int = 64) -> np.ndarray:
    """A smooth picture of eight bits."""
    y, x = np.mgrid[:rows, :columns]
    return (y + x).astype(np.uint8)


def decoded_jpeg() -> Array:
    """What Pillow reads from `jpeg`."""
    return np.asarray(Image.open(io.BytesIO(jpeg()))).astype(np.float32)


EIGHT = {0x00280100: ("US", us(8)), 0x00280101: ("US", us(8)), 0x00280102: ("US", us(7))}


def packed(
    number: int,
    name: str,
    expected: str,
    syntax: str,
    fragments: Callable[[], Sequence[bytes]],
    changes: Changes | None = None,
    table: bytes = b"",
    oracle: Callable[[], Array] | None = grey,
) -> Case:
    """A case of compressed fragments under a transfer syntax."""

    def content(own: str) -> bytes:
        elements = {**xray(own), **(changes or {})}
        kept = {tag: value for tag, value in elements.items() if value is not None}
        return compressed(kept, syntax, fragments(), table)

    return one(number, name, expected, content, oracle=oracle)


def j2k_claiming(size: int) -> bytes:
    """A JPEG 2000 stream whose header claims another size."""
    data = bytearray(stream(J2K_LOSSLESS))
    at = data.index(b"\xff\x51") + 6
    data[at : at + 8] = struct.pack(">II", size, size)
    data[at + 16 : at + 24] = struct.pack(">II", size, size)
    return bytes(data)


def cut_file(syntax: str, keep: float) -> Callable[[str], bytes]:
    """A file that ends inside its compressed pixels."""

    def content(name: str) -> bytes:
        data = compressed(xray(name), syntax, [stream(syntax)])
        return data[: len(data) - int(len(stream(syntax)) * (1 - keep))]

    return content


def undelimited(name: str) -> bytes:
    """Compressed pixels without the closing delimiter."""
    return compressed(xray(name), RLE, [stream(RLE)])[:-8]


def rle_with(offsets: Sequence[int], count: int = 2) -> bytes:
    """An RLE frame with another header."""
    head = struct.pack("<16I", count, *offsets, *[0] * (15 - len(offsets)))
    return head + stream(RLE)[64:]


def halves(data: bytes, parts: int = 2) -> list[bytes]:
    """A stream in several fragments of even length."""
    size = len(data) // parts // 2 * 2
    return [data[k * size : (k + 1) * size] for k in range(parts - 1)] + [
        data[(parts - 1) * size :]
    ]


def native_declared(syntax: str) -> Callable[[str], bytes]:
    """Native pixels under a compressed transfer syntax."""
    return lambda name: part10(meta(syntax), dataset(xray(name)))


def fragments_under_native(name: str) -> bytes:
    """Fragments under a native transfer syntax."""
    rest = {tag: value for tag, value in xray(name).items() if tag != PIXELS}
    pixels = element(PIXELS, "OB", encapsulated([stream(RLE)]), length=UNDEFINED)
    return part10(meta(EXPLICIT), dataset(rest) + pixels)


def lying_table(name: str) -> bytes:
    """An extended offset table that points nowhere."""
    elements = {
        **xray(name),
        0x7FE00001: ("OV", struct.pack("<Q", 2**40)),
        0x7FE00002: ("OV", struct.pack("<Q", 2**40)),
    }
    return compressed(elements, RLE, [stream(RLE)])


GARBAGE = b"garbage that no decoder knows " * 20
EXACT = (("rle", RLE), ("jpeg-ls", JPEG_LS), ("j2k", J2K_LOSSLESS))

CASES = (
    *(packed(0, f"{word}-sound", "ACCEPT", s, lambda s=s: [stream(s)]) for word, s in EXACT),
    *(packed(0, f"{word}-in-two-fragments", "ACCEPT", s, lambda s=s: halves(stream(s)))
      for word, s in EXACT),
    *(packed(44, f"{word}-garbage", "REJECT:codec", s, lambda: [GARBAGE]) for word, s in EXACT),
    packed(45, "lossless-jpeg-garbage", "REJECT:codec", JPEG_LOSSLESS, lambda: [GARBAGE]),
    packed(45, "jpeg-garbage", "REJECT:codec", JPEG_BASELINE, lambda: [GARBAGE], EIGHT),
    *(packed(46, f"{word}-of-another-size", "REJECT:codec_dims", s, lambda s=s: [stream(s, 32, 64)])
      for word, s in EXACT if s != RLE),
    packed(46, "rle-of-another-size", "REJECT:codec_truncated", RLE, lambda: [stream(RLE, 32, 64)]),
    packed(46, "jpeg-of-another-size", "REJECT:codec_dims", JPEG_BASELINE,
           lambda: [jpeg(32, 64)], EIGHT),
    packed(47, "j2k-claims-60000", "REJECT:codec_dims", J2K_LOSSLESS,
           lambda: [j2k_claiming(60000)]),
    packed(47, "j2k-and-header-claim-60000", "REJECT:declared_exceeds_bytes", J2K_LOSSLESS,
           lambda: [j2k_claiming(60000)],
           {0x00280010: ("US", us(60000)), 0x00280011: ("US", us(60000))}),
    packed(47, "rle-claims-60000", "REJECT:codec_truncated", RLE, lambda: [stream(RLE)],
           {0x00280010: ("US", us(60000)), 0x00280011: ("US", us(60000))}),
    *(packed(48, f"{word}-half-a-stream", "REJECT:codec_truncated", s,
             lambda s=s: [stream(s)[: len(stream(s)) // 2]]) for word, s in EXACT),
    packed(48, "jpeg-half-a-stream", "REJECT:codec_truncated", JPEG_BASELINE,
           lambda: [jpeg()[: len(jpeg()) * 2 // 3]], EIGHT),
    packed(49, "rle-header-only", "REJECT:codec_truncated", RLE, lambda: [stream(RLE)[:66]]),
    packed(49, "rle-thirty-bytes", "REJECT:codec_truncated", RLE, lambda: [stream(RLE)[:30]]),
    packed(0, "rle-offsets-backwards", "REJECT:codec", RLE, lambda: [rle_with([64, 10])]),
    packed(0, "rle-offset-beyond", "REJECT:codec_truncated", RLE, lambda: [rle_with([64, 10**6])]),
    packed(0, "rle-three-segments", "REJECT:codec", RLE, lambda: [rle_with([64, 90, 99], 3)]),
    packed(50, "three-frames-two-fragments", "REJECT:fragment_count", RLE,
           lambda: [stream(RLE)] * 2, {FRAMES: ("IS", b"3 ")}),
    packed(50, "no-fragments", "REJECT:fragment_count", RLE, lambda: []),
    *(packed(50, f"{word}-two-streams-of-one-frame", "REJECT:fragment_count", s,
             lambda s=s: [stream(s)] * 2) for word, s in EXACT),
    packed(50, "jpeg-two-streams-of-one-frame", "REJECT:fragment_count", JPEG_BASELINE,
           lambda: [*halves(jpeg()), jpeg()], EIGHT),
    packed(50, "three-streams-of-two-frames", "REJECT:fragment_count", JPEG_LS,
           lambda: [stream(JPEG_LS)] * 3, {FRAMES: ("IS", b"2 ")},
           table=struct.pack("<2I", 0, 8 + len(stream(JPEG_LS)) + len(stream(JPEG_LS)) % 2)),
    packed(0, "empty-fragment", "REJECT:codec_truncated", RLE, lambda: [b""]),
    packed(0, "offset-table-lies", "FLAG:offset_table", RLE, lambda: [stream(RLE)],
           table=struct.pack("<I", 4000)),
    one(0, "extended-offset-table-lies", "FLAG:offset_table", lying_table),
    one(0, "no-closing-delimiter", "FLAG:missing_delimiter", undelimited),
    one(0, "rle-file-cut", "REJECT:truncated_pixels", cut_file(RLE, 0.5)),
    one(0, "j2k-file-cut", "REJECT:truncated_pixels", cut_file(J2K_LOSSLESS, 0.9)),
    one(0, "native-declared-j2k", "REJECT:transfer_syntax", native_declared(J2K_LOSSLESS)),
    one(0, "native-declared-rle", "REJECT:transfer_syntax", native_declared(RLE)),
    one(0, "fragments-declared-native", "REJECT:transfer_syntax", fragments_under_native),
    packed(0, "jpeg-declared-j2k", "REJECT:transfer_syntax", J2K_LOSSLESS, lambda: [jpeg()], EIGHT),
    packed(0, "j2k-declared-jpeg", "REJECT:transfer_syntax", JPEG_BASELINE,
           lambda: [stream(J2K_LOSSLESS)]),
    packed(0, "jpeg-ls-declared-jpeg", "REJECT:transfer_syntax", JPEG_BASELINE,
           lambda: [stream(JPEG_LS)]),
    packed(0, "baseline-declared-lossless", "REJECT:transfer_syntax", JPEG_LOSSLESS,
           lambda: [jpeg()], EIGHT),
    packed(0, "jpeg-sound", "ACCEPT", JPEG_BASELINE, lambda: [jpeg()], EIGHT, oracle=decoded_jpeg),
    packed(0, "jpeg-of-sixteen-bits-in-eight", "REJECT:codec_dims", JPEG_LS,
           lambda: [stream(JPEG_LS)], EIGHT),
    packed(0, "video", "IGNORE:video_syntax", MPEG4, lambda: [b"\0\0\0\x18ftypmp42" + bytes(80)],
           {FRAMES: ("IS", b"25")}),
    one(0, "two-frames-native", "REJECT:multi_frame", lambda n: file_of({
        **xray(n), FRAMES: ("IS", b"2 "), PIXELS: ("OW", ramp().astype("<u2").tobytes() * 2)})),
    one(0, "frames-against-groups", "REJECT:frame_count", lambda n: file_of({
        **xray(n), FRAMES: ("IS", b"2 "), PIXELS: ("OW", ramp().astype("<u2").tobytes() * 2),
        0x52009230: ("SQ", item() * 3)})),
)  # fmt: skip
