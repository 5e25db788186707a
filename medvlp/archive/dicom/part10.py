"""The outside of a DICOM file (PS3.10): preamble, file meta group, transfer syntax, deflate."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medvlp.archive.verdict import Reject

LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Value representations whose length has 32 bits in explicit VR (PS3.5 7.1.2)."""
SHORT_VRS = frozenset(
    {
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT"),
        *(b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    }
)
VRS = LONG_VRS | SHORT_VRS

NO_PREAMBLE = "no_preamble"
"""The flag of a file that was taken without preamble and magic, because the options say so."""

_PREAMBLE = 128
_EXECUTABLE = (b"MZ", b"\x7fELF", b"#!", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe")
_OTHER_FORMAT = (
    *(b"PK", b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x1f\x8b", b"Rar!"),
    *(b"II*\0", b"MM\0*", b"<html", b"<!DOC", b"<?xml"),
)
_TRANSFER_SYNTAX = 0x00020010
_META_GROUP = 2
_META_ELEMENTS = 64
_CHUNK = 2**18
RATIO = 200
"""Inflating more than this many times is a bomb, once `RATIO_FROM` bytes are out."""
RATIO_FROM = 64 * 2**20
INFLATE_CAP = 512 * 2**20
"""Nothing inflates to more bytes than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The data set's bytes, and how they are written."""

    data: bytes
    """The file, or what was inflated from it."""
    start: int
    """Where the first element stands in `data`."""
    syntax: str
    """The transfer syntax that the bytes follow, which may not be the one that is declared; empty
    where none is declared and the pixels decide."""
    implicit: bool
    little: bool
    flags: tuple[str, ...]


def open_body(data: bytes, *, legacy: bool = False) -> Body:
    """Find the data set in a file's bytes.

    Args:
        data: The whole file.
        legacy: Whether a data set without preamble and magic is taken, with ``no_preamble``.

    Raises:
        Reject: ``not_dicom``, ``truncated_header``, ``inflate`` or ``inflate_ratio``.
    """
    if data[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        start, flags = _PREAMBLE + 4, _preamble_flags(data)
    elif legacy and _looks_like_element(data, 0, groups=(2, 8)):
        start, flags = 0, (NO_PREAMBLE,)
    else:
        raise Reject("not_dicom")
    start, declared, meta_flags = _meta(data, start)
    flags += meta_flags
    if len(data) - start < 8:
        raise Reject("truncated_header")
    if declared != DeflatedExplicitVRLittleEndian:
        return _body(data, start, declared, flags)
    if _looks_like_element(data, start):
        return _body(data, start, "", flags)
    data, tail = inflate(data, start)
    return _body(data, 0, declared, flags + (("trailing_bytes",) if tail else ()))


def _preamble_flags(data: bytes) -> tuple[str, ...]:
    if data.startswith(_EXECUTABLE):
        return ("preamble_exec",)
    return ("preamble_polyglot",) if data.startswith(_OTHER_FORMAT) else ()


def _meta(data: bytes, pos: int) -> tuple[int, str, tuple[str, ...]]:
    """Where the file meta group ends, the declared transfer syntax, and flags."""
    syntax, promised = "", -1
    for _ in range(_META_ELEMENTS):
        if len(data) - pos < 8:
            break
        group, number = struct.unpack_from("<HH", data, pos)
        if group != _META_GROUP:
            break
        value, length = _meta_value(data, pos)
        if length > len(data) - value:
            raise Reject("truncated_header", f"({group:04X},{number:04X})")
        pos = value + length
        if number == 0 and length == 4:
            promised = pos + _long(data, value)
        elif number == _TRANSFER_SYNTAX & 0xFFFF:
            syntax = data[value:pos].rstrip(b"\0 ").decode("ascii", "replace")
    flags = () if promised in (-1, pos) else ("group_length",)
    return pos, syntax, flags


def _meta_value(data: bytes, pos: int) -> tuple[int, int]:
    """Where the value of an element of the meta group starts, and its length."""
    vr = data[pos + 4 : pos + 6]
    if vr in LONG_VRS:
        return pos + 12, _long(data, pos + 8)
    if vr in SHORT_VRS:
        return pos + 8, int(struct.unpack_from("<H", data, pos + 6)[0])
    return pos + 8, _long(data, pos + 4)


def _long(data: bytes, at: int) -> int:
    if at + 4 > len(data):
        raise Reject("truncated_header")
    return int(struct.unpack_from("<I", data, at)[0])


def _looks_like_element(data: bytes, at: int, groups: tuple[int, ...] = (2, 8, 16, 24, 32)) -> bool:
    """Whether an element of one of these groups stands here, in either byte order and VR."""
    head = data[at : at + 8]
    if len(head) < 8:
        return False
    little, big = (struct.unpack(order + "HH", head[:4]) for order in "<>")
    if head[4:6] in VRS:
        return little[0] in groups or big[0] in groups
    return little[0] in groups and struct.unpack("<I", head[4:])[0] <= len(data) - at


def _body(data: bytes, start: int, declared: str, flags: tuple[str, ...]) -> Body:
    if len(data) - start < 8:
        raise Reject("truncated_header")
    little, big = (struct.unpack_from(order + "H", data, start)[0] for order in "<>")
    implicit = data[start + 4 : start + 6] not in VRS
    is_little = implicit or not (little > 0xFF and big <= 0xFF)
    syntax = declared
    if (implicit, is_little) != _written(declared):
        flags += ("transfer_syntax",)
        syntax = _corrected(declared, implicit, is_little)
    return Body(
        data=data, start=start, syntax=syntax, implicit=implicit, little=is_little, flags=flags
    )


def _written(syntax: str) -> tuple[bool, bool] | None:
    """Whether a transfer syntax has implicit VR, and little-endian order."""
    if not syntax:
        return None
    return syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian


def _corrected(declared: str, implicit: bool, little: bool) -> str:
    native = ("", ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
    if declared not in native:
        return declared
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def inflate(data: bytes, start: int) -> tuple[bytes, bool]:
    """Inflate a deflated data set, within bounds.

    Returns:
        The bytes, and whether more than padding follows the stream.

    Raises:
        Reject: ``inflate`` for a stream that is broken or cut off, ``inflate_ratio`` for one that
            grows beyond all reason.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    out, pos = 0, start
    pending = b""
    while not inflater.eof:
        if not pending:
            pending, pos = data[pos : pos + _CHUNK], pos + _CHUNK
            if not pending:
                raise Reject("inflate", "cut off")
        try:
            part = inflater.decompress(pending, 4 * _CHUNK)
        except zlib.error:
            raise Reject("inflate") from None
        pending = inflater.unconsumed_tail
        parts.append(part)
        out += len(part)
        consumed = min(pos, len(data)) - start - len(pending)
        if out > INFLATE_CAP or (out > RATIO_FROM and out > RATIO * consumed):
            raise Reject("inflate_ratio", f"over {out // 2**20} MiB")
    rest = inflater.unused_data + data[pos:]
    return b"".join(parts), bool(rest.strip(b"\0"))
