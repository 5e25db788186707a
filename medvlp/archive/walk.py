"""Walking an archive: every entry once, in a fixed order, nothing followed twice."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_JUNK = frozenset({".ds_store", "thumbs.db", "desktop.ini", ".directory"})
# Copies that file servers keep of every folder, and bins: an archive's files once more.
_JUNK_FOLDERS = frozenset(
    {".snapshot", ".snapshots", ".zfs", "@eadir", "#recycle", "#snapshot", "$recycle.bin",
     "system volume information", "__macosx"}
)  # fmt: skip

_Identity = tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """Something found in an archive."""

    path: Path
    ignored: str | None = None
    """Why it is none of ours: ``hidden_junk``, ``not_regular``, ``link``, ``hard_link``,
    ``outside_root``."""

    rejected: str | None = None
    """Why it could not be looked at: ``unreadable``, ``vanished``, ``path_too_long``."""


def walk(root: Path, skip: Sequence[Path] = (), *, follow_links: bool = False) -> Iterator[Entry]:
    """All entries under `root`, in a fixed order; `root` itself if it is a file.

    A root that is a link is followed, for it was named. Below it, a link to something inside the
    root is a ``link``, since its target is found under its own name, and one that leads out is
    ``outside_root``, unless links are followed. A further name of one file (hard link) is
    ``hard_link``. Pipes, sockets, devices, dead links and loops are ``not_regular``.

    Args:
        root: Where to begin.
        skip: Folders that are no part of the archive.
        follow_links: Whether links that lead out of the root are followed.
    """
    return _Walk(root, skip, follow_links).entries()


def is_junk(path: Path, root: Path) -> bool:
    """Whether a path below a root is what operating systems and file servers leave behind."""
    folders = path.relative_to(root).parts[:-1]
    return _is_junk_file(path.name) or any(part.lower() in _JUNK_FOLDERS for part in folders)


def _is_junk_file(name: str) -> bool:
    return name.lower() in _JUNK or name.startswith("._")


def linked_folders(root: Path) -> list[Path]:
    """Links to folders below a folder, and behind such links, that lead to something new.

    Not those to what lies below the root or behind another link, nor to what holds the root.
    """
    real = os.path.realpath(root)
    known, waiting, found = [real], [root], []
    while waiting:
        for folder, names, _ in os.walk(waiting.pop()):
            for path in (Path(folder, name) for name in sorted(names)):
                if not path.is_symlink():
                    continue
                target = os.path.realpath(path)
                if not any(_within(target, place) for place in known) and not _within(real, target):
                    known.append(target)
                    waiting.append(path)
                    found.append(path)
    return found


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


class _Walk:
    """One walk: what was seen, and what is still to be looked at."""

    def __init__(self, root: Path, skip: Sequence[Path], follow_links: bool) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._skip = {path.resolve() for path in skip}
        self._skip_names = {path.name for path in self._skip}
        self._follow = follow_links
        self._folders: set[_Identity] = set()
        self._files: set[_Identity] = set()
        self._waiting = [root]

    def entries(self) -> Iterator[Entry]:
        while self._waiting:
            path = self._waiting.pop()
            if path.name in self._skip_names and path.resolve() in self._skip:
                continue
            try:
                yield from self._look(path)
            except OSError as error:
                yield Entry(path, rejected=_why(error))

    def _look(self, path: Path) -> Iterator[Entry]:
        status = path.lstat()
        linked = stat.S_ISLNK(status.st_mode)
        if linked:
            try:
                status = path.stat()
            except OSError:
                yield Entry(path, ignored="not_regular")
                return
            if path != self._root and (why := self._linked(path)):
                yield Entry(path, ignored=why)
                return
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            yield from self._enter(path, identity)
        else:
            yield Entry(path, ignored=self._file(path, status, linked))

    def _linked(self, path: Path) -> str | None:
        """Why a link is not followed, if it is not."""
        target = os.path.realpath(path)
        if _within(target, self._real_root):
            return "link"
        return None if self._follow else "outside_root"

    def _enter(self, path: Path, identity: _Identity) -> Iterator[Entry]:
        if path != self._root and path.name.lower() in _JUNK_FOLDERS:
            yield Entry(path, ignored="hidden_junk")
            return
        if identity in self._folders:
            yield Entry(path, ignored="link")
            return
        self._folders.add(identity)
        names = os.listdir(path)  # noqa: PTH208 - names that are no valid text survive
        self._waiting += [path / name for name in sorted(names, reverse=True)]

    def _file(self, path: Path, status: os.stat_result, linked: bool) -> str | None:
        if _is_junk_file(path.name):
            return "hidden_junk"
        if not stat.S_ISREG(status.st_mode):
            return "not_regular"
        if not linked and status.st_nlink < 2:
            return None
        identity = (status.st_dev, status.st_ino)
        if identity in self._files:
            return "link" if linked else "hard_link"
        self._files.add(identity)
        return None


def _why(error: OSError) -> str:
    codes = {errno.ENOENT: "vanished", errno.ENAMETOOLONG: "path_too_long"}
    return codes.get(error.errno or 0, "unreadable")
