"""Several processes may index one archive into one OUT: all read, one writes, the others wait."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from medvlp.archive.spool import PREFIX
from medvlp.archive.stage.results import stamp
from medvlp.data.keys import KEY, new_key, read_key, write_key
from medvlp.data.seal import INFO
from medvlp.data.swap import make_private, recover, sync_folder
from medvlp.errors import ArchiveError

LOCK = "lock"
_STALE_S = 60.0


class Overtaken(Exception):
    """Another process has written the manifest while this one was at work."""


class Turn:
    """The right to assemble and write one manifest, and what has to happen before anything else.

    The private folder is made at once. What interrupted runs left undone is finished or undone as
    soon as nobody else is writing.

    Args:
        out: The manifest folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.private = make_private(out)
        self._lock = os.open(self.private / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        self._held = False
        if self._try():
            recover(out)
            self._sweep()
            self._release()
        self._before = self._manifest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others go on."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def take(self) -> None:
        """Wait until nobody else writes.

        Raises:
            Overtaken: Somebody else has written meanwhile, so there is nothing left to do.
        """
        if self._held:
            return
        self._wait()
        recover(self._out)
        if self._manifest() != self._before:
            self._release()
            raise Overtaken

    def key(self, given: bytes | None) -> bytes:
        """The key, in the private folder from now on: the one that is there, or `given`, or new.

        Raises:
            ArchiveError: The key file is unusable, or another key than `given` is there.
        """
        kept = self.private / KEY
        if not kept.exists():
            self._wait()
            try:
                if not kept.exists():
                    self._keep(given or new_key())
            finally:
                self._release()
        key = read_key(kept)
        if given is not None and given != key:
            raise ArchiveError(
                f"{self.private.name} holds another key than --key, and replacing it would lose it",
                remedy=f"leave out --key, or move {self.private.name} away",
            )
        return key

    def _keep(self, key: bytes) -> None:
        part = self.private / f".{KEY}.part"
        part.unlink(missing_ok=True)
        write_key(part, key)
        part.rename(self.private / KEY)
        sync_folder(self.private)

    def _manifest(self) -> str:
        return stamp([self._out / INFO])

    def _sweep(self) -> None:
        """Remove spools whose process ended before they lost their names."""
        for file in self.private.glob(f"{PREFIX}*"):
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > _STALE_S:
                    file.unlink()

    def _wait(self) -> None:
        self._flock(lambda: fcntl.flock(self._lock, fcntl.LOCK_EX))
        self._held = True

    def _try(self) -> bool:
        try:
            self._flock(lambda: fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        self._held = True
        return True

    def _release(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._held = False

    def _flock(self, lock: Callable[[], None]) -> None:
        try:
            lock()
        except BlockingIOError:
            raise
        except OSError as error:
            raise ArchiveError(
                f"the file system of {self.private.name} knows no locks ({error.strerror})",
                remedy="name an --out on a file system with flock",
            ) from error
