"""The reading stage: every item is read once, in a process that can be killed, and kept.

A source kind says how its items are read (`Reading`), and gets each item's result or verdict in
order. The ledger keeps them: what was read before and did not change is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from medvlp.archive import answer
from medvlp.archive.child import Children, Limits
from medvlp.archive.ledger import Ledger
from medvlp.archive.spool import Item as Item
from medvlp.archive.verdict import Verdict
from medvlp.digest import digest_plain
from medvlp.domain import Ref
from medvlp.progress import progress_bar

R = TypeVar("R")
T = TypeVar("T")

_WINDOW = 4096
"""Items that are read before the first of them is handed on."""
_BURST = 64
_BURST_S = 0.5
"""As many answers, or as few as come in this time, are stored at once."""


@dataclass(frozen=True, kw_only=True)
class Reading(Generic[R]):
    """How one kind's items are read."""

    read: Ref
    """``(paths, **settings) -> result``; raises `Verdict`. It runs in a process of its own."""

    result: type[R]
    """The dataclass that `read` returns; its fields cross as JSON."""

    version: int
    """Raised whenever the same bytes would be read otherwise."""

    limits: Limits = field(default_factory=Limits)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `read`, plain values."""

    @property
    def key(self) -> str:
        """Under which results are stored: reader, version, settings and form of the result."""
        form = answer.schema_of(self.result)
        return digest_plain([self.read.target, self.version, dict(self.settings), form])

    def parse(self, text: str) -> R | Verdict:
        """A stored answer as what it means."""
        return answer.parse(text, self.result)


class Engine(Protocol):
    """What carries readings out, here or on other machines."""

    def answers(self, reading: Reading[Any], items: Iterable[Item]) -> Iterator[tuple[Item, str]]:
        """Each item with its answer as a line of JSON, as they finish."""

    def close(self) -> None:
        """End all that was started."""


def read_items(
    ledger: Ledger,
    reading: Reading[R],
    items: Iterable[Item],
    *,
    workers: int,
    label: str,
) -> Iterator[tuple[Item, R | Verdict]]:
    """Each item with its result or verdict, in order; only what is not stored is read.

    Args:
        ledger: Keeps the results.
        reading: How to read.
        items: The items; they are iterated once, some thousands ahead of what is yielded.
        workers: Items read at a time.
        label: What the progress bar says; blank for none, inside other work that has one.
    """
    key = reading.key
    source = iter(items)
    engine: Engine = Children(workers)
    try:
        with progress_bar(hidden=not label) as bar:
            task = bar.add_task(label, total=len(items) if isinstance(items, Sized) else None)
            while window := list(islice(source, _WINDOW)):
                done = bar.tasks[task].completed
                for count in _fill(ledger, engine, reading, window):
                    bar.advance(task, count)
                bar.update(task, completed=done + len(window))
                for item, text in ledger.results(key, window):
                    yield item, reading.parse(text)
    finally:
        engine.close()


def _fill(ledger: Ledger, engine: Engine, reading: Reading[R], items: list[Item]) -> Iterator[int]:
    """Read and store what has no result yet, and tell how many in each burst."""
    key = reading.key
    read = True
    while read:  # until other processes have read what they claimed, or ended
        read = False
        for rows in _bursts(engine.answers(reading, ledger.pending(key, items))):
            ledger.store(key, rows)
            yield len(rows)
            read = True


def _bursts(rows: Iterable[T]) -> Iterator[list[T]]:
    """Rows in lists, so that each costs little to store and none waits long."""
    burst: list[T] = []
    first = time.monotonic()
    for row in rows:
        burst.append(row)
        if len(burst) == _BURST or time.monotonic() - first > _BURST_S:
            yield burst
            burst, first = [], time.monotonic()
    if burst:
        yield burst
