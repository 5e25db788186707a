"""What a hostile file is, and the watch that sees whether it got its way."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.errors import MedvlpError

LONGEST_S = 30
"""A case that takes so long hangs."""

LARGEST = 1 << 30
"""Bytes by which the process may grow at most."""

SECRET = "sentinel-5e1f"
"""A word in the files outside; it must come out nowhere."""


@dataclass(frozen=True)
class Place:
    """Where a case may write (`inside`), and what it must neither read, change nor write."""

    inside: Path
    outside: Path
    bundle: Path
    """An untrained bundle to start from."""

    encoder: Path
    """A folder of a small pretrained text encoder."""

    @property
    def command(self) -> str:
        """The shell command of a payload: it makes the canary file."""
        return f"touch {self.outside / 'canary'}"

    @property
    def secret(self) -> Path:
        """A file outside, which must not be read."""
        return self.outside / "secret.txt"

    def file(self, name: str, content: str | bytes) -> Path:
        """Write a file inside."""
        path = self.inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A hostile file and the door through which it is brought in."""

    name: str
    write: Callable[[Place], Path]
    """Writes it and returns what is opened."""

    open: Callable[[Path], Any]
    refused: type[MedvlpError] | None
    """How it is refused; None where what is hostile in it is not looked at."""


class Payload:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


class Watch:
    """Hears what the interpreter does while a case is open (audit events of PEP 578)."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self.seen: list[str] = []
        sys.addaudithook(self.hear)

    @contextlib.contextmanager
    def over(self, place: Place) -> Iterator[list[str]]:
        """Watch; gives what was seen, and ends what hangs."""
        before = signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(LONGEST_S)
        self.place, self.seen = place, []
        try:
            yield self.seen
        finally:
            self.place = None
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an event that no file should bring about."""
        if self.place is not None and _forbidden(self.place, event, arguments):
            self.seen.append(f"{event} {arguments[0]!s:.200}")


def _forbidden(place: Place, event: str, arguments: tuple[Any, ...]) -> bool:
    if event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn"):
        return True
    if event == "subprocess.Popen":
        return str(arguments[0]) != sys.executable
    if event == "socket.connect":
        return not isinstance(arguments[1], str | bytes)
    if event == "exec":
        return getattr(arguments[0], "co_filename", "").startswith(str(place.inside))
    touched = event == "open" or event.startswith(("os.", "shutil."))
    return touched and any(str(a).startswith(str(place.outside)) for a in arguments)


def _hangs(number: int, frame: Any) -> None:
    raise AssertionError(f"took more than {LONGEST_S} s")


@contextlib.contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """Gives a function: bytes by which the process has grown at most since (Linux; else 0)."""

    def peak() -> int:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(w.split()[1]) << 10 for w in lines if w.startswith("VmHWM")), 0)

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    start = peak()
    yield lambda: peak() - start
