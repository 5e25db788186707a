"""Values of DICOM elements, read strictly: what decides what pixels mean is right or refused.

pydicom's conversions are lenient in ways that make poison: ``NaN`` and ``1_000`` are numbers to
it, unknown character sets become mojibake, and its messages quote what they could not read.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medvlp.archive.dicom.sequences import items_of
from medvlp.archive.verdict import Reject

Vector = tuple[float, ...]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_NUMBER = re.compile(
    rb"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.I
)
_FORMATS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_FORMATS |= {"OB": "B", "OW": "H"}
_UNTYPED = frozenset(("UN", "OB", "OW"))
_DELIMITERS = {0x5E, 0x3D}  # ^ and =: what ends an escape sequence in a name
_ENCODINGS = {re.sub("[^A-Z0-9]", "", name): python for name, python in python_encoding.items()}
_ESCAPE = b"\x1b"
_LARGEST_INTEGER = 2**31


def tag_name(keyword: str) -> str:
    """``(gggg,eeee)`` of an attribute: what messages may say."""
    tag = Tag(keyword)
    return f"({tag.group:04X},{tag.element:04X})"


@lru_cache(maxsize=512)
def _described(keyword: str) -> tuple[int, tuple[str, ...]]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, tuple(dictionary_VR(tag).split(" or "))


class Fields:
    """A data set's values by keyword; remarks about them gather in `flags`.

    Args:
        dataset: The data set or a sequence's item.
        root: The fields of the data set that the item belongs to.
    """

    def __init__(self, dataset: Dataset, root: Fields | None = None) -> None:
        self.dataset = dataset
        self.flags: dict[str, None] = {} if root is None else root.flags
        self.encodings: tuple[str, ...] = self._encodings() if root is None else root.encodings

    def __contains__(self, keyword: str) -> bool:
        return _described(keyword)[0] in self.dataset

    def items(self, keyword: str) -> Sequence[Fields]:
        """A sequence's items.

        Raises:
            Reject: ``bad_value`` where it is no sequence.
        """
        element = self._element(keyword)
        if element is None or not element.value:
            return ()
        found: Any = None
        if not isinstance(element, RawDataElement):
            found = element.value
        elif element.VR in (None, "SQ", "UN"):
            found = items_of(element)
        if not isinstance(found, Sequence) or not all(isinstance(i, Dataset) for i in found):
            raise Reject("bad_value", tag_name(keyword))
        return [Fields(item, self) for item in found]

    def text(self, keyword: str) -> str:
        """The words, stripped; empty where there are none or nobody can know what they are."""
        _, data, _ = self._content(keyword)
        data = data.strip(b"\0 \t\r\n")
        if data.isascii() and b"\0" not in data and _ESCAPE not in data:
            return data.decode("ascii")
        words = _decoded(data, self.encodings)
        if words is None:
            self.flags["charset"] = None
            return ""
        return words.strip()

    def uid(self, keyword: str) -> str:
        """A unique identifier.

        Raises:
            Reject: ``bad_uid``: not digits and dots, or over 64 of them.
        """
        _, data, _ = self._content(keyword)
        value = data.strip(b"\0 ").decode("latin-1")
        if value and (len(value) > 64 or not _UID.fullmatch(value)):
            raise Reject("bad_uid", tag_name(keyword))
        return value

    def integer(self, keyword: str, default: int | None, code: str) -> int:
        """One whole number.

        Raises:
            Reject: `code` where there is none and no default, or it is not whole; ``vm`` where
                there are several; ``bad_value_length`` for a length that no number has.
        """
        items = self.numbers(keyword)
        if items is None:
            if default is None:
                raise Reject(code, tag_name(keyword))
            return default
        if len(items) != 1:
            raise Reject("vm", tag_name(keyword))
        value = items[0]
        if not math.isfinite(value) or value != int(value) or abs(value) >= _LARGEST_INTEGER:
            raise Reject("bad_number", tag_name(keyword))
        return int(value)

    def finite(self, keyword: str, count: int) -> Vector | None:
        """`count` finite numbers; None where the element is absent or empty.

        Raises:
            Reject: ``bad_number``, ``vm`` or ``bad_value_length``.
        """
        items = self.numbers(keyword)
        if items is None:
            return None
        if len(items) != count:
            raise Reject("vm", tag_name(keyword))
        if not all(map(math.isfinite, items)):
            raise Reject("bad_number", tag_name(keyword))
        return items

    def numbers(self, keyword: str) -> Vector | None:
        """The numbers, however they are written; None where the element is absent or empty.

        Raises:
            Reject: ``bad_number`` or ``bad_value_length``.
        """
        vr, data, order = self._content(keyword)
        if not data.strip(b" \0") and vr not in _FORMATS:
            return None
        if vr in _FORMATS:
            return _binary(data, vr, order, keyword) or None
        items = [item.strip(b"\0 \t\r\n") for item in data.split(b"\\")]
        if not all(map(_NUMBER.fullmatch, items)):
            raise Reject("bad_number", tag_name(keyword))
        return tuple(map(float, items))

    def words(self, keyword: str) -> str:
        r"""What stands in an element, to compare with another file; empty where it is unreadable.

        Text as it is in any character set, numbers in decimal, several values with ``\``. It is
        for what merely tells images apart: nothing is refused or flagged.
        """
        try:
            element = self._element(keyword)
            if element is None or not isinstance(element, RawDataElement):
                return "" if element is None else _again(element.value).decode(errors="replace")
            wanted = _described(keyword)[1]
            vr = element.VR if element.VR in _FORMATS else wanted[0]
            if vr in _FORMATS:
                order = "<" if element.is_little_endian else ">"
                numbers = _binary(element.value or b"", vr, order, keyword)
                return "\\".join(f"{number:.15g}" for number in numbers)
        except Reject:
            return ""
        return (element.value or b"").decode("latin-1").strip("\0 \t\r\n")

    def content(self, keyword: str) -> bytes:
        """An element's own bytes; empty where it is absent or was converted to something else."""
        element = self._element(keyword)
        value = None if element is None else element.value
        if isinstance(value, bytes):
            return value
        if value is None:
            return b""
        return b"".join(struct.pack("<H", int(x) & 0xFFFF) for x in np.atleast_1d(value))

    def order(self, keyword: str) -> str:
        """The byte order of an element, ``<`` or ``>``."""
        element = self._element(keyword)
        return "<" if getattr(element, "is_little_endian", True) else ">"

    def _element(self, keyword: str) -> Any:
        try:
            return self.dataset.get_item(_described(keyword)[0])
        except Exception:
            raise Reject("bad_value", tag_name(keyword)) from None

    def _content(self, keyword: str) -> tuple[str, bytes, str]:
        """VR to read it by, bytes and byte order; a VR that is wrong is flagged."""
        _, wanted = _described(keyword)
        element = self._element(keyword)
        if element is None:
            return wanted[0], b"", "<"
        if not isinstance(element, RawDataElement):
            return "DS", _again(element.value), "<"
        data = element.value or b""
        order = "<" if element.is_little_endian else ">"
        if element.VR in (None, *wanted) or (element.VR in _UNTYPED and len(data) < 2**16):
            vr = element.VR if element.VR in wanted else wanted[0]
            if element.VR in ("OB", "OW"):
                self.flags["wrong_vr"] = None
            return vr, data, order
        self.flags["wrong_vr"] = None
        return _repaired(str(element.VR), wanted[0]), data, order

    def _encodings(self) -> tuple[str, ...]:
        """Python's names of the character sets; empty where one of them is unknown."""
        element = self._element("SpecificCharacterSet")
        if element is None:
            return ("ascii",)
        data = element.value if isinstance(element, RawDataElement) else _again(element.value)
        names = (data or b"").strip(b"\0 ").upper().split(b"\\")
        found = [_ENCODINGS.get(re.sub("[^A-Z0-9]", "", name.decode("latin-1"))) for name in names]
        if None in found:
            self.flags["charset"] = None
            return ()
        return tuple(name for name in found if name)


def _again(value: Any) -> bytes:
    """The text of a value that pydicom has converted already."""
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str | int | float) or not hasattr(value, "__iter__"):
        return str(value).encode()
    return "\\".join(map(str, value)).encode()


def _repaired(vr: str, wanted: str) -> str:
    """By which VR to read a value that has the wrong one."""
    if vr in _FORMATS and wanted in _FORMATS:
        same = struct.calcsize("=" + _FORMATS[vr]) == struct.calcsize("=" + _FORMATS[wanted])
        return wanted if same else vr
    return vr


def _binary(data: bytes, vr: str, order: str, keyword: str) -> Vector:
    letter = _FORMATS[vr]
    size = struct.calcsize("=" + letter)
    if len(data) % size:
        raise Reject("bad_value_length", tag_name(keyword))
    return tuple(map(float, struct.unpack(f"{order}{len(data) // size}{letter}", data)))


def _decoded(data: bytes, encodings: tuple[str, ...]) -> str | None:
    """Text in the declared character sets, or None: no mojibake."""
    if not encodings or b"\0" in data:
        return None
    try:
        if len(encodings) == 1 and _ESCAPE not in data:
            return data.decode(encodings[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            words = decode_bytes(data, list(encodings), _DELIMITERS)
    except Exception:
        return None
    return None if "\ufffd" in words else words
