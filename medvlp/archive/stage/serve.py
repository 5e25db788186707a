"""What a reading process does: one line in, one line out.

The first line it is sent says which function reads; each further line is JSON, a number and a list
of paths, and is answered by one line, the number and an answer (see `medvlp.archive.stage.answer`).
Before that, lines may come that only say that it is getting on.
LIFELINE is a pipe that nothing is written to: it ends when the parent ends, and this process with
it. `medvlp.archive.stage.child` starts it.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from medvlp.archive.stage import answer
from medvlp.archive.verdict import Reject, Verdict
from medvlp.data.paths import path_from_text
from medvlp.domain import Ref

Read = Callable[..., Any]

_PULSE_S = 0.2
"""So often at most a process says that it is getting on."""


def main() -> None:
    """Serve until the parent closes the pipe or ends."""
    requests, answers = _take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _hold_on(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    order = json.loads(requests.readline())
    try:
        read = Ref(order["read"]).load()
    except Exception as error:
        _say(answers, answer.failed(error).encode())
        return
    _limit(order["memory_mb"], writes=order["makes"])
    settings = order["settings"]
    if order["tells"]:
        settings["alive"] = _Pulse(answers)
    _say(answers, answer.READY)
    for line in requests:
        number, texts = json.loads(line)
        paths = tuple(map(path_from_text, texts))
        if order["makes"]:
            *sources, settings["target"] = paths
            paths = tuple(sources)
        text = examine(read, paths, settings)
        _say(answers, f"{number} {answer.bounded(text)}".encode())
    # A decoder's threads or exit handlers must not keep the process.
    os._exit(0)


def examine(read: Read, paths: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """The answer for one item; an item that changes while it is read is read once more."""
    for _ in range(2):
        before = _stamps(paths)
        text = _once(read, paths, settings)
        if _stamps(paths) == before:
            return text
    return answer.refused(Reject("changed"))


def _once(read: Read, paths: Sequence[Path], settings: Mapping[str, Any]) -> str:
    try:
        return answer.found(read(paths, **settings))
    except Verdict as verdict:
        return answer.refused(verdict)
    except MemoryError:
        return answer.refused(Reject("memory"))
    except OSError:
        return answer.refused(Reject("unreadable"))
    except BaseException as error:
        # Decoders raise what is no Exception, such as the panic of a Rust library.
        return answer.refused(Reject("internal", type(error).__name__))


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    return [_stamp(path) for path in paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The parent's two pipes, moved where a decoder that reads or prints does not find them."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    return requests, answers


def _say(answers: IO[bytes], line: bytes) -> None:
    answers.write(line + b"\n")
    answers.flush()


class _Pulse:
    """`answer.Alive`, called as often as one likes."""

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers
        self._said_at = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._said_at >= _PULSE_S:
            self._said_at = now
            _say(self._answers, answer.ALIVE.encode())


def _hold_on(lifeline: int) -> None:
    """End when the pipe's other end is gone, even if a decoder hangs and no Python code runs."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    # The system now sends SIGIO when the parent ends, whose default is to end this process.
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        os.read(lifeline, 1)
        os._exit(0)


def _limit(memory_mb: int, *, writes: bool) -> None:
    """Cap what may be allocated on top of what the imports took, and whether it may write."""
    if not writes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    limit = _data_bytes() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_bytes() -> int:
    """Bytes of private writable memory; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[5]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    main()
