"""Encapsulated pixels as one stream a frame (PS3.5 A.4), whatever the offset tables claim."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise

from pydicom.encaps import encapsulate

from medvlp.archive.dicom.streams import begins_frame, ends_frame
from medvlp.archive.verdict import Reject

_ITEM = 0xFFFEE000
Offsets = tuple[int, ...]


def frames_of(
    value: bytes, count: int, syntax: str, extended: Offsets = ()
) -> tuple[list[bytes], tuple[str, ...]]:
    """The streams of an encapsulated element.

    Args:
        value: The element's bytes, offset table first, checked by `medvlp.archive.dicom.elements`.
        count: Frames that the header declares.
        syntax: The transfer syntax.
        extended: Offsets of the extended offset table, if there is one.

    Returns:
        One stream a frame, and flags: ``offset_table`` where a table points elsewhere.

    Raises:
        Reject: ``fragment_count``: the fragments make no `count` frames.
    """
    table, fragments = _items(value)
    if len(fragments) < count or not fragments or _whole_streams(fragments, syntax) > count:
        raise Reject("fragment_count", f"{len(fragments)} fragments, {count} frames")
    starts = tuple(accumulate((8 + len(f) for f in fragments), initial=0))[:-1]
    tables = [offsets for offsets in (table, extended) if offsets]
    sound = [t for t in tables if len(t) == count and t[0] == 0 and set(t) <= set(starts)]
    firsts = _first_fragments(fragments, starts, count, syntax, sound)
    wrong = any(tuple(starts[k] for k in firsts) != offsets for offsets in tables)
    bounds = [*firsts, len(fragments)]
    frames = [b"".join(fragments[a:b]) for a, b in pairwise(bounds)]
    return frames, ("offset_table",) if wrong else ()


def _items(value: bytes) -> tuple[Offsets, list[bytes]]:
    items = []
    pos = 0
    while pos + 8 <= len(value):
        group, number, length = struct.unpack_from("<HHI", value, pos)
        if group << 16 | number != _ITEM:
            break
        items.append(value[pos + 8 : pos + 8 + length])
        pos += 8 + length
    if not items:
        return (), []
    table = items[0][: len(items[0]) // 4 * 4]
    return struct.unpack(f"<{len(table) // 4}I", table), items[1:]


def _whole_streams(fragments: Sequence[bytes], syntax: str) -> int:
    """How many streams follow each other: one more wherever one is over and another begins."""
    return 1 + sum(
        ends_frame(before, syntax) and begins_frame(after, syntax)
        for before, after in pairwise(fragments)
    )


def _first_fragments(
    fragments: Sequence[bytes],
    starts: Offsets,
    count: int,
    syntax: str,
    tables: Sequence[Offsets],
) -> list[int]:
    """Index of each frame's first fragment."""
    if count == 1:
        return [0]
    if len(fragments) == count:
        return list(range(count))
    if tables:
        places = {start: k for k, start in enumerate(starts)}
        firsts = [places[offset] for offset in tables[0]]
        if firsts == sorted(set(firsts)):
            return firsts
    firsts = [k for k, fragment in enumerate(fragments) if begins_frame(fragment, syntax)]
    if len(firsts) != count or firsts[0] != 0:
        raise Reject("fragment_count", f"{len(fragments)} fragments, {count} frames")
    return firsts


def joined(frames: Sequence[bytes]) -> bytes:
    """An encapsulated element with one fragment a frame and an empty offset table."""
    return encapsulate(list(frames), has_bot=False)
