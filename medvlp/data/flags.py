"""Flags that carry numbers: what a reader must know of a sample and its files do not say.

``scale=1.0,-1024.0`` is the flag ``scale`` with two numbers. They decide what an array holds, so a
cached array is known by them as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

_MARK = "="


def flag_with(name: str, values: Iterable[float]) -> str:
    """A flag with finite numbers, of which none is rounded.

    >>> flag_with("scale", (1, -1024))
    'scale=1.0,-1024.0'
    """
    numbers = [float(value) for value in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"the flag {name} carries finite numbers, got {numbers}")
    return name + _MARK + ",".join(map(repr, numbers))


def values_of(name: str, flags: Iterable[str]) -> tuple[float, ...] | None:
    """The numbers of a flag; None where it is not among the flags.

    >>> values_of("scale", ["no_text", "scale=1.0,-1024.0"])
    (1.0, -1024.0)
    """
    found = next((flag for flag in flags if flag.startswith(name + _MARK)), None)
    if found is None:
        return None
    return tuple(float(number) for number in found.partition(_MARK)[2].split(","))


def with_values(flags: Iterable[str]) -> list[str]:
    """Those of the flags that carry numbers, sorted."""
    return sorted(flag for flag in flags if _MARK in flag)


def name_of(flag: str) -> str:
    """A flag without its numbers.

    >>> name_of("scale=1.0,-1024.0"), name_of("no_text")
    ('scale', 'no_text')
    """
    return flag.partition(_MARK)[0]
