"""What a video file holds and which reader it earned, found out in a process that can be killed.

Decoders may hang or crash on damaged files. `Checker` keeps one child process that answers for
one file after the other; a child that does not answer in time is killed and replaced.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from medvlp.archive.verdict import Reject

PATIENCE_S = 60.0
BYTES_PER_S = 20_000_000
"""Beyond `PATIENCE_S` a file may take as long as a slow network disk needs to deliver it."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the check found out about one file."""

    shape: tuple[int, int, int]
    fps: float
    duration_s: float
    reader: Literal["pyav", "decord"]


class Checker:
    """One child process that opens files on behalf of this one; not for use by two threads."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._owner = os.getpid()
        self._child: subprocess.Popen[str] | None = None

    def __del__(self) -> None:
        self.close()

    def check(self, path: Path) -> Checked:
        """Decode frames spread over the file, then see whether decord returns the same.

        Raises:
            Reject: What `TimestampReader` raises, ``hang`` (no answer in time) or ``crash``.
        """
        child = self._running()
        stdin = _pipe(child.stdin)
        stdin.write(json.dumps(str(path)) + "\n")
        stdin.flush()
        patience_s = self._patience_s + path.stat().st_size / BYTES_PER_S
        found = self._answer(child, patience_s)
        if "code" in found:
            raise Reject(found["code"], found["message"])
        earned = False
        with suppress(Reject):
            earned = bool(self._answer(child, patience_s)["decord"])
        found["shape"] = tuple(found["shape"])
        return Checked(**found, reader="decord" if earned else "pyav")

    def close(self) -> None:
        """End the child process; a fork of this process leaves it alone."""
        if self._child is not None and self._owner == os.getpid():
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None:
            # The path travels through the pipe: a command line is visible to every user.
            self._child = subprocess.Popen(
                [sys.executable, "-m", "medvlp_video.check"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self._child

    def _answer(self, child: subprocess.Popen[str], patience_s: float) -> dict[str, Any]:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(patience_s, give_up)
        timer.start()
        try:
            line = _pipe(child.stdout).readline()
        finally:
            timer.cancel()
        if not line:
            self.close()
            raise Reject("hang" if late.is_set() else "crash", "the decoder gave no answer")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _serve() -> None:
    """Answer for each path on standard input: what it holds, then whether decord may read it."""
    from medvlp_video.fast import earns_decord, spread
    from medvlp_video.timestamps import TimestampReader

    for line in sys.stdin:
        path = Path(json.loads(line))
        try:
            reader = TimestampReader(path)
            frames = reader.decode(spread(len(reader.times)))
        except (Reject, OSError) as error:
            _say(_refusal(error))
            continue
        _say(
            {
                "shape": reader.shape,
                "fps": reader.fps,
                "duration_s": reader.duration_s,
            }
        )
        _say({"decord": earns_decord(path, reader, frames)})


def _refusal(error: Reject | OSError) -> dict[str, str]:
    if isinstance(error, Reject):
        return {"code": error.code, "message": error.message}
    return {"code": "unreadable", "message": type(error).__name__}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
