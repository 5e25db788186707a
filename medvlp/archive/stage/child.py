"""Reading processes that can be killed: what a decoder does there cannot harm this one.

A damaged or hostile file can crash a decoder, keep it busy for ever or make it ask for all memory.
So decoders run in processes started for them (`serve`), joined by two pipes that carry
lines of JSON.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from medvlp.archive.stage import answer
from medvlp.archive.verdict import Reject, Verdict
from medvlp.data.paths import path_to_text
from medvlp.errors import ArchiveError

if TYPE_CHECKING:
    from medvlp.archive.stage.reading import Item, Reading

R = TypeVar("R")

START_S = 120.0
"""Time until a process has to be there: imports may come from a slow network disk."""

_ALONE_S = 0.2
"""So long one process works alone: starting more would take longer than a small archive."""
_AHEAD_S = 0.25
"""So much work each process has waiting, to be busy while this one is."""
_MOST_AHEAD = 16
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one item may cost."""

    time_s: float = 30.0
    bytes_per_s: float = 20e6
    """Beyond `time_s` an item may take as long as a slow network disk needs to deliver it."""

    memory_mb: int = 4096
    """On top of what the process needs before it reads."""

    def patience_s(self, paths: Iterable[Path]) -> float:
        """Seconds until silence about one item of these files ends in its refusal."""
        return self.time_s + sum(map(_size, paths)) / self.bytes_per_s


class Children:
    """Up to `workers` reading processes; not for use by two threads at a time.

    Args:
        workers: Most processes. Further ones are started only while there is work for them.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._reading: Reading[Any] | None = None
        self._children: list[_Child] = []
        self._pace_s = _AHEAD_S
        """Running mean of the time that a process takes for an item."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes."""
        self._drop(list(self._children))

    def run(self, reading: Reading[R], items: Iterable[Item]) -> Iterator[tuple[Item, R | Verdict]]:
        """Read items, and yield each with its result or verdict as they finish."""
        for item, text in self.answers(reading, items):
            yield item, reading.parse(text)

    def answers(self, reading: Reading[Any], items: Iterable[Item]) -> Iterator[tuple[Item, str]]:
        """As `run`, with each answer as its line of JSON.

        An item on which a process ends is asked again of a fresh one before it is refused, for the
        one before it may have done the damage.

        Raises:
            ArchiveError: The processes do not start.
        """
        if reading != self._reading:
            self.close()
            self._reading = reading
        source = iter(items)
        try:
            while self._feed(source):
                for child in self._wait():
                    yield from self._collect(child)
        finally:
            self._drop([child for child in self._children if child.sent])

    def _feed(self, source: Iterator[Item]) -> bool:
        """Give every process enough to do; false when all is done."""
        ahead = min(_MOST_AHEAD, max(1, int(_AHEAD_S / self._pace_s)))
        for child in self._children:
            for item in islice(source, max(0, ahead - len(child.sent))):
                child.send(item)
        if self._may_grow():
            for item in islice(source, 1):
                self._start([item])
        return any(child.sent for child in self._children)

    def _may_grow(self) -> bool:
        if not self._children:
            return True
        alone_s = time.monotonic() - self._children[0].ready_at
        return alone_s > _ALONE_S and len(self._children) < self._workers

    def _start(self, items: Iterable[Item]) -> None:
        assert self._reading is not None
        child = _Child(self._reading)
        self._children.append(child)
        for item in items:
            child.send(item)

    def _drop(self, children: Iterable[_Child]) -> None:
        for child in children:
            child.kill()
            self._children.remove(child)

    def _wait(self) -> list[_Child]:
        """Processes with something to say; without any, those whose time is over."""
        patience_s = min(child.deadline for child in self._children) - time.monotonic()
        if len(self._children) < self._workers:
            patience_s = min(patience_s, _ALONE_S)
        with selectors.DefaultSelector() as selector:
            for child in self._children:
                selector.register(child.answers, selectors.EVENT_READ, child)
                if child.unsent:
                    selector.register(child.requests, selectors.EVENT_WRITE, child)
            ready = selector.select(max(0.0, patience_s))
        for key, events in ready:
            if events & selectors.EVENT_WRITE:
                key.data.flush()
        speaking = [key.data for key, events in ready if events & selectors.EVENT_READ]
        now = time.monotonic()
        return speaking or [child for child in self._children if child.deadline <= now]

    def _collect(self, child: _Child) -> list[tuple[Item, str]]:
        """What a process has answered; one that ended or is late is replaced."""
        before = child.answered_at
        done: list[tuple[Item, str]] = []
        for line in child.hear():
            # What others left behind may be what fills its memory.
            if line.startswith(answer.OUT_OF_MEMORY) and child.answered:
                return done + self._replace(child)
            done.append((child.take(), line))
        if done:
            mean_s = (child.answered_at - before) / len(done)
            self._pace_s += 0.2 * (mean_s - self._pace_s)
        late = child.deadline <= time.monotonic()
        return (
            done + self._replace(child, late=late) if late or child.ended or child.garbled else done
        )

    def _replace(self, child: _Child, *, late: bool = False) -> list[tuple[Item, str]]:
        """Start a process for what another leaves, less the item that is to blame for its end."""
        self._drop([child])
        if child.ready_at == math.inf:
            raise _no_start("they give no answer" if late else "they end at once")
        done = []
        if child.sent and (late or not child.answered):
            refused = Reject("timeout") if late else child.death
            done = [(child.take(), answer.refused(refused))]
        if child.sent:
            self._start(sent.item for sent in child.sent)
        return done


class _Sent(NamedTuple):
    number: int
    item: Item
    patience_s: float


class _Child:
    """One process, what it was sent, and what it has said."""

    def __init__(self, reading: Reading[Any]) -> None:
        self.sent: deque[_Sent] = deque()
        """Not answered yet; it is at work on the first."""
        self.answered = 0
        self.ready_at = math.inf
        self.heard_at = self.answered_at = time.monotonic()
        """When it last said anything, and when it last answered or began."""
        self.ended = False
        self.garbled = False
        """Whether it says what no reading process would say."""
        self.unsent = bytearray()
        self._heard = bytearray()
        self._ended_by = 0
        self._limits = reading.limits
        self._tells = reading.tells
        self._process, self._lifeline = start_apart("medvlp.archive.stage.serve")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.requests, self.answers = self._process.stdin, self._process.stdout
        for pipe in (self.requests, self.answers):
            os.set_blocking(pipe.fileno(), False)
        order = {"read": reading.read.target, "settings": dict(reading.settings)}
        how = {"tells": reading.tells, "makes": reading.makes}
        self._write({**order, **how, "memory_mb": reading.limits.memory_mb})

    @property
    def deadline(self) -> float:
        """When, on the monotonic clock, its silence has to end."""
        if self.ready_at == math.inf:
            return self.heard_at + START_S
        return self.heard_at + self.sent[0].patience_s if self.sent else math.inf

    @property
    def death(self) -> Reject:
        """What its end says of the item it was at work on."""
        # Nobody but a system short of memory kills a process that we did not kill.
        return Reject("memory" if self._ended_by == signal.SIGKILL else "decoder_crash")

    def send(self, item: Item) -> None:
        """Ask for one more item."""
        if not self.sent and self.ready_at < math.inf:
            self.heard_at = self.answered_at = time.monotonic()
        # A reading that tells that it is getting on needs no more patience for a larger file.
        limits = self._limits
        patience_s = limits.time_s if self._tells else limits.patience_s(item)
        number = self.answered + len(self.sent)
        self.sent.append(_Sent(number, item, patience_s))
        self._write([number, [path_to_text(path) for path in item]])

    def take(self) -> Item:
        """The item that the next answer is about."""
        self.answered += 1
        self.answered_at = self.heard_at
        return self.sent.popleft().item

    def hear(self) -> list[str]:
        """The answers that have come in."""
        block = None
        with suppress(BlockingIOError):
            block = self.answers.read(_BLOCK)
        if block is None:
            return []
        self.ended = not block
        self.heard_at = time.monotonic()
        self._heard += block
        self.garbled = len(self._heard) > answer.LARGEST + _BLOCK
        if b"\n" not in block:
            return []
        *lines, rest = bytes(self._heard).split(b"\n")
        self._heard = bytearray(rest)
        if self.ready_at == math.inf:
            self._greet(lines.pop(0))
        texts = (line.decode(errors="replace") for line in lines)
        return self._attribute([text for text in texts if text != answer.ALIVE])

    def _attribute(self, lines: list[str]) -> list[str]:
        """The answers in `lines`, as far as each carries the number of the item it is about."""
        texts = []
        for line, sent in zip_longest(lines, islice(self.sent, len(lines))):
            number, _, text = line.partition(" ")
            if sent is None or number != str(sent.number):
                self.garbled = True
                break
            texts.append(text)
        return texts

    def flush(self) -> None:
        """Send what the pipe takes."""
        with suppress(BlockingIOError, BrokenPipeError):
            written = self.requests.write(self.unsent)
            del self.unsent[: written or 0]

    def kill(self) -> None:
        """End the process, which may have ended by itself."""
        if self.ended:
            with suppress(subprocess.TimeoutExpired):
                self._ended_by = -self._process.wait(1.0)
        self._process.kill()
        self._process.wait()
        self.requests.close()
        self.answers.close()
        os.close(self._lifeline)

    def _greet(self, line: bytes) -> None:
        if line != answer.READY:
            raise _no_start(f"they fail with {json.loads(line)['failed']}")
        self.ready_at = self.answered_at = time.monotonic()

    def _write(self, value: object) -> None:
        self.unsent += json.dumps(value).encode() + b"\n"
        self.flush()


def start_apart(module: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a module of ours that begins with `serve.settle`, with a pipe each way.

    Returns:
        The process, and the end of its lifeline that is to be closed when it is done with.
    """
    held, lifeline = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(held)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=_environment(),
        pass_fds=[held],
    )
    os.close(held)
    return process, lifeline


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    except OSError:
        return 0


def _environment() -> dict[str, str]:
    search = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}


def _no_start(why: str) -> ArchiveError:
    return ArchiveError(
        f"the processes that read files cannot start: {why}", remedy="run medvlp doctor"
    )
