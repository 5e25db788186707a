"""Walking an archive: every entry once, in a fixed order, nothing followed twice."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_JUNK = frozenset({".ds_store", "thumbs.db", "desktop.ini", ".directory"})


@dataclass(frozen=True)
class Entry:
    """Something found in an archive."""

    path: Path
    ignored: str | None = None
    """Why it is none of ours: ``hidden_junk``, ``not_regular``."""

    rejected: str | None = None
    """Why it could not be looked at: ``unreadable``."""


def walk(root: Path, skip: Sequence[Path] = ()) -> Iterator[Entry]:
    """All entries under `root`, in a fixed order; `root` itself if it is a file.

    Links are followed, but no folder is entered twice, so a loop ends. What is neither a file nor
    a folder not seen yet (pipes, sockets, devices, dead links, loops) is ``not_regular``. Folders
    in `skip` are no part of the archive.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    left_out = {path.resolve() for path in skip}
    names_out = {path.name for path in left_out}
    while waiting:
        path = waiting.pop()
        if path.name in names_out and path.resolve() in left_out:
            continue
        if not _is_folder(path):
            yield _file(path)
            continue
        try:
            status = path.stat()
            names = os.listdir(path)  # noqa: PTH208 - names that are no valid text survive
        except OSError:
            yield Entry(path, rejected="unreadable")
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            yield Entry(path, ignored="not_regular")
            continue
        seen.add(identity)
        # Links last, so that a folder is found under its own name and not under a link's.
        children = [path / name for name in names]
        waiting += sorted(children, key=lambda p: (p.is_symlink(), p.name), reverse=True)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _file(path: Path) -> Entry:
    if path.name.lower() in _JUNK or path.name.startswith("._"):
        return Entry(path, ignored="hidden_junk")
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        regular = False
    return Entry(path) if regular else Entry(path, ignored="not_regular")
