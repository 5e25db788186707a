"""Compressed streams that nobody vouches for: inflated in steps, and never beyond a bound."""

from __future__ import annotations

import contextlib
import importlib
import zlib
from typing import Any, BinaryIO

from medvlp.archive.verdict import Reject

deflate: Any = zlib
with contextlib.suppress(ImportError):
    # Twice as fast, where there is a wheel; tests compare its bytes and verdicts with zlib's.
    deflate = importlib.import_module("isal.isal_zlib")

MOST_RATIO = 200
"""How many times its size a stream may grow to beyond `FLOOR`; images do not reach a tenth."""

FLOOR = 64 << 20
"""Bytes that any stream may grow to, for small files of one value are no attack."""

LARGEST_RATIO = 1032
"""What deflate can reach at all (zlib's technical notes); more is a lie."""

_CHUNK = 1 << 18
_GZIP = b"\x1f\x8b"
_HEAD = 4
_RESERVED = 0b1110_0000
"""Bits of the fourth byte that must not be set (RFC 1952, 2.3.1.2); isal does not look at them."""


def budget(compressed: int) -> int:
    """Bytes that a stream of `compressed` bytes may grow to."""
    return max(FLOOR, MOST_RATIO * compressed)


class GzipReader:
    """Reads a gzip file forward, its checksums compared, within `budget`.

    Args:
        file: Open for reading bytes, at the beginning.
        compressed: Its size.
    """

    def __init__(self, file: BinaryIO, compressed: int) -> None:
        self._file = file
        self._left = budget(compressed)
        self._state = deflate.decompressobj(31)
        self._input = b""
        self._begun = False
        self._ended = False
        self.trailing = False
        """Whether something else than gzip follows the end."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end.

        Raises:
            Reject: ``inflate`` (damaged or cut off) or ``inflate_ratio``.
        """
        parts: list[bytes] = []
        while size > 0 and (part := self._step(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _step(self, size: int) -> bytes:
        while not self._ended:
            if self._state.eof and not self._next_member():
                break
            self._feed()
            try:
                out: bytes = self._state.decompress(self._input, min(size, _CHUNK))
            except deflate.error:
                raise Reject("inflate") from None
            self._input = self._state.unconsumed_tail
            if out:
                self._left -= len(out)
                if self._left < 0:
                    raise Reject("inflate_ratio")
                return out
        return b""

    def _feed(self) -> None:
        """See that there is input, and that a member which begins is one that gzip knows."""
        if not self._input:
            self._input = self._file.read(_CHUNK)
            if not self._input:
                raise Reject("inflate", "the stream is cut off")
        if not self._begun and len(self._input) >= _HEAD and self._input[_HEAD - 1] & _RESERVED:
            raise Reject("inflate")
        self._begun = True

    def _next_member(self) -> bool:
        """Whether another gzip member follows; padding of zeros between or after them is usual."""
        rest = self._state.unused_data.lstrip(b"\0")
        while len(rest) < _HEAD and (more := self._file.read(_CHUNK)):
            rest = (rest + more).lstrip(b"\0")
        if rest.startswith(_GZIP):
            self._state = deflate.decompressobj(31)
            self._input, self._begun = rest, False
            return True
        self._ended = True
        self.trailing = bool(rest)
        return False


def inflated_size(data: bytes, most: int) -> int:
    """Bytes that a zlib stream grows to, counted up to `most` + 1 and kept nowhere.

    Raises:
        Reject: ``inflate``: it is no zlib stream.
    """
    state = zlib.decompressobj()
    total, rest = 0, data
    try:
        while rest and not state.eof and total <= most:
            total += len(state.decompress(rest, _CHUNK))
            rest = state.unconsumed_tail
    except zlib.error:
        raise Reject("inflate") from None
    return total
