"""A bounded walk over a data set's elements, before any of them is believed (PS3.5 section 7).

Iterative, so that no nesting can exhaust the stack; headers only, so that it is cheap. Every
length is held against the bytes that are there. pydicom then converts single values, and never
finds a structure that was not checked here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from pydicom._dicom_dict import DicomDictionary

from medvlp.archive.dicom.part10 import LONG_VRS, SHORT_VRS, VRS, Body
from medvlp.archive.verdict import Reject

MAX_DEPTH = 64
"""Sequences within sequences; real files rarely exceed ten."""
MAX_WORK = 400_000
"""Bound on elements, items counting three times: what half a second is enough for."""
MAX_OUTERMOST = 20_000
"""Bound on the elements of the data set itself."""
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_PIXELS = (PIXEL_DATA, *_FLOAT_PIXELS)
_SEQUENCES = frozenset(tag for tag, (vr, *_) in DicomDictionary.items() if vr == "SQ")
_PLAIN_LONG = LONG_VRS - {b"SQ", b"UN"}
_ITEM_WORK = 3
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DECIDING_GROUPS = frozenset((0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x5200, 0x7FE0))
_FIRM = frozenset(("depth", "too_many_elements", "pixel_module"))
"""Verdicts that hold even behind the pixels, where other disorder is trailing bytes."""


class Element(NamedTuple):
    """One element: where its value stands."""

    tag: int
    vr: str
    """Empty in implicit VR."""
    start: int
    length: int
    """As declared, `UNDEFINED` included."""
    end: int
    """Where the value ends, without delimiters; at most the end of the bytes."""
    implicit: bool


@dataclass(slots=True)
class Tree:
    """What a walk found."""

    body: Body
    elements: dict[int, Element] = field(default_factory=dict)
    follows: bool = False
    """Whether anything stands behind the pixels."""
    flags: dict[str, None] = field(default_factory=dict)

    def value(self, tag: int) -> bytes:
        """An element's bytes; empty where there is none."""
        element = self.elements.get(tag)
        return b"" if element is None else self.body.data[element.start : element.end]


@dataclass(slots=True)
class _Scope:
    """A data set, an item or a sequence that is being walked."""

    end: int
    delimited: bool
    items: bool
    implicit: bool
    owner: tuple[int, int] | None = None
    """(tag, start of the value) of an outermost sequence."""


class _Walk:
    def __init__(self, body: Body) -> None:
        self.data = body.data
        self.tree = Tree(body, flags=dict.fromkeys(body.flags))
        self.pos = body.start
        self.count = 0
        self.last = -1
        self.group_end: tuple[int, int] | None = None
        self.behind = False
        self.stack = [_Scope(len(body.data), False, False, body.implicit)]
        order = "<" if body.little else ">"
        self.head = struct.Struct(order + "HH2sH").unpack_from
        self.plain = struct.Struct(order + "HHI").unpack_from
        self.long = struct.Struct(order + "I").unpack_from

    def run(self) -> Tree:
        try:
            while self.stack:
                scope = self.stack[-1]
                if scope.items:
                    self._next_item(scope)
                    continue
                if len(self.stack) > 1:
                    self._skip(scope)
                self._next_element(scope)
        except Reject as verdict:
            if not self.behind or verdict.code in _FIRM:
                raise
            self.tree.flags["trailing_bytes"] = None
        if not self.tree.elements:
            raise Reject("truncated_header")
        return self.tree

    def _skip(self, scope: _Scope) -> None:
        """Step over an item's plain elements, which nothing but their lengths is asked of."""
        data, pos, end, implicit = self.data, self.pos, scope.end, scope.implicit
        start, most = pos, (end - pos) // 8
        for _ in range(most):
            if end - pos < 12:
                break
            group, number, vr, length = self.head(data, pos)
            following = pos + 8
            if implicit or vr in _PLAIN_LONG:
                at = pos + (4 if implicit else 8)
                length = self.long(data, at)[0]
                following = at + 4
                if group << 16 | number in _SEQUENCES:
                    break
            elif vr not in SHORT_VRS:
                break
            if group == 0xFFFE or following + length > end:
                break
            self.count += 1
            pos = following + length
        self.pos = pos
        if start != pos:
            self._count(0)

    def _next_element(self, scope: _Scope) -> None:
        pos = self.pos
        if scope.end - pos < 8:
            return self._close(scope)
        group, number, vr, length = self.head(self.data, pos)
        tag = group << 16 | number
        if group == 0xFFFE:
            return self._delimiter(scope, tag)
        self._count(1)
        if scope.implicit:
            name, length, start, implicit = "", self.long(self.data, pos + 4)[0], pos + 8, True
        elif vr in SHORT_VRS:
            name, start, implicit = vr.decode(), pos + 8, False
        elif vr in LONG_VRS:
            if scope.end - pos < 12:
                raise self._overrun(tag, 0, scope)
            name, length, implicit = vr.decode(), self.long(self.data, pos + 8)[0], False
            start = pos + 12
        else:
            name, length, start, implicit = self._strange(tag, vr, scope)
        if len(self.stack) == 1:
            self._check_place(tag, implicit)
        return self._value(scope, Element(tag, name, start, length, start + length, implicit))

    def _count(self, work: int) -> None:
        self.count += work
        if self.count > MAX_WORK or len(self.tree.elements) > MAX_OUTERMOST:
            raise Reject("too_many_elements", f"over {MAX_WORK}")

    def _value(self, scope: _Scope, element: Element) -> None:
        """Step over an element's value, or into it where it is a sequence."""
        top = len(self.stack) == 1
        tag, start, length = element.tag, element.start, element.length
        if length == UNDEFINED:
            return self._undefined(element, top)
        end = start + length
        if end > scope.end:
            if top and tag in _PIXELS:
                end = scope.end
            else:
                raise self._overrun(tag, length, scope, element)
        if length and self._is_sequence(element):
            return self._push(_Scope(end, False, True, element.implicit), element, top)
        self.pos = end
        if top:
            self._keep(element, end)
        return None

    def _undefined(self, element: Element, top: bool) -> None:
        if element.vr in ("OB", "OW") or element.tag == PIXEL_DATA:
            return self._fragments(element, top)
        if element.vr not in ("", "SQ", "UN"):
            raise Reject("bad_value_length", name_of(element.tag))
        # Of unknown VR and undefined length is a sequence in implicit VR (PS3.5 6.2.2).
        implicit = element.implicit or element.vr == "UN"
        return self._push(_Scope(self.stack[-1].end, True, True, implicit), element, top)

    def _push(self, scope: _Scope, element: Element, top: bool) -> None:
        scope.owner = (element.tag, element.start) if top else None
        if len(self.stack) > 2 * MAX_DEPTH:
            raise Reject("depth", f"over {MAX_DEPTH}")
        self.stack.append(scope)
        self.pos = element.start

    def _next_item(self, scope: _Scope) -> None:
        pos = self.pos
        if scope.end - pos < 8:
            return self._close(scope)
        group, number, length = self.plain(self.data, pos)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            self.pos = pos + 8
            return self._pop(scope, pos)
        if tag != _ITEM:
            raise Reject("bad_sequence", name_of(tag) if group == 0xFFFE else "")
        self._count(_ITEM_WORK)
        self.pos = pos + 8
        delimited = length == UNDEFINED
        end = scope.end if delimited else pos + 8 + length
        if end > scope.end:
            raise self._overrun(tag, length, scope)
        vr = self.data[pos + 12 : pos + 14]
        switch = not scope.implicit and end - pos > 16 and not vr.isalpha()
        implicit = scope.implicit or (switch and self.data[pos + 8 : pos + 10] != b"\xfe\xff")
        self.stack.append(_Scope(end, delimited, False, implicit))
        return None

    def _delimiter(self, scope: _Scope, tag: int) -> None:
        if len(self.stack) == 1 and self.behind:
            raise Reject("bad_sequence")
        self.pos += 8
        if tag == _ITEM_END and scope.delimited:
            self.stack.pop()
        elif tag == _ITEM:
            raise Reject("bad_sequence", name_of(tag))
        else:
            self.tree.flags["stray_delimiter"] = None
            self._count(1)

    def _close(self, scope: _Scope) -> None:
        """The bytes of a scope are used up."""
        left = scope.end - self.pos
        if scope.delimited:
            raise Reject("truncated_header" if scope.end == len(self.data) else "bad_sequence")
        if left and len(self.stack) > 1:
            raise Reject("length_mismatch", f"{left} bytes behind the last item")
        if left:
            if not self.behind:
                raise Reject("truncated_header")
            self.tree.flags["trailing_bytes"] = None
        self.pos = scope.end
        self._pop(scope, scope.end)

    def _pop(self, scope: _Scope, end: int) -> None:
        self.stack.pop()
        if scope.owner is not None:
            tag, start = scope.owner
            self._keep(Element(tag, "SQ", start, end - start, end, scope.implicit), end)

    def _keep(self, element: Element, end: int) -> None:
        """Remember an element of the data set itself."""
        tag, known = element.tag, self.tree.elements
        if tag & 0xFFFF == 0 and element.length == 4:
            self.group_end = (tag >> 16, end + self.long(self.data, element.start)[0])
        if element.end != end:
            element = Element(tag, element.vr, element.start, element.length, end, element.implicit)
        if tag in known:
            self._repeated(element, known[tag])
        known[tag] = element
        self.last = max(self.last, tag)
        if tag in _PIXELS:
            if sum(pixels in known for pixels in _PIXELS) > 1:
                raise Reject("pixel_module", name_of(tag))
            self.behind = True
            self.tree.follows = self.pos < len(self.data)

    def _repeated(self, element: Element, earlier: Element) -> None:
        tag = element.tag
        if tag in _PIXELS:
            raise Reject("pixel_module", name_of(tag))
        same = self.data[element.start : element.end] == self.data[earlier.start : earlier.end]
        if not same and tag >> 16 in _DECIDING_GROUPS:
            raise Reject("repeated_element", name_of(tag))
        self.tree.flags["repeated_element"] = None

    def _check_place(self, tag: int, implicit: bool) -> None:
        """Is this a tag that may stand here in the data set?"""
        group = tag >> 16
        if self.group_end is not None and group != self.group_end[0]:
            if self.pos != self.group_end[1]:
                self.tree.flags["group_length"] = None
            self.group_end = None
        if tag > self.last:
            return
        if self.behind and implicit:
            raise Reject("bad_header")
        if group == 0:
            raise Reject("bad_header", name_of(tag))
        self.tree.flags["unsorted_elements"] = None

    def _is_sequence(self, element: Element) -> bool:
        if element.vr:
            return element.vr == "SQ"
        return element.implicit and element.tag in _SEQUENCES

    def _strange(self, tag: int, vr: bytes, scope: _Scope) -> tuple[str, int, int, bool]:
        """VR, length, start and implicitness of an element whose VR nobody knows.

        Letters are a VR of another time, with a length of 16 bits as most write it or of 32 as
        the standard wants; anything else is an element in implicit VR.
        """
        self.tree.flags["unknown_vr"] = None
        pos, end = self.pos, scope.end
        if self.behind and len(self.stack) == 1:
            raise Reject("bad_header")
        short = self.head(self.data, pos)[3]
        if vr.isalpha() and vr.isupper():
            if self._element_at(pos + 8 + short, tag, end) or end - pos < 12:
                return "UN", short, pos + 8, False
            long = self.long(self.data, pos + 8)[0]
            if self._element_at(pos + 12 + long, tag, end):
                return "UN", long, pos + 12, False
            return "UN", short, pos + 8, False
        length = self.long(self.data, pos + 4)[0]
        if length != UNDEFINED and pos + 8 + length > end:
            raise Reject("bad_header", name_of(tag))
        return "", length, pos + 8, True

    def _element_at(self, pos: int, above: int, end: int) -> bool:
        """Whether an element with a greater tag and a known VR stands here, or the end."""
        if pos == end:
            return True
        if pos + 8 > end:
            return False
        group, number, vr, _ = self.head(self.data, pos)
        return (group << 16 | number) > above and (vr in VRS or group == 0xFFFE)

    def _fragments(self, element: Element, top: bool) -> None:
        """Step over encapsulated pixels, item by item (PS3.5 A.4)."""
        data, pos = self.data, element.start
        count = 0
        while True:
            if len(data) - pos < 8:
                if not count:
                    raise Reject("truncated_pixels", name_of(PIXEL_DATA))
                self.tree.flags["missing_delimiter"] = None
                break
            group, number, length = self.plain(data, pos)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise Reject("bad_sequence", name_of(PIXEL_DATA))
            self._count(1)
            count, pos = count + 1, pos + 8 + length
            if pos > len(data):
                raise Reject("truncated_pixels", f"{count - 1} whole items")
        self.pos = min(pos + 8, len(data))
        if top:
            self._keep(element, pos)

    def _overrun(
        self, tag: int, length: int, scope: _Scope, element: Element | None = None
    ) -> Reject:
        """The verdict on a value that is longer than what holds it."""
        if scope.end != len(self.data):
            return Reject("length_mismatch", name_of(tag))
        # A file that was cut off has lost its pixels; where they are there, a length lies.
        lies = length >= 2**31 or self.pos < self.data.rfind(self._pixel_head())
        return Reject("length_beyond_eof" if lies else "truncated_header", name_of(tag))

    def _pixel_head(self) -> bytes:
        return b"\xe0\x7f\x10\x00" if self.tree.body.little else b"\x7f\xe0\x00\x10"


def name_of(tag: int) -> str:
    """``(gggg,eeee)``: what messages may say."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def walk(body: Body) -> Tree:
    """Walk over a data set, and check its structure.

    Raises:
        Reject: ``truncated_header``, ``length_beyond_eof``, ``length_mismatch``, ``depth``,
            ``too_many_elements``, ``bad_sequence``, ``bad_value_length``, ``repeated_element``,
            ``truncated_pixels``, ``pixel_module`` or ``bad_header``.
    """
    return _Walk(body).run()
