"""What is wrong with a DICOM file as a file: preamble, cut ends, lengths, nesting, syntaxes."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile

from catalogue.dicom import CUT, grey, one, plain, spoilt, unread
from catalogue.raw import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    ITEM_END,
    PIXELS,
    SEQUENCE_END,
    UNDEFINED,
    dataset,
    deflated,
    element,
    file_of,
    item,
    meta,
    part10,
    text,
    us,
    xray,
)

SEQUENCE = 0x00081140  # referenced images: allowed anywhere, read by nobody


def with_body(name: str, front: bytes = b"", tail: bytes = b"", syntax: str = EXPLICIT) -> bytes:
    """The sound file with raw bytes in front of and behind its data set."""
    return part10(meta(syntax), front + dataset(xray(name), implicit=syntax == IMPLICIT) + tail)


def in_place(name: str, tag: int, raw: bytes) -> bytes:
    """The sound file with one element's bytes as they are given."""
    parts = [
        raw if t == tag else element(t, vr, value)
        for t, (vr, value) in sorted({tag: ("", b""), **xray(name)}.items())
    ]
    return part10(meta(EXPLICIT), b"".join(parts))


def nested(name: str, depth: int, *, delimited: bool) -> bytes:
    """Sequences within sequences in front of the pixels."""
    inner = b""
    if delimited:
        head = element(SEQUENCE, "SQ", b"", length=UNDEFINED) + item(length=UNDEFINED)
        inner = head * depth + (ITEM_END + SEQUENCE_END) * depth
    else:
        for _ in range(depth):
            inner = element(SEQUENCE, "SQ", item(inner))
    return in_place(name, SEQUENCE, inner)


def zipped(name: str) -> bytes:
    """A ZIP archive that holds the sound file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.dcm", plain(name))
    return out.getvalue()


def tarred(name: str) -> bytes:
    """A tar archive that holds the sound file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a.dcm")
        info.size = len(plain(name))
        archive.addfile(info, io.BytesIO(plain(name)))
    return out.getvalue()


def swallowing_name(name: str) -> bytes:
    """A name that claims 65534 bytes, and with them the rest of the file."""
    return in_place(name, 0x00100010, element(0x00100010, "PN", b"Canary^X", length=65534))


def bomb(name: str) -> bytes:
    """100 MB of zeros, deflated to 100 KB."""
    body = dataset(xray(name)) + element(0x7FE10011, "OB", bytes(100 * 2**20))
    return part10(meta(DEFLATED), deflated(body))


def short_meta(name: str) -> bytes:
    """Ends inside the file meta group."""
    return plain(name)[: 128 + 4 + 40]


def wrong_meta_length(name: str) -> bytes:
    """A file meta group that is longer than its group length says."""
    data = bytearray(plain(name))
    data[140:144] = struct.pack("<I", 20)
    return bytes(data)


CASES = (
    one(0, "sound", "ACCEPT", plain),
    one(0, "sound-implicit", "ACCEPT", lambda n: file_of(xray(n), IMPLICIT)),
    one(0, "sound-deflated", "ACCEPT", lambda n: file_of(xray(n), DEFLATED)),
    one(1, "empty-file", "REJECT:not_dicom", lambda _: b""),
    one(2, "hundred-bytes", "REJECT:not_dicom", lambda _: b"x" * 100),
    one(3, "text-file", "REJECT:not_dicom", lambda _: b"Dear colleague, \n" * 40),
    one(4, "exe-preamble", "FLAG:preamble_exec",
        lambda n: file_of(xray(n), preamble=b"MZ\x90\0".ljust(128, b"\0"))),
    one(5, "zip-preamble", "FLAG:preamble_polyglot",
        lambda n: file_of(xray(n), preamble=b"PK\x03\x04".ljust(128, b"\0"))),
    one(6, "no-magic", "REJECT:not_dicom", lambda n: plain(n).replace(b"DICM", b"DOCM", 1)),
    one(7, "cut-header", "REJECT:truncated_header",
        lambda n: plain(n)[: plain(n).index(b"Canary") + 3]),
    one(7, "cut-between-elements", "REJECT:pixel_module",
        lambda n: plain(n)[: plain(n).index(b"\x28\x00\x10\x00US")]
        + element(0x00280010, "US", us(64))),
    one(7, "cut-in-an-element-header", "REJECT:truncated_header",
        lambda n: plain(n)[: plain(n).index(b"\x10\x00\x10\x00PN") + 5]),
    one(7, "cut-meta", "REJECT:truncated_header", short_meta),
    one(8, "pixels-short-4000", "REJECT:truncated_pixels", lambda n: plain(n)[:-4000]),
    one(9, "pixels-short-1", "REJECT:truncated_pixels", lambda n: plain(n)[:-1]),
    one(10, "trailing-garbage", "FLAG:trailing_bytes", lambda n: plain(n) + b"\xa5\x5a" * 100),
    one(10, "trailing-zeros", "FLAG:trailing_bytes", lambda n: plain(n) + bytes(200)),
    one(10, "trailing-five", "FLAG:trailing_bytes", lambda n: plain(n) + b"12345"),
    one(0, "trailing-padding-element", "ACCEPT",
        lambda n: plain(n) + element(0xFFFCFFFC, "OB", bytes(300))),
    one(11, "pixel-length-huge", "REJECT:length_beyond_eof",
        lambda n: in_place(n, PIXELS, element(PIXELS, "OW", bytes(8192), length=0xFFFFFFF0))),
    one(12, "pixel-length-16", "REJECT:length_mismatch",
        lambda n: in_place(n, PIXELS, element(PIXELS, "OW", grey().astype("<u2").tobytes(),
                                              length=16))),
    one(13, "name-swallows-the-rest", "REJECT:length_beyond_eof", swallowing_name),
    one(13, "private-length-huge", "REJECT:length_beyond_eof",
        lambda n: in_place(n, 0x00091010, element(0x00091010, "OB", b"1234", length=0xFFFFFFF0))),
    one(14, "unknown-vr", "FLAG:unknown_vr",
        lambda n: in_place(n, 0x00181030, element(0x00181030, "ZZ", b"CHEST "))),
    one(14, "unknown-vr-long", "FLAG:unknown_vr",
        lambda n: in_place(n, 0x00181030, b"\x18\x00\x30\x10ZZ\0\0\x06\0\0\0CHEST ")),
    one(14, "no-vr-at-all", "FLAG:unknown_vr",
        lambda n: in_place(n, 0x00181030, element(0x00181030, "", b"CHEST "))),
    one(17, "depth-300", "REJECT:depth", lambda n: nested(n, 300, delimited=True)),
    one(17, "depth-300-defined-lengths", "REJECT:depth", lambda n: nested(n, 300, delimited=False)),
    one(17, "depth-behind-the-pixels", "REJECT:depth",
        lambda n: plain(n) + element(0x7FE10010, "SQ", b"", length=UNDEFINED)
        + (item(length=UNDEFINED) + element(SEQUENCE, "SQ", b"", length=UNDEFINED)) * 300),
    one(0, "depth-60", "ACCEPT", lambda n: nested(n, 60, delimited=True)),
    one(18, "depth-20000", "REJECT:depth", lambda n: nested(n, 20_000, delimited=True)),
    one(51, "deflate-bomb", "REJECT:inflate_ratio", bomb),
    one(52, "deflate-cut", "REJECT:inflate", lambda n: file_of(xray(n), DEFLATED)[:-300]),
    one(52, "deflate-garbage", "REJECT:inflate",
        lambda _: part10(meta(DEFLATED), b"\xff\xa7" * 400)),
    one(58, "declared-implicit", "FIX:transfer_syntax",
        lambda n: part10(meta(IMPLICIT), dataset(xray(n)))),
    one(58, "declared-explicit", "FIX:transfer_syntax",
        lambda n: part10(meta(EXPLICIT), dataset(xray(n), implicit=True))),
    one(58, "declared-deflated", "FIX:transfer_syntax",
        lambda n: part10(meta(DEFLATED), dataset(xray(n)))),
    one(58, "declared-big-endian", "FIX:transfer_syntax",
        lambda n: part10(meta(BIG_ENDIAN), dataset(xray(n)))),
    one(58, "no-transfer-syntax", "FIX:transfer_syntax",
        lambda n: part10(element(0x00020001, "OB", b"\0\1"), dataset(xray(n)))),
    one(58, "no-meta-group", "FIX:transfer_syntax", lambda n: part10(b"", dataset(xray(n)))),
    one(0, "private-transfer-syntax", "REJECT:transfer_syntax",
        lambda n: part10(meta("1.2.840.113619.5.2"), dataset(xray(n)))),
    one(0, "retired-transfer-syntax", "REJECT:transfer_syntax",
        lambda n: part10(meta("1.2.840.10008.1.2.4.55"), dataset(xray(n)))),
    one(0, "syntax-is-no-uid", "REJECT:transfer_syntax",
        lambda n: part10(meta("explicit"), dataset(xray(n)))),
    one(0, "magic-elsewhere", "REJECT:not_dicom", lambda n: bytes(64) + plain(n)),
    one(0, "magic-and-nothing", "REJECT:truncated_header", lambda _: bytes(128) + b"DICM"),
    one(0, "only-a-meta-group", "REJECT:truncated_header", lambda _: part10(meta(EXPLICIT), b"")),
    one(0, "zeros", "REJECT:not_dicom", lambda _: bytes(2**20)),
    one(0, "zeros-behind-magic", "REJECT:bad_header",
        lambda _: part10(meta(EXPLICIT), bytes(2**20))),
    one(0, "noise-behind-magic", CUT, lambda _: part10(meta(EXPLICIT), b"\x93\x17\xe5\x77" * 9999)),
    one(0, "gzip", "REJECT:packed", lambda n: gzip.compress(plain(n))),
    one(0, "zip", "REJECT:packed", zipped),
    one(0, "tar", "REJECT:packed", tarred),
    one(0, "pdf", "REJECT:not_dicom", lambda _: b"%PDF-1.7\n" + b"1 0 obj\n" * 99),
    one(0, "exe", "REJECT:not_dicom", lambda _: b"MZ\x90\0" + bytes(4000)),
    one(0, "utf16-text", "REJECT:not_dicom", lambda _: ("Befund " * 99).encode("utf-16")),
    one(0, "meta-length-wrong", "FLAG:group_length", wrong_meta_length),
    one(0, "group-length-wrong", "FLAG:group_length",
        lambda n: in_place(n, 0x00080000, element(0x00080000, "UL", struct.pack("<I", 7)))),
    one(0, "group-length-right", "ACCEPT",
        lambda n: in_place(n, 0x00180000, element(0x00180000, "UL", struct.pack("<I", 0)))),
    one(0, "command-group", "REJECT:bad_header",
        lambda n: with_body(n, tail=b"").replace(
            b"\x10\x00\x10\x00PN", element(0x00000100, "US", us(1)) + b"\x10\x00\x10\x00PN", 1)),
    one(0, "unsorted", "FLAG:unsorted_elements",
        lambda n: with_body(n, front=element(0x00181030, "LO", b"CHEST "))),
    one(0, "reversed", "FLAG:unsorted_elements",
        lambda n: part10(meta(EXPLICIT), b"".join(
            element(t, vr, v) for t, (vr, v) in sorted(xray(n).items(), reverse=True)))),
    one(0, "repeated-the-same", "FLAG:repeated_element",
        lambda n: in_place(n, 0x00280010, element(0x00280010, "US", us(64)) * 2)),
    one(0, "repeated-rows-differ", "REJECT:repeated_element",
        lambda n: in_place(n, 0x00280010, element(0x00280010, "US", us(64))
                           + element(0x00280010, "US", us(32)))),
    one(0, "patient-twice", "REJECT:repeated_element",
        lambda n: in_place(n, 0x00100020, element(0x00100020, "LO", b"A1")
                           + element(0x00100020, "LO", b"B2"))),
    one(0, "item-overruns-its-sequence", "REJECT:length_mismatch",
        lambda n: in_place(n, SEQUENCE, element(SEQUENCE, "SQ", item(us(1), length=500)))),
    one(0, "element-overruns-its-item", "REJECT:length_mismatch",
        lambda n: in_place(n, SEQUENCE, element(
            SEQUENCE, "SQ", item(element(0x00081150, "UI", b"1.2 ", length=400))))),
    one(0, "sequence-overruns-the-file", "REJECT:length_beyond_eof",
        lambda n: in_place(n, SEQUENCE, element(SEQUENCE, "SQ", item(), length=0x7FFFFFF0))),
    one(0, "no-item-in-a-sequence", "REJECT:bad_sequence",
        lambda n: in_place(n, SEQUENCE, element(SEQUENCE, "SQ", b"no items here..."))),
    one(0, "sequence-without-delimiter", "REJECT:bad_sequence",
        lambda n: in_place(n, SEQUENCE, element(SEQUENCE, "SQ", b"", length=UNDEFINED)
                           + item(element(0x00081150, "UI", b"1.2 ")))),
    one(0, "item-without-delimiter", CUT,
        lambda n: in_place(n, SEQUENCE, element(SEQUENCE, "SQ", b"", length=UNDEFINED)
                           + item(length=UNDEFINED))),
    one(0, "stray-delimiter", "FLAG:stray_delimiter",
        lambda n: in_place(n, SEQUENCE, SEQUENCE_END)),
    one(0, "un-sequence", "ACCEPT",
        lambda n: in_place(n, 0x00091010, element(0x00091010, "UN", b"", length=UNDEFINED)
                           + item(element(0x00081150, "", b"1.2 ")) + SEQUENCE_END)),
    one(0, "undefined-length-text", "REJECT:bad_value_length",
        lambda n: in_place(n, 0x0008103F, element(0x0008103F, "UT", b"", length=UNDEFINED)
                           + item(b"text") + SEQUENCE_END)),
    one(0, "private-of-a-megabyte", "ACCEPT",
        lambda n: in_place(n, 0x00091010, element(0x00091010, "OB", bytes(2**20)))),
    one(0, "empty-private-sequence", "ACCEPT",
        lambda n: in_place(n, 0x00091010, element(0x00091010, "SQ", b"", length=UNDEFINED)
                           + SEQUENCE_END)),
    one(0, "too-many-elements", "REJECT:too_many_elements",
        lambda n: in_place(n, SEQUENCE, element(SEQUENCE, "SQ", item(b"") * 350_000))),
    one(0, "dicomdir", "IGNORE:no_pixels",
        lambda n: part10(meta(EXPLICIT), element(0x00041130, "CS", text("ARCHIVE"))), "DICOMDIR"),
    one(0, "no-vowel-suffix", "IGNORE:not_dicom", lambda _: b"anything", "a.xyz"),
    *(one(64, f"named-{suffix}", "ACCEPT", plain, f"a.{suffix}")
      for suffix in ("jpg", "txt", "xyz")),
    spoilt(0, "pixels-only-in-a-sequence", "REJECT:pixel_module",
           {PIXELS: None, 0x00880200: ("SQ", item(element(PIXELS, "OW", bytes(8192))))}),
    unread(0, "magic-legacy-off", "REJECT:not_dicom", lambda n: dataset(xray(n))),
)  # fmt: skip
