"""DICOM files written byte by byte, so that every rule of the standard can be broken."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
J2K_LOSSLESS = "1.2.840.10008.1.2.4.90"
J2K = "1.2.840.10008.1.2.4.91"
RLE = "1.2.840.10008.1.2.5"

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
DX_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"

UNDEFINED = 0xFFFFFFFF
PIXELS = 0x7FE00010
LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})

Elements = Mapping[int, tuple[str, bytes]]


def text(value: str) -> bytes:
    """A text value, padded to even length."""
    data = value.encode("latin-1")
    return data + b" " * (len(data) % 2)


def uid(value: str) -> bytes:
    """A UID, padded with NUL."""
    return value.encode() + b"\0" * (len(value) % 2)


def us(*values: int) -> bytes:
    """Unsigned 16-bit values."""
    return struct.pack(f"<{len(values)}H", *values)


def element(
    tag: int, vr: str, value: bytes, *, length: int | None = None, order: str = "<"
) -> bytes:
    """One element in explicit VR; in implicit VR where `vr` is empty.

    Args:
        tag: Group and element as one number.
        vr: Value representation, two letters.
        value: Its bytes.
        length: The length to declare, by default the right one.
        order: ``<`` or ``>``.
    """
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not vr:
        return head + struct.pack(order + "I", size) + value
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", size) + value
    return head + vr.encode() + struct.pack(order + "H", size) + value


def item(value: bytes = b"", *, length: int | None = None, order: str = "<") -> bytes:
    """A sequence's item or a fragment."""
    size = len(value) if length is None else length
    return struct.pack(order + "HHI", 0xFFFE, 0xE000, size) + value


ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def encapsulated(fragments: Iterable[bytes], table: bytes = b"") -> bytes:
    """Fragments behind an offset table, with the closing delimiter."""
    padded = (f + b"\0" * (len(f) % 2) for f in fragments)
    return item(table) + b"".join(item(f) for f in padded) + SEQUENCE_END


def dataset(elements: Elements, *, implicit: bool = False, order: str = "<") -> bytes:
    """The elements in the order of their tags; pixels of undefined length where encapsulated."""
    return b"".join(
        element(tag, "" if implicit else vr, value, order=order)
        for tag, (vr, value) in sorted(elements.items())
    )


def meta(
    syntax: str, *, sop_class: str = DX_STORAGE, sop: str = "1.2.3", extra: bytes = b""
) -> bytes:
    """The file meta group, its length first."""
    body = (
        element(0x00020001, "OB", b"\0\1")
        + element(0x00020002, "UI", uid(sop_class))
        + element(0x00020003, "UI", uid(sop))
        + element(0x00020010, "UI", uid(syntax))
        + extra
    )
    return element(0x00020000, "UL", struct.pack("<I", len(body))) + body


def part10(meta_group: bytes, body: bytes, preamble: bytes = bytes(128)) -> bytes:
    """A whole file."""
    return preamble + b"DICM" + meta_group + body


def deflated(body: bytes) -> bytes:
    """As the deflated syntax has it: no zlib header."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(body) + packer.flush()
    return data + b"\0" * (len(data) % 2)


def uid_of(name: str, part: int) -> str:
    """A UID that belongs to a case's name alone."""
    number = int.from_bytes(sha256(name.encode()).digest()[:8], "big")
    return f"1.2.826.0.1.3680043.10.999.{number}.{part}"


def ramp(rows: int = 64, columns: int = 64, top: int = 4000) -> NDArray[np.uint16]:
    """A picture without two equal rows or columns, (rows, columns)."""
    y, x = np.mgrid[:rows, :columns]
    return ((y * 53 + x * 7) % top).astype(np.uint16)


def identity(name: str) -> dict[int, tuple[str, bytes]]:
    """Who and what an image of its own is: one patient, study and series a name."""
    return {
        0x00080018: ("UI", uid(uid_of(name, 3))),
        0x00100010: ("PN", text("Canary^" + name[:20])),
        0x00100020: ("LO", text(f"P-{name}"[:64])),
        0x0020000D: ("UI", uid(uid_of(name, 1))),
        0x0020000E: ("UI", uid(uid_of(name, 2))),
    }


def xray(name: str, pixels: NDArray[np.generic] | None = None) -> dict[int, tuple[str, bytes]]:
    """A sound 64 x 64 radiograph of 12 bits in 16, ready to be spoilt."""
    image = ramp() if pixels is None else pixels
    return {
        0x00080016: ("UI", uid(DX_STORAGE)),
        0x00080020: ("DA", b"20200229"),
        0x00080060: ("CS", b"DX"),
        **identity(name),
        0x00280002: ("US", us(1)),
        0x00280004: ("CS", text("MONOCHROME2")),
        0x00280010: ("US", us(image.shape[0])),
        0x00280011: ("US", us(image.shape[1])),
        0x00280100: ("US", us(16)),
        0x00280101: ("US", us(12)),
        0x00280102: ("US", us(11)),
        0x00280103: ("US", us(0)),
        PIXELS: ("OW", image.astype("<u2").tobytes()),
    }


def ct_slice(name: str, index: int, step_mm: float = 2.0) -> dict[int, tuple[str, bytes]]:
    """One slice of a sound axial CT series."""
    stored = (ramp().astype(np.int32) + index).astype(np.uint16)
    return {
        **xray(name, stored),
        0x00080016: ("UI", uid(CT_STORAGE)),
        0x00080018: ("UI", uid(uid_of(name, 10 + index))),
        0x00080060: ("CS", b"CT"),
        0x00200032: ("DS", text(f"0\\0\\{index * step_mm:g}")),
        0x00200037: ("DS", text("1\\0\\0\\0\\1\\0")),
        0x00280030: ("DS", text("0.5\\0.5")),
        0x00281052: ("DS", text("-1024")),
        0x00281053: ("DS", text("1")),
    }


def file_of(
    elements: Elements, syntax: str = EXPLICIT, preamble: bytes = bytes(128), tail: bytes = b""
) -> bytes:
    """The file that a transfer syntax makes of the elements (uncompressed syntaxes)."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    body = dataset(elements, implicit=syntax == IMPLICIT, order=order) + tail
    if syntax == DEFLATED:
        body = deflated(body)
    return part10(meta(syntax), body, preamble)


def compressed(
    elements: Elements, syntax: str, fragments: Iterable[bytes], table: bytes = b""
) -> bytes:
    """A file whose pixels are fragments of compressed streams."""
    rest = {tag: value for tag, value in elements.items() if tag != PIXELS}
    pixels = element(PIXELS, "OB", encapsulated(fragments, table), length=UNDEFINED)
    return part10(meta(syntax), dataset(rest) + pixels)
