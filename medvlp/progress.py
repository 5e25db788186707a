"""One progress bar for everything that takes longer than two seconds; it writes to stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def tell(line: str) -> None:
    """Tell the user something that ends no command: one line on stderr."""
    Console(stderr=True, soft_wrap=True).print(f"medvlp: {line}", highlight=False, markup=False)


def progress_bar(*, hidden: bool = False) -> Progress:
    """A bar with count, elapsed time and time to go; silent where stderr is not a terminal.

    Args:
        hidden: Show none, for work inside other work that has one.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=hidden or not console.is_terminal,
        transient=True,
    )


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while a bar shows how far the work is."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar() as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            yield item
            bar.advance(task)
