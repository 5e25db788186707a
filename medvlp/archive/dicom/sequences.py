"""A sequence's items, cut out of its bytes without converting anything (PS3.5 7.5).

pydicom converts every sequence inside an item as soon as it looks at the item: a second for each
thousand frames of an enhanced file. Here a sequence inside an item stays bytes until it is asked
for.
"""

from __future__ import annotations

import struct

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from medvlp.archive.dicom.elements import MAX_DEPTH, UNDEFINED, name_of
from medvlp.archive.dicom.part10 import LONG_VRS, SHORT_VRS
from medvlp.archive.verdict import Reject

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_VRS = {vr: vr.decode() for vr in LONG_VRS | SHORT_VRS}


def items_of(element: RawDataElement) -> list[Dataset]:
    """The items of a sequence; private elements are left out, values stay unread.

    Args:
        element: The sequence, its bytes without the delimiter.

    Raises:
        Reject: ``bad_value`` where these are no items; ``depth``.
    """
    data = element.value or b""
    # A sequence of unknown VR and undefined length is in implicit VR (PS3.5 6.2.2).
    implicit = element.is_implicit_VR or (element.VR == "UN" and element.length == UNDEFINED)
    reader = _Reader(data, implicit=implicit, little=element.is_little_endian, tag=element.tag)
    found: list[Dataset] = []
    reader.sequence(0, len(data), implicit, found, 0)
    return found


class _Reader:
    def __init__(self, data: bytes, *, implicit: bool, little: bool, tag: int) -> None:
        self.data = data
        self.little = little
        self.tag = tag
        order = "<" if little else ">"
        self.head = struct.Struct(order + "HH2sH").unpack_from
        self.plain = struct.Struct(order + "HHI").unpack_from
        self.long = struct.Struct(order + "I").unpack_from

    def sequence(
        self, pos: int, end: int, implicit: bool, found: list[Dataset] | None, depth: int
    ) -> tuple[int, int]:
        """Go over items from `pos` on, and gather them in `found`.

        Returns:
            Where the last item ends, and where whatever follows the sequence starts.
        """
        if depth > MAX_DEPTH:
            raise Reject("depth", f"over {MAX_DEPTH}")
        while end - pos >= 8:
            group, number, length = self.plain(self.data, pos)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return pos, pos + 8
            if tag != _ITEM or (length != UNDEFINED and pos + 8 + length > end):
                raise self._bad()
            elements: dict[BaseTag, RawDataElement] = {}
            stop = end if length == UNDEFINED else pos + 8 + length
            pos = self._item(pos + 8, stop, implicit, elements, depth)
            if found is not None:
                found.append(Dataset(elements))  # type: ignore[arg-type]
        return pos, pos

    def _item(
        self,
        pos: int,
        end: int,
        implicit: bool,
        elements: dict[BaseTag, RawDataElement],
        depth: int,
    ) -> int:
        """Gather an item's elements; where the item ends."""
        while end - pos >= 8:
            group, number, vr, length = self.head(self.data, pos)
            if group == 0xFFFE:
                if number == _ITEM_END & 0xFFFF:
                    return pos + 8
                raise self._bad()
            name, start, length, plain = self._start(pos, end, vr, length, implicit)
            stop, pos = self._extent(start, end, length, plain or name == "UN", depth)
            if not group & 1:
                tag = BaseTag(group << 16 | number)
                value = self.data[start:stop]
                elements[tag] = RawDataElement(tag, name, length, value, start, plain, self.little)
        return end

    def _start(
        self, pos: int, end: int, vr: bytes, length: int, implicit: bool
    ) -> tuple[str | None, int, int, bool]:
        """VR (None in implicit VR), start, length and implicitness of the value of an element."""
        if not implicit:
            if vr in SHORT_VRS:
                return _VRS[vr], pos + 8, length, False
            if vr in LONG_VRS and end - pos >= 12:
                return _VRS[vr], pos + 12, self.long(self.data, pos + 8)[0], False
            if vr.isalpha() and vr.isupper():
                return "UN", pos + 8, length, False
        return None, pos + 8, self.long(self.data, pos + 4)[0], True

    def _extent(
        self, start: int, end: int, length: int, implicit: bool, depth: int
    ) -> tuple[int, int]:
        """Where a value ends, and where the next element starts."""
        if length == UNDEFINED:
            return self.sequence(start, end, implicit, None, depth + 1)
        if start + length > end:
            raise self._bad()
        return start + length, start + length

    def _bad(self) -> Reject:
        return Reject("bad_value", name_of(self.tag))
