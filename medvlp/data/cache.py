"""A cache of decoded arrays, addressed by content: never stale, never half-written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medvlp.data.cache_entry import (
    SUFFIXES,
    Entry,
    Format,
    open_entry,
    whole,
    window_of,
    write_entry,
)
from medvlp.data.flags import with_values
from medvlp.data.items import Item
from medvlp.data.preprocess import Span
from medvlp.digest import digest_plain

Read = Callable[[Sequence[Path], Span | None, Sequence[str]], NDArray[Any]]
"""`Preprocess.read`."""


_MOST_MAPPED = 16_384
"""Entries that a process keeps mapped; the system allows it 65,530 mappings in all."""


class ArrayCache:
    """Stored arrays by (file content, span, preprocessing contract, numbers in flags).

    An entry is one file (`medvlp.data.cache_entry`), named by both digests; its bytes are checked
    when a process first reads it, and it stays mapped from then on. A damaged entry is written
    anew. Entries of either format are read, whichever format new ones are written in.

    Args:
        folder: Where entries are kept, shared by runs and processes; None keeps them in memory.
        contract: Digest of the preprocessing contract (`contract_digest`).
        form: The format of new entries.
        threads: Threads that decompress one entry.
    """

    def __init__(
        self, folder: Path | None, contract: str, form: Format = "auto", threads: int = 1
    ) -> None:
        self.folder = folder
        self.contract = contract
        self.form = form
        self._threads = threads
        self._memory: dict[str, NDArray[Any]] = {}
        self._opened: dict[str, Entry] = {}

    def get(self, item: Item, read: Read) -> NDArray[Any]:
        """The item's stored array, made by `read` if it is not there yet; the caller's own copy."""
        if self.folder is None:
            return self._from_memory(item, read).copy()
        entry = self._entry(item, read)
        return entry.crop(whole(entry.shape))

    def crop(
        self, item: Item, read: Read, start: Sequence[int], size: Sequence[int]
    ) -> NDArray[Any]:
        """A window of the item's stored array; of the file, only what it touches is read.

        Args:
            item: The item.
            read: As in `get`.
            start: The window's first index along each axis.
            size: Its extent along each axis.

        Raises:
            InputError: The window does not lie within the array.
        """
        if self.folder is None:
            array = self._from_memory(item, read)
            return array[window_of(array.shape, start, size)].copy()
        entry = self._entry(item, read)
        return entry.crop(window_of(entry.shape, start, size))

    def key(self, item: Item) -> str:
        """The name of the item's entry."""
        told = with_values(item.flags)
        how = [item.span, self.contract, *([told] if told else [])]
        # The content's digest comes first: whoever withdraws can be found by it.
        return f"{item.sha256}-{digest_plain(how)[:32]}"

    def files(self, item: Item) -> list[Path]:
        """The item's files, sound or not: usually one, none before it is read."""
        if self.folder is None:
            return []
        stem = self.folder / self.key(item)[:2] / self.key(item)
        named = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES.values())
        return [path for path in named if path.is_file()]

    def replace(self, item: Item, array: NDArray[Any]) -> Path:
        """Write the item's entry anew in the cache's format; those of the other one go."""
        assert self.folder is not None
        key = self.key(item)
        path = write_entry(self.folder / key[:2], key, array, self.form)
        for other in self.files(item):
            if other != path:
                other.unlink(missing_ok=True)
        self._opened.pop(key, None)
        return path

    def _from_memory(self, item: Item, read: Read) -> NDArray[Any]:
        key = self.key(item)
        if key not in self._memory:
            self._memory[key] = read(item.source_paths, item.span, item.flags)
        return self._memory[key]

    def _entry(self, item: Item, read: Read) -> Entry:
        key = self.key(item)
        opened = self._opened.get(key) or self._open(item) or self._made(item, read)
        if key not in self._opened:
            if len(self._opened) >= _MOST_MAPPED:
                self._opened.pop(next(iter(self._opened)))
            self._opened[key] = opened
        return opened

    def _open(self, item: Item) -> Entry | None:
        found = (open_entry(path, self._threads) for path in self.files(item))
        return next((entry for entry in found if entry is not None), None)

    def _made(self, item: Item, read: Read) -> Entry:
        path = self.replace(item, read(item.source_paths, item.span, item.flags))
        entry = open_entry(path, self._threads)
        if entry is None:
            raise OSError(f"cache entry {self.key(item)[:12]} is damaged as soon as it is written")
        return entry
