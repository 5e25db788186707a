"""Text out of bytes that nobody vouches for: one place decides what is text, and in which encoding.

UTF-8 is believed, as are byte-order marks; UTF-16 without a mark is recognised by its zero bytes;
everything else is read as Windows-1252 if that leaves words of a Western language, and refused
otherwise. What cannot be seen (controls, bidirectional overrides, zero-width characters) is taken
out, because it hides words from readers and splits them for a tokenizer.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.verdict import Reject

LARGEST_TEXT = 1 << 20
"""Bytes of the largest report that is believed."""

LARGEST_TABLE = 1 << 32
"""Bytes of the largest text that `decode` takes by default, a table's."""

_LONG_LINE = 20_000
_MOST_CONTROLS = 0.1
_MOST_FOREIGN = 0.3
"""Of all letters; French, Czech and Icelandic stay below a fifth."""

# Longest first: UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", ()),
    (codecs.BOM_UTF32_LE, "utf-32-le", ("not_utf8",)),
    (codecs.BOM_UTF32_BE, "utf-32-be", ("not_utf8",)),
    (codecs.BOM_UTF16_LE, "utf-16-le", ("not_utf8",)),
    (codecs.BOM_UTF16_BE, "utf-16-be", ("not_utf8",)),
)  # fmt: skip
_BINARY = (
    b"%PDF-", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf",
    b"Rar!", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\xd0\xcf\x11\xe0",
    b"MZ\x90", b"\x7fELF", b"SQLite format 3", b"PAR1", b"RIFF",
)  # fmt: skip
_MARKUP = re.compile(r"\s*(?:\{\\rtf|<!doctype|<html|<\?xml|<body|<head|MIME-Version:)", re.I)

_UTF8_LETTER = re.compile(rb"[\xc3-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")
_MISREAD = re.compile(r"[À-ô][^\x00-\x7f]{1,3}")
_UNBROKEN = re.compile(r"[A-Za-z0-9+/=]{2000}")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# Joiners are part of the spelling in Arabic and Indic scripts, and of nothing else.
_UNSEEN = re.compile(
    "[\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u00ad"
    "\U000e0000-\U000e007f]|(?<![\u0600-\u0dff])[\u200c\u200d]"
)
# Between two letters only these are anything else than a letter of another code page.
_INSIDE_WORDS = frozenset("’‘'-–—·­°/&+*.,:;_×µ²³")
_BETWEEN_LETTERS = re.compile(r"(?<=[A-Za-z])([^\x00-\x7f])(?=[A-Za-z\x80-\xff])")


@dataclass(frozen=True)
class Text:
    """Clean text, and what had to be done for it.

    Flags: ``not_utf8`` (read from another encoding), ``mojibake`` (UTF-8 that had been read as
    Windows-1252, put right), ``lost_characters`` (replacement characters stand in it),
    ``controls_stripped``, ``hidden_stripped`` (bidirectional and zero-width characters) and
    ``long_line``.
    """

    text: str
    flags: tuple[str, ...] = ()


def read_text(path: Path) -> Text:
    """A report's file as clean text.

    Raises:
        Reject: ``text_too_large``, ``text_binary``, ``text_encoding``, ``text_markup`` (HTML, RTF
            or XML), ``empty_report`` or ``unreadable``.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_TEXT:
            raise Reject("text_too_large", f"{size} bytes")
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except OSError:
        raise Reject("unreadable") from None
    found = decode(data, LARGEST_TEXT)
    if _MARKUP.match(found.text):
        raise Reject("text_markup")
    if _UNBROKEN.search(found.text):
        raise Reject("text_binary", "an unbroken run of 2000 characters")
    if not found.text.strip():
        raise Reject("empty_report")
    return found


def decode(data: bytes, largest: int = LARGEST_TABLE) -> Text:
    """Clean text out of bytes.

    Args:
        data: The bytes of a whole file.
        largest: How many bytes are believed.

    Raises:
        Reject: ``text_too_large``, ``text_binary`` or ``text_encoding``.
    """
    if len(data) > largest:
        raise Reject("text_too_large", f"{len(data)} bytes")
    if data.startswith(_BINARY) or data[128:132] == b"DICM":
        raise Reject("text_binary", "begins as another kind of file does")
    text, flags = _decoded(data)
    cleaned = clean(text)
    return Text(cleaned.text, (*flags, *cleaned.flags))


def clean(text: str) -> Text:
    """Text without what cannot be seen, and with one kind of line end.

    Raises:
        Reject: ``text_binary``: zero characters, or a tenth of it is controls.
    """
    if "\0" in text:
        raise Reject("text_binary", f"{text.count(chr(0))} zero characters")
    flags = []
    if not text.isascii() and (mended := _mended(text)) != text:
        text = mended
        flags.append("mojibake")
    text = _LINE_ENDS.sub("\n", text)
    text, controls = _CONTROLS.subn("", text)
    if controls > _MOST_CONTROLS * (len(text) + controls):
        raise Reject("text_binary", f"{controls} control characters")
    text, unseen = ("", 0) if not text else _UNSEEN.subn("", text)
    remarks = {
        "lost_characters": "\ufffd" in text,
        "controls_stripped": controls > 0,
        "hidden_stripped": unseen > 0,
        "long_line": len(text) > _LONG_LINE and max(map(len, text.split("\n"))) > _LONG_LINE,
    }
    return Text(text, (*flags, *(flag for flag, holds in remarks.items() if holds)))


def _decoded(data: bytes) -> tuple[str, tuple[str, ...]]:
    for mark, encoding, flags in _MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding), flags
    if b"\0" in data:
        encoding = _zero_pattern(data)
        return _strict(data, encoding), ("not_utf8",)
    try:
        return data.decode("utf-8"), ()
    except UnicodeDecodeError:
        return _western(data), ("not_utf8",)


def _strict(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise Reject("text_encoding", f"no {encoding}") from None


def _zero_pattern(data: bytes) -> str:
    """UTF-16 of Western text has a zero in every other byte, and none in the others."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    half = len(data) // 2
    if len(data) % 2 == 0 and even == 0 and odd > half // 2:
        return "utf-16-le"
    if len(data) % 2 == 0 and odd == 0 and even > half // 2:
        return "utf-16-be"
    raise Reject("text_binary", f"{even + odd} zero bytes")


def _western(data: bytes) -> str:
    if _UTF8_LETTER.search(data):
        raise Reject("text_encoding", "partly UTF-8")
    text = _strict(data, "cp1252")
    letters = sum(map(str.isalpha, text))
    foreign = sum(not c.isascii() for c in text)
    odd = [c for c in _BETWEEN_LETTERS.findall(text) if not _belongs(c)]
    if odd or foreign > max(_MOST_FOREIGN * letters, 3):
        raise Reject("text_encoding", f"{len(odd)} symbols inside words, {foreign} foreign")
    return text


def _belongs(symbol: str) -> bool:
    return symbol in _INSIDE_WORDS or unicodedata.category(symbol) in ("Ll", "Lu", "Lo")


def _mended(text: str) -> str:
    """Undo one reading of UTF-8 as Windows-1252, where every foreign run of the text shows it."""
    if not _MISREAD.search(text):
        return text
    try:
        data = b"".join(_as_byte(c) for c in text)
        return data.decode("utf-8")
    except UnicodeError:
        return text


def _as_byte(character: str) -> bytes:
    # Windows-1252 leaves five bytes open, which readers pass on as they are.
    return character.encode("latin-1" if ord(character) < 0xA0 else "cp1252")
