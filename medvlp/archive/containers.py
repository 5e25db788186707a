"""ZIP and tar that nobody vouches for: the one way to look into them, and nothing is extracted.

A container is refused as a whole where one member would leave its folder, is a link or a device,
stands twice, overlaps another, is encrypted, or grows beyond a bound: what else is in it, nobody
should believe either.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from medvlp.archive.inflate import budget
from medvlp.archive.verdict import Reject

MOST_MEMBERS = 1_000_000
DEEPEST = 3
"""Containers in containers that are looked into before it is called a bomb."""

_LARGEST_DIRECTORY = 1 << 28
_LARGEST_NESTED = 1 << 24
_HEAD = 512
_CHUNK = 1 << 18

SUFFIXES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".tbz", ".xz", ".7z", ".rar", ".zst"})
"""By which containers are known before they are opened."""

_MAGIC = {
    b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"PK\x07\x08": "zip", b"\x1f\x8b": "gzip",
    b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    NotImplementedError, struct.error, ValueError, UnicodeError, OverflowError,
)  # fmt: skip
_DRIVE = re.compile(r"^[A-Za-z]:|^[\\/]")
_DIRECTORY_END = b"PK\x05\x06"


@dataclass(frozen=True)
class Member:
    """One file in a container."""

    name: str
    """Its path inside, with ``/`` between folders; never leads out."""

    size: int
    data: bytes | None
    """Its bytes; None where it was not wanted or is larger than was asked for."""


def kind_of(head: bytes) -> str | None:
    """Which container or compression begins with these bytes (512 of them), None for others."""
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    return found or ("tar" if head[257:262] == b"ustar" else None)


def members(
    path: Path, *, wanted: Callable[[str], bool] = lambda name: True, largest: int = 1 << 20
) -> Iterator[Member]:
    """Every member of a ZIP or (compressed) tar file, its checksum compared where it is read.

    Args:
        path: The container.
        wanted: By name, which members' bytes are handed over.
        largest: Bytes of a member beyond which only its size is told.

    Raises:
        Reject: ``archive_escape``, ``archive_duplicate``, ``archive_ratio``,
            ``archive_encrypted``, ``damaged_archive`` or ``unreadable``.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            with _damage_named():
                yield from _members(file, size, wanted, largest)
    except OSError:
        raise Reject("unreadable") from None


def check_container(path: Path) -> None:
    """Look through a container that is no data set's own.

    Members are read as far as `budget` goes; containers inside are looked through as well.

    Raises:
        Reject: As `members`; ``archive_ratio`` also for containers nested deeper than `DEEPEST`;
            ``packed`` where nothing is wrong with it.
    """
    try:
        with path.open("rb") as file, _damage_named():
            _look_through(file, path.stat().st_size, 0)
    except OSError:
        raise Reject("unreadable") from None
    raise Reject("packed")


def refuse_packed(path: Path) -> None:
    """Look through a file that is a container and no DICOM file; leave others alone.

    Raises:
        Reject: As `check_container`.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        raise Reject("unreadable") from None
    if head[128:132] != b"DICM" and kind_of(head) is not None:
        check_container(path)


def leads_out(name: str) -> bool:
    r"""Whether a member's or reference's path leaves its folder on any system.

    >>> [leads_out(n) for n in ("a/b", "../a", "/a", "C:a", "a\\..\\b", "a/./b")]
    [False, True, True, True, True, False]
    """
    parts = re.split(r"[\\/]", name)
    return ".." in parts or bool(_DRIVE.match(name)) or "\0" in name


@contextmanager
def _damage_named() -> Iterator[None]:
    """Turn whatever the libraries raise into one verdict."""
    try:
        yield
    except _DAMAGE:
        raise Reject("damaged_archive") from None
    except RuntimeError:
        # zipfile's word for a missing password.
        raise Reject("archive_encrypted") from None
    except MemoryError:
        raise Reject("memory") from None


def _members(
    file: IO[bytes], size: int, wanted: Callable[[str], bool], largest: int
) -> Iterator[Member]:
    head = file.read(_HEAD)
    file.seek(0)
    kind = kind_of(head)
    if kind == "zip":
        yield from _of_zip(file, size, wanted, largest)
    elif kind in ("tar", "gzip", "bzip2", "xz"):
        yield from _of_tar(_Bounded(_inflating(kind, file), budget(size)), wanted, largest)
    else:
        raise Reject("damaged_archive", "no ZIP or tar file")


def _of_zip(
    file: IO[bytes], size: int, wanted: Callable[[str], bool], largest: int
) -> Iterator[Member]:
    _check_directory(file, size)
    with zipfile.ZipFile(file) as container:
        infos = container.infolist()
        _check_zip(infos, size)
        for info in infos:
            if info.is_dir():
                continue
            take = wanted(info.filename) and info.file_size <= largest
            with container.open(info) if take else closing(BytesIO()) as stream:
                data = stream.read() if take else None
            if data is not None and len(data) != info.file_size:
                raise Reject("damaged_archive", "a member of another size than stated")
            yield Member(info.filename, info.file_size, data)


def _check_directory(file: IO[bytes], size: int) -> None:
    """Bound the list of members before zipfile makes objects of it."""
    file.seek(max(0, size - 66_000))
    tail = file.read()
    file.seek(0)
    place = tail.rfind(_DIRECTORY_END)
    if place < 0 or len(tail) < place + 22:
        raise Reject("damaged_archive", "no list of members")
    count, length = struct.unpack_from("<HI", tail, place + 10)
    if length != 0xFFFFFFFF and length > _LARGEST_DIRECTORY:
        raise Reject("archive_ratio", f"{count} members or more")


def _check_zip(infos: list[zipfile.ZipInfo], size: int) -> None:
    names: set[str] = set()
    ends = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        _check_name(info.orig_filename, names)
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Reject("archive_escape", "a link or device")
        if info.flag_bits & 1:
            raise Reject("archive_encrypted")
        if info.header_offset < ends:
            raise Reject("archive_ratio", "members share bytes")
        ends = info.header_offset + 30 + info.compress_size
    total = sum(info.file_size for info in infos)
    if total > budget(size) or len(infos) > MOST_MEMBERS:
        raise Reject("archive_ratio", f"{len(infos)} members, {total} bytes")


def _check_name(name: str, seen: set[str]) -> None:
    if leads_out(name):
        raise Reject("archive_escape", "a path that leads out")
    # Systems that fold names write one of two members over the other.
    key = unicodedata.normalize("NFC", re.sub(r"(^|/)(\./)+|/+$", r"\1", name))
    if key in seen:
        raise Reject("archive_duplicate", "a name stands twice")
    seen.add(key)


class _Bounded:
    """A stream that refuses to hand over more than its share."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._most = most
        self._total = 0
        self._tail = b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        data = self._stream.read(size)
        self._total += len(data)
        if self._total > self._most:
            raise Reject("archive_ratio")
        self._tail = (self._tail + data[-_HEAD:])[-_HEAD:]
        return data

    def promise(self, size: int) -> None:
        """Refuse a member that would go beyond the share before it is inflated."""
        if size > self._most - self._total:
            raise Reject("archive_ratio", "a member larger than the rest may be")

    def check_end(self) -> None:
        """Read on to the end, where a compressed stream's checksum is, and a tar file's mark."""
        while self.read(_CHUNK):
            pass
        if self._total % _HEAD or self._tail.strip(b"\0"):
            raise Reject("damaged_archive", "cut off")


def _inflating(kind: str, file: IO[bytes]) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=file)
    if kind == "bzip2":
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if kind == "xz" else file


def _of_tar(stream: _Bounded, wanted: Callable[[str], bool], largest: int) -> Iterator[Member]:
    names: set[str] = set()
    source: Any = stream
    # A stream: tarfile reads on and never back, so nothing is kept but what is asked for.
    with tarfile.open(fileobj=source, mode="r|") as container:
        listed: Any = container
        for count, info in enumerate(iter(container.next, None)):
            if count >= MOST_MEMBERS:
                raise Reject("archive_ratio", f"more than {MOST_MEMBERS} members")
            _check_name(info.name, names)
            stream.promise(info.size)
            if not (info.isreg() or info.isdir()):
                raise Reject("archive_escape", "a link or device")
            listed.members.clear()
            if info.isreg():
                yield Member(info.name, info.size, _content(container, info, wanted, largest))
    stream.check_end()


def _content(
    container: tarfile.TarFile, info: tarfile.TarInfo, wanted: Callable[[str], bool], largest: int
) -> bytes | None:
    if info.size > largest or not wanted(info.name):
        return None
    stream = container.extractfile(info)
    data = b"" if stream is None else stream.read()
    if len(data) != info.size:
        raise Reject("damaged_archive", "a member of another size than stated")
    return data


def _look_through(file: IO[bytes], size: int, depth: int) -> None:
    if depth > DEEPEST:
        raise Reject("archive_ratio", f"containers nested deeper than {DEEPEST}")
    if _alone(file):
        return
    left = budget(0)
    for member in _members(file, size, lambda name: True, _LARGEST_NESTED):
        data = member.data or b""
        left -= len(data)
        if left < 0:
            return
        if kind_of(data[:_HEAD]) is not None:
            _look_through(BytesIO(data), len(data), depth + 1)


def _alone(file: IO[bytes]) -> bool:
    """Whether it is one compressed file, or a kind that nobody here opens: nothing to look into."""
    head = file.read(_HEAD)
    file.seek(0)
    kind = kind_of(head)
    if kind in ("gzip", "bzip2", "xz"):
        inner = _inflating(kind, file).read(_HEAD)
        file.seek(0)
        return kind_of(inner) != "tar"
    return kind not in ("zip", "tar")
