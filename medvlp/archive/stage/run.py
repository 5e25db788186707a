"""The reading stage: every item is read once, in a process that can be killed, and kept.

A source kind says how its items are read (`Reading`), and gets each item's result or verdict in
order. The ledger keeps them: what was read before and did not change is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from medvlp.archive.options import EngineName
from medvlp.archive.stage.child import Children
from medvlp.archive.stage.ledger import Ledger
from medvlp.archive.stage.reading import Item, Reading
from medvlp.archive.verdict import Verdict
from medvlp.progress import progress_bar

R = TypeVar("R")
T = TypeVar("T")

_BURST = 64
_BURST_S = 0.5
"""As many answers, or as few as come in this time, are stored at once."""


class Engine(Protocol):
    """What carries readings out, here or on other machines."""

    def answers(self, reading: Reading[Any], items: Iterable[Item]) -> Iterator[tuple[Item, str]]:
        """Each item with its answer as a line of JSON, as they finish."""

    def close(self) -> None:
        """End all that was started."""


def read_items(
    ledger: Ledger,
    reading: Reading[R],
    items: Collection[Item],
    *,
    workers: int,
    label: str,
    engine: EngineName = "local",
    refuse: Callable[[Item, str], Verdict | None] = lambda item, text: None,
) -> Iterator[tuple[Item, R | Verdict]]:
    """Each item with its result or verdict, in order; only what is not stored is read.

    All are read before the first is yielded, so that processes share the whole of the work.

    Args:
        ledger: Keeps the results.
        reading: How to read.
        items: The items; they are gone through several times.
        workers: Items read at a time.
        label: What the progress bar says; blank for none, inside other work that has one.
        engine: Whether items are read on this machine or through Ray.
        refuse: Given an item and the text of its result, may put a verdict in its place.
    """
    carries_out = _engine(engine, workers)
    try:
        with progress_bar(hidden=not label) as bar:
            task = bar.add_task(label, total=len(items))
            for count in _fill(ledger, carries_out, reading, items):
                bar.advance(task, count)
    finally:
        carries_out.close()
    for item, text in ledger.results(reading.key, items):
        yield item, refuse(item, text) or reading.parse(text)


def _engine(name: EngineName, workers: int) -> Engine:
    if name == "local":
        return Children(workers)
    from medvlp.archive.stage.cluster import Cluster

    return Cluster(workers)


def _fill(
    ledger: Ledger, engine: Engine, reading: Reading[R], items: Collection[Item]
) -> Iterator[int]:
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
