"""What a cache's files have in common: names by content, and a checksum at the end."""

from __future__ import annotations

import mmap
import os
import re
import zlib
from pathlib import Path

ENTRY = re.compile(r"([0-9a-f]{64})-[0-9a-f]{32}\.(?:npy|b2nd|proxy)")
"""The names of arrays and proxies: the digest of the content, by which whoever withdraws is found,
then that of what was made of it, and how."""

CRC = 4
"""Bytes of the checksum, a CRC-32 of everything before it."""

_PIECE = 1 << 24


def is_sound(data: memoryview) -> bool:
    """Whether the last bytes are the checksum of those before."""
    return len(data) > CRC and checksum(data[:-CRC]) == data[-CRC:]


def is_whole(path: Path) -> bool:
    """Whether the last bytes of a file are the checksum of those before."""
    try:
        with path.open("rb") as file:
            return is_sound(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (OSError, ValueError):
        return False


def append_checksum(path: Path) -> None:
    """Make a file end with the checksum of its bytes, by which `is_whole` knows it."""
    with path.open("r+b") as file:
        last = checksum(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        file.seek(0, os.SEEK_END)
        file.write(last)


def checksum(data: memoryview) -> bytes:
    """The CRC-32."""
    crc = 0
    for start in range(0, len(data), _PIECE):
        crc = zlib.crc32(data[start : start + _PIECE], crc)
    return crc.to_bytes(CRC, "little")
