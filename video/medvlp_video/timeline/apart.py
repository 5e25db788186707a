"""A recording read apart: in a process of its own, which a damaged file may take down.

The process decodes the next frame while this one is at work on the last. When it is silent for
half a minute it is killed, and the timeline ends at the last good frame.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.stage import answer
from medvlp.archive.stage.child import START_S, Limits, start_apart
from medvlp.archive.verdict import Reject, Verdict
from medvlp.data.paths import path_to_text
from medvlp_video.timeline.serve import DAMAGED, ENDED, MOMENT

_LONGEST_LINE = 1 << 16


class ApartReader:
    """The frames of one recording, as `medvlp_video.read.open_reader` gives them.

    Args:
        paths: The recording's files.
        reader: As in `open_reader`.
        rate: Moments a second of which frames are wanted.
        limits: `time_s` of silence end the process; `memory_mb` is what it may take.

    Raises:
        Reject: The recording cannot be read; ``timeout``, ``decoder_crash`` or ``memory`` where
            the process did not survive it.
    """

    def __init__(
        self, paths: Sequence[Path], *, reader: str | None, rate: float, limits: Limits
    ) -> None:
        self._limits = limits
        self._lifeline: int | None
        self._process, self._lifeline = start_apart("medvlp_video.timeline.serve")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        order = {
            "paths": [path_to_text(path) for path in paths],
            "reader": reader,
            "rate": rate,
            "memory_mb": limits.memory_mb,
        }
        try:
            self._send(json.dumps(order).encode() + b"\n")
            self._line(START_S)
            told = self._told(limits.patience_s(paths))
            self.size: tuple[int, int] = (told["size"][0], told["size"][1])
            """Rows and columns of a frame."""
            self.frames: int = told["frames"]
            self.duration_s: float = told["duration_s"]
            self.truncated: bool = told["truncated"]
            """Whether the file's end is missing."""
            data = self._bytes(MOMENT.size * told["moments"], limits.time_s)
            self.times: NDArray[np.float64] = np.frombuffer(data, "<f8")
            """Seconds at which another frame is shown than at the moment before."""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._lifeline is None:
            return
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._answers.close()
        os.close(self._lifeline)
        self._lifeline = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The reading process."""
        return self._process

    def stream(
        self, times_s: Iterable[float], ahead: int = 1
    ) -> Iterator[tuple[float, NDArray[np.uint8] | None]]:
        """Each of `times_s`, ascending, with its (H,W,3) frame, or None for a damaged one.

        Args:
            times_s: Seconds, each taken when its frame is asked for.
            ahead: Frames that are asked for before they are wanted; 0 where the next moment is
                not known until then.

        Raises:
            Reject: The rest of the recording cannot be read.
        """
        asked: deque[float] = deque()
        for time_s in times_s:
            self._send(MOMENT.pack(time_s))
            asked.append(time_s)
            if len(asked) > ahead:
                yield asked.popleft(), self._frame()
        while asked:
            yield asked.popleft(), self._frame()

    def _frame(self) -> NDArray[np.uint8] | None:
        kind = self._kind(self._limits.time_s)
        if kind == DAMAGED:
            return None
        height, width = self.size
        data = self._bytes(height * width * 3, self._limits.time_s)
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def _told(self, patience_s: float) -> dict[str, Any]:
        self._kind(patience_s)
        told: dict[str, Any] = json.loads(self._line(self._limits.time_s))
        return told

    def _kind(self, patience_s: float) -> bytes:
        kind = bytes(self._bytes(1, patience_s))
        if kind == ENDED:
            text = self._line(self._limits.time_s).decode(errors="replace")
            verdict = answer.parse(text, dict)
            raise verdict if isinstance(verdict, Verdict) else Reject("decoder_crash")
        return kind

    def _line(self, patience_s: float) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
            line += self._bytes(1, patience_s)
        return bytes(line)

    def _bytes(self, count: int, patience_s: float) -> bytearray:
        """The next `count` bytes of the process, waited for so long at most."""
        data = bytearray(count)
        view, got = memoryview(data), 0
        until = time.monotonic() + patience_s
        while got < count:
            left_s = until - time.monotonic()
            if left_s <= 0 or not select.select([self._answers], [], [], left_s)[0]:
                self.close()
                raise Reject("timeout")
            read = self._answers.readinto(view[got:])  # type: ignore[attr-defined]
            if not read:
                raise self._death()
            got += read
        return data

    def _send(self, data: bytes) -> None:
        # A process that has ended says so by what it answers.
        with suppress(BrokenPipeError):
            self._requests.write(data)

    def _death(self) -> Reject:
        ended_by = 0
        with suppress(subprocess.TimeoutExpired):
            ended_by = -self._process.wait(1.0)
        # Nobody but a system short of memory kills a process that we did not kill.
        return Reject("memory" if ended_by == signal.SIGKILL else "decoder_crash")
