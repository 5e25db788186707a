"""A cache of decoded arrays, addressed by content: never stale, never half-written."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.data.items import Item
from medvlp.data.preprocess import Span
from medvlp.digest import digest_plain

Read = Callable[[Sequence[Path], Span | None, Sequence[str]], NDArray[Any]]
"""`Preprocess.read`."""


_MOST_MAPPED = 16_384
"""Entries that a process keeps mapped; the system allows it 65,530 mappings in all."""


class ArrayCache:
    """Stored arrays by (file content, span, preprocessing contract).

    An entry is a ``.npy`` file, named by both digests, with a checksum behind the array; it is
    verified when a process first reads it and memory-mapped from then on. A damaged entry is
    written anew.

    Args:
        folder: Where entries are kept, shared by runs and processes; None keeps them in memory.
        contract: Digest of the preprocessing contract (`contract_digest`).
    """

    def __init__(self, folder: Path | None, contract: str) -> None:
        self.folder = folder
        self.contract = contract
        self._memory: dict[str, NDArray[Any]] = {}
        self._mapped: dict[str, NDArray[Any]] = {}

    def get(self, item: Item, read: Read) -> NDArray[Any]:
        """The item's stored array, made by `read` if it is not there yet; the caller's own copy."""
        # The content's digest comes first: whoever withdraws can be found by it.
        key = f"{item.sha256}-{digest_plain([item.span, self.contract])[:32]}"
        if self.folder is None:
            return self._from_memory(key, item, read)
        path = self.folder / key[:2] / f"{key}.npy"
        array = self._load(path, key)
        if array is None:
            _store(path, read(item.source_paths, item.span, item.flags))
            array = self._load(path, key)
            if array is None:
                raise OSError(f"cache entry {key[:12]} is damaged as soon as it is written")
        return array

    def _from_memory(self, key: str, item: Item, read: Read) -> NDArray[Any]:
        if key not in self._memory:
            self._memory[key] = read(item.source_paths, item.span, item.flags)
        return self._memory[key].copy()

    def _load(self, path: Path, key: str) -> NDArray[Any] | None:
        mapped = self._mapped.get(key)
        if mapped is None:
            mapped = _open(path)
            if mapped is None:
                return None
            if len(self._mapped) >= _MOST_MAPPED:
                self._mapped.pop(next(iter(self._mapped)))
            self._mapped[key] = mapped
        return mapped.copy()


def _open(path: Path) -> NDArray[Any] | None:
    """Map a sound entry; None if it is missing or damaged."""
    if not _is_sound(path):
        return None
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array


def _is_sound(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return len(data) > 4 and zlib.crc32(data[:-4]).to_bytes(4, "little") == data[-4:]


def _store(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w+b") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            file.seek(0)
            file.write(zlib.crc32(file.read()).to_bytes(4, "little"))
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
