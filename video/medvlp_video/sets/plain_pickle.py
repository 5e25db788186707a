"""Plain values from a pickle that anybody may have written; nothing in it is run or imported.

A pickle is a program for a small machine. The interpreter here knows the instructions that build
dictionaries, lists, tuples, words and numbers, and no others: it has no way to name a class or call
a function, and stops at the first instruction that would.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medvlp.archive.verdict import Reject

LARGEST = 1 << 26
"""Bytes."""

MOST_STEPS = 20_000_000

_VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
})  # fmt: skip
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")
_SILENT = ("PROTO", "FRAME")


def read_plain_pickle(path: Path) -> Any:
    """The value in a pickle.

    Containers may hold each other, or themselves; whoever walks through them minds how far.

    Raises:
        Reject: ``pickled_code``: it names anything but plain values; ``bad_labels``: it is damaged
            or none; ``text_too_large``; ``unreadable``.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise Reject("text_too_large", f"{path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError:
        raise Reject("unreadable") from None
    try:
        return _Machine().run(pickletools.genops(data))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise Reject("bad_labels", f"no sound pickle: {type(error).__name__}") from None


class _Machine:
    """A stack, the places of marks on it, and the memo."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, steps: Iterator[tuple[Any, Any, Any]]) -> Any:
        for count, (code, argument, _) in enumerate(steps):
            if count > MOST_STEPS:
                raise Reject("text_too_large", f"more than {MOST_STEPS:,} steps")
            if code.name == "STOP":
                (value,) = self._stack
                return value
            self._step(code.name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _FIXED:
            self._stack.append(_FIXED[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _PUT or name in _GET:
            self._remember(name, argument)
        elif name not in _SILENT:
            self._build(name)

    def _remember(self, name: str, argument: Any) -> None:
        if name in _GET:
            self._stack.append(self._memo[int(argument)])
        else:
            place = len(self._memo) if name == "MEMOIZE" else int(argument)
            self._memo[place] = self._stack[-1]

    def _build(self, name: str) -> None:
        match name:
            case "MARK":
                self._marks.append(len(self._stack))
            case "POP":
                self._stack.pop()
            case "POP_MARK":
                self._above_mark()
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS":
                self._fill(name)
            case _:
                self._make(name)

    def _fill(self, name: str) -> None:
        count = {"APPEND": 1, "SETITEM": 2}.get(name)
        values = self._above_mark() if count is None else self._top(count)
        target = self._stack[-1]
        if name.startswith("APPEND"):
            _plain(target, list).extend(values)
        else:
            _plain(target, dict).update(zip(values[::2], values[1::2], strict=True))

    def _make(self, name: str) -> None:
        if name in _TUPLES:
            self._stack.append(tuple(self._top(_TUPLES[name])))
        elif name == "TUPLE":
            self._stack.append(tuple(self._above_mark()))
        elif name == "LIST":
            self._stack.append(self._above_mark())
        elif name == "DICT":
            values = self._above_mark()
            self._stack.append(dict(zip(values[::2], values[1::2], strict=True)))
        else:
            raise Reject("pickled_code", f"the instruction {name}")

    def _above_mark(self) -> list[Any]:
        place = self._marks.pop()
        values = self._stack[place:]
        del self._stack[place:]
        return values

    def _top(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError(count)
        values = self._stack[-count:]
        del self._stack[-count:]
        return values


def _plain(target: Any, kind: type) -> Any:
    if type(target) is not kind:
        raise TypeError(kind)
    return target
