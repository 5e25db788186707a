"""Readers that fail in every way there is; they run in reading processes."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.verdict import Ignore, Reject
from medvlp.data.paths import PathText
from medvlp.data.proxy_files import Made


@dataclass(frozen=True)
class Seen:
    path: PathText
    text: str
    process: int


def read(paths: tuple[Path, ...], greeting: str = "") -> Seen:
    """Do what the file says."""
    text = "".join(path.read_text() for path in paths)
    if text in _DEEDS:
        _DEEDS[text]()
    return Seen(paths[0], greeting + text, os.getpid())


def write(paths: tuple[Path, ...], *, target: Path, alive: Callable[[], object]) -> Seen:
    """Do what the file says, slowly, but telling that it gets on, and write it down."""
    seen = read(paths)
    for _ in range(12):
        time.sleep(0.1)
        alive()
    with target.open("w") as file:
        file.write(seen.text)
        file.flush()
        if seen.text == "half":
            time.sleep(3600)
    return seen


def make(paths: tuple[Path, ...], *, target: Path, alive: Callable[[], object]) -> Made:
    """As `write`, as the maker of a proxy."""
    write(paths, target=target, alive=alive)
    return Made(size_bytes=target.stat().st_size, frames=1, bad_frames=0, psnr_db=40.0)


def scribble(paths: tuple[Path, ...], *, alive: Callable[[], object]) -> Seen:
    """Write into the last file, though only to read was asked for."""
    with paths[-1].open("a") as file:
        file.write("more")
    return Seen(paths[0], "more", os.getpid())


def _segfault() -> None:
    ctypes.string_at(0)


def _hoard() -> None:
    bytearray(8 << 30)


def _chatter() -> None:
    os.write(1, b"I print to standard output\n" * 10)
    os.write(2, b"and to standard error\n")
    sys.stdout.write('{"result":{}}')
    sys.stdout.flush()
    sys.stdin.read()


def _panic() -> None:
    class Panic(BaseException):
        pass

    raise Panic("Miller^Anna")


def _leave() -> None:
    raise SystemExit(0)


def _raise(error: Exception) -> None:
    raise error


def _big() -> None:
    raise Reject("x" * (260 << 20))


def _flood() -> None:
    """Write into every pipe that is open, the answers' own included."""
    for number in range(3, 64):
        with suppress(OSError):
            os.write(number, b'{"result":{}}\n' * 4)


_DEEDS = {
    "flood": _flood,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
    "exit": lambda: os._exit(0),
    "leave": _leave,
    "segfault": _segfault,
    "stall": lambda: ctypes.PyDLL(None).sleep(3600),  # no Python code runs meanwhile
    "hang": lambda: time.sleep(3600),
    "hoard": _hoard,
    "chatter": _chatter,
    "panic": _panic,
    "big": _big,
    "nap": lambda: time.sleep(1.5),
    "slow": lambda: time.sleep(0.02),
    "reject": lambda: _raise(Reject("bad_value", "(0010,0010)")),
    "ignore": lambda: _raise(Ignore("other")),
    "oserror": lambda: _raise(PermissionError("Miller^Anna")),
    "error": lambda: _raise(ValueError("Miller^Anna")),
}
