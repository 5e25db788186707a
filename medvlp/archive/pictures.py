"""PNG, JPEG and TIFF that nobody vouches for: sizes, checksums and ends checked before decoding.

Pillow gets the bytes only when the file's own structure is sound, and of a PNG only the chunks
that make the picture: comments, profiles and thumbnails are neither parsed nor quoted.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlp.archive.inflate import LARGEST_RATIO, budget, inflated_size
from medvlp.archive.verdict import Reject

T = TypeVar("T", bound=np.generic)

MAX_PIXELS = 2**27
"""More than any detector has; a file that declares more is refused before it is decoded."""

_LARGEST_FILE = 1 << 30
_LARGEST_NOTE = 1 << 22
"""Bytes that a PNG's compressed comment or profile may inflate to."""

_MOST_SCANS = 100
"""Of a progressive JPEG; an encoder writes some ten."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = {
    _PNG: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "TIFF": (".tif", ".tiff"),
}
_PICTURE_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
_NOTE_CHUNKS = frozenset({b"zTXt", b"iTXt", b"iCCP"})
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG colour type -> samples a pixel."""

_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
"""Columns and rows at which each pass of an interlaced PNG begins, and their steps."""

_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without a length."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")

_GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_COLOUR = ("RGB", "RGBX", "RGBA", "P", "PA", "LA")
_ORIENTATION = 0x0112
_PHOTOMETRIC = 262
_LAST_FILTER = 4
"""Of a PNG row (PNG standard, 9.2)."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture and what was remarked.

    Flags: ``wrong_suffix``, ``trailing_bytes``, ``exif_rotated`` (turned as its orientation tag
    says), ``inverted`` (16-bit TIFF that stores white as 0), ``colour`` (it was not grey),
    ``depth_reduced`` (16-bit colours, read as 8), ``one_bit`` and ``no_information``.
    """

    values: NDArray[np.float32]
    """(H,W), grey levels as stored."""

    flags: tuple[str, ...]


def is_picture(path: Path) -> bool:
    """Whether the name says PNG, JPEG or TIFF."""
    return path.suffix.lower() in {suffix for group in _SUFFIXES.values() for suffix in group}


def read_grey(path: Path) -> Picture:
    """A picture as grey levels of full depth.

    Raises:
        Reject: It is no picture, is damaged, holds several, is partly transparent, or is larger
            than its bytes can make it.
    """
    picture, flags = _loaded(path)
    inverted = picture.mode.startswith("I;16") and _white_is_zero(picture)
    values, colour = _levels(picture)
    values = _turned(65535 - values if inverted else values, _orientation(picture))
    if not np.isfinite(values).all():
        raise Reject("nonfinite_pixels")
    remarks = {
        "inverted": inverted,
        "colour": colour,
        "one_bit": picture.mode == "1",
        "no_information": bool(values.min() == values.max()),
    }
    return Picture(values, (*flags, *(flag for flag, holds in remarks.items() if holds)))


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as (H,W,3) of 8 bits.

    Raises:
        Reject: As `read_grey`, and ``colour_space`` for more than 8 bits a channel.
    """
    picture, _ = _loaded(path)
    if picture.mode in _GREY and picture.mode not in ("1", "L"):
        raise Reject("colour_space", "more than 8 bits")
    return _turned(np.asarray(_opaque(picture), np.uint8), _orientation(picture))


def _loaded(path: Path) -> tuple[Image.Image, tuple[str, ...]]:
    """The decoded picture, and flags about the file."""
    data = _bytes(path)
    name = next((n for magic, n in _FORMATS.items() if data.startswith(magic)), None)
    if name is None:
        raise Reject("not_a_picture" if data else "empty")
    flags: tuple[str, ...] = ()
    if path.suffix.lower() not in _SUFFIXES[name]:
        flags = ("wrong_suffix",)
    if name == "PNG":
        data, more = _sound_png(data)
        flags = (*flags, *more)
    elif name == "JPEG":
        flags = (*flags, *_check_jpeg(data))
    picture = _open(data, name)
    if name == "JPEG":
        _check_scans(data)
    turned = _orientation(picture) != 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
    except MemoryError:
        raise Reject("memory") from None
    except Exception:
        raise Reject("codec") from None
    return picture, (*flags, "exif_rotated") if turned else flags


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise Reject("file_too_large")
        return path.read_bytes()
    except OSError:
        raise Reject("unreadable") from None


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture: Image.Image = Image.open(BytesIO(data), formats=(name,))
            several = getattr(picture, "n_frames", 1) > 1
    except Exception:
        raise Reject("codec", "the header cannot be used") from None
    if several or picture.format != name:
        raise Reject("several_images")
    if picture.mode not in _GREY and picture.mode not in _COLOUR:
        raise Reject("colour_space", picture.mode)
    depth = 4 if picture.mode in ("I", "F") else 2 if picture.mode.startswith("I;16") else 1
    _check_grown(picture.size, len(picture.getbands()) * depth, len(data))
    return picture


def _check_grown(size: tuple[int, int], pixel_bytes: int, there: int) -> None:
    """Compare the size that is declared with the bytes that are there, before any allocation."""
    pixels = size[0] * size[1]
    if min(size) < 1:
        raise Reject("bad_dims")
    if pixels > MAX_PIXELS or pixels > 8 * LARGEST_RATIO * there:
        raise Reject("declared_exceeds_bytes", f"{pixels} pixels")
    if pixels * pixel_bytes > budget(there):
        raise Reject("inflate_ratio", f"{pixels} pixels")


def _sound_png(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The PNG with nothing in it but the picture, and flags."""
    kept = [_PNG]
    idat: list[bytes] = []
    shape: tuple[int, ...] | None = None
    end = len(_PNG)
    for kind, body, end in _chunks(data):
        if kind == b"IHDR":
            shape = struct.unpack(">IIBBBBB", body) if len(body) == 13 else None
        elif kind == b"acTL":
            raise Reject("several_images")
        elif kind in _NOTE_CHUNKS:
            _check_note(kind, body)
        elif kind == b"IDAT":
            idat.append(body)
        if kind in _PICTURE_CHUNKS:
            kept.append(data[end - len(body) - 12 : end])
    if shape is None or shape[3] not in _CHANNELS:
        raise Reject("codec", "no usable IHDR")
    _check_rows(shape, b"".join(idat), len(data))
    flags = {
        "trailing_bytes": end < len(data),
        "depth_reduced": shape[2] == 16 and shape[3] in (2, 4, 6),
    }
    return b"".join(kept), tuple(flag for flag, holds in flags.items() if holds)


def _check_rows(shape: tuple[int, ...], idat: bytes, there: int) -> None:
    """Compare the rows declared with what is there to inflate; Pillow fills up in silence."""
    width, height, depth, colour, _, _, interlaced = shape
    least = _png_bytes(width, height, depth * _CHANNELS[colour], interlaced=interlaced == 1)
    if width and height and least > LARGEST_RATIO * (len(idat) + 64):
        raise Reject("declared_exceeds_bytes", f"{len(idat)} compressed bytes")
    _check_grown((width, height), 1, there)
    if least > budget(len(idat)):
        raise Reject("inflate_ratio", f"{len(idat)} compressed bytes")
    if inflated_size(idat, least) < least:
        raise Reject("truncated_pixels", "fewer rows than declared")
    if not interlaced:
        # Rows of a filter that does not exist are read as black by Pillow.
        filters = zlib.decompressobj().decompress(idat, least)[:: least // height]
        if max(filters) > _LAST_FILTER:
            raise Reject("codec", "a row of no known filter")


def _png_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Bytes of the inflated rows, each behind its filter's byte (PNG standard, 8.2 and 9.2)."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    return total


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Each chunk's type, content and end, up to IEND, its checksum compared."""
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        if place + 12 > len(data):
            raise Reject("truncated_pixels")
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 12 + length
        if end > len(data):
            raise Reject("truncated_pixels", "a chunk beyond the end")
        kind = data[place + 4 : place + 8]
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(data[place + 4 : end - 4]) != checksum:
            raise Reject("checksum")
        yield kind, data[place + 8 : end - 4], end
        place = end


def _check_note(kind: bytes, body: bytes) -> None:
    """Refuse a comment or profile that inflates without bound; one that does not, goes."""
    parts = body.split(b"\0", 4 if kind == b"iTXt" else 1)
    if kind == b"iTXt" and body[len(parts[0]) + 1 : len(parts[0]) + 2] != b"\1":
        return
    start = body.find(b"\x78")
    try:
        if start >= 0 and inflated_size(body[start:], _LARGEST_NOTE) > _LARGEST_NOTE:
            raise Reject("inflate_ratio", "a comment or profile")
    except Reject as verdict:
        if verdict.code != "inflate":
            raise


def _check_jpeg(data: bytes) -> tuple[str, ...]:
    """Walk a JPEG's markers from its start to its end."""
    place, marker, scans = 2, 0xD8, 0
    while marker != 0xD9:
        place, marker = _marker(data, place)
        if marker not in _ALONE and marker != 0xD9:
            place = _segment(data, place, marker)
        scans += marker == 0xDA
        if scans > _MOST_SCANS:
            raise Reject("codec", "more scans than a picture needs")
    return ("trailing_bytes",) if data[place:].strip(b"\0") else ()


def _segment(data: bytes, place: int, marker: int) -> int:
    """Where the segment that begins at `place`, with its scan if it has one, ends."""
    if place + 2 > len(data):
        raise Reject("truncated_pixels")
    length = int.from_bytes(data[place : place + 2], "big")
    if length < 2 or place + length > len(data):
        raise Reject("truncated_pixels", "a segment beyond the end")
    if marker in _FRAMES and length >= 8:
        height, width = struct.unpack_from(">HH", data, place + 3)
        _check_grown((width, height), 1, len(data))
    if marker != 0xDA:
        return place + length
    found = _AFTER_SCAN.search(data, place + length)
    if found is None:
        raise Reject("truncated_pixels", "a scan without an end")
    return found.start()


def _check_scans(data: bytes) -> None:
    """Decode with a decoder that stops at damage; Pillow's fills up with grey and says nothing.

    Raises:
        Reject: ``codec``.
    """
    try:
        with av.open(BytesIO(data), "r", format="jpeg_pipe") as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}
            for _ in container.decode(stream):
                pass
    except av.error.InvalidDataError:
        raise Reject("codec", "the compressed picture is damaged") from None
    except (av.error.FFmpegError, IndexError, AttributeError):
        # A kind of JPEG that this decoder does not know; Pillow has the word.
        return


def _marker(data: bytes, place: int) -> tuple[int, int]:
    """The next marker and where its segment begins."""
    start = place
    while place < len(data) and data[place] == 0xFF:
        place += 1
    if place >= len(data):
        raise Reject("truncated_pixels")
    if place == start:
        raise Reject("codec", "no marker where one must be")
    return place + 1, data[place]


def _white_is_zero(picture: Image.Image) -> bool:
    tags = getattr(picture, "tag_v2", {})
    return bool(tags.get(_PHOTOMETRIC) == 0)


def _orientation(picture: Image.Image) -> int:
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(values: NDArray[T], orientation: int) -> NDArray[T]:
    """As EXIF's orientation says: 2-4 mirror and turn, 5-8 swap the axes first."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _levels(picture: Image.Image) -> tuple[NDArray[np.float32], bool]:
    """Grey levels, and whether the picture had colours."""
    if picture.mode in _GREY:
        scale = 255 if picture.mode == "1" else 1
        return np.asarray(picture, np.float32) * scale, False
    colours = _opaque(picture)
    rgb = np.asarray(colours)
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all():
        return rgb[..., 0].astype(np.float32), False
    return np.asarray(colours.convert("L"), np.float32), True


def _opaque(picture: Image.Image) -> Image.Image:
    """The picture in RGB; what lies under transparency is anybody's guess."""
    see_through = picture.mode in ("RGBA", "PA", "LA") or "transparency" in picture.info
    if not see_through:
        return picture.convert("RGB")
    full = picture.convert("RGBA")
    if np.asarray(full.getchannel("A")).min() < 255:
        raise Reject("transparent")
    return full.convert("RGB")
