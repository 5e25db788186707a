"""Compressed streams that nobody vouches for: inflated in steps, and never beyond a bound."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from medvlp.archive.verdict import Reject

MOST_RATIO = 200
"""How many times its size a stream may grow to beyond `FLOOR`; images do not reach a tenth."""

FLOOR = 64 << 20
"""Bytes that any stream may grow to, for small files of one value are no attack."""

LARGEST_RATIO = 1032
"""What deflate can reach at all (zlib's technical notes); more is a lie."""

_CHUNK = 1 << 18
_GZIP = b"\x1f\x8b"


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
        self._state = zlib.decompressobj(31)
        self._input = b""
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
            if not self._input:
                self._input = self._file.read(_CHUNK)
                if not self._input:
                    raise Reject("inflate", "the stream is cut off")
            try:
                out = self._state.decompress(self._input, min(size, _CHUNK))
            except zlib.error:
                raise Reject("inflate") from None
            self._input = self._state.unconsumed_tail
            if out:
                self._left -= len(out)
                if self._left < 0:
                    raise Reject("inflate_ratio")
                return out
        return b""

    def _next_member(self) -> bool:
        """Whether another gzip member follows; padding of zeros between or after them is usual."""
        rest = self._state.unused_data
        while len(rest.lstrip(b"\0")) < len(_GZIP):
            more = self._file.read(_CHUNK)
            if not more:
                break
            rest = rest[-1:] + more if rest.strip(b"\0") else more
        rest = rest.lstrip(b"\0")
        if rest.startswith(_GZIP):
            self._state = zlib.decompressobj(31)
            self._input = rest
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
