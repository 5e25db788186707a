"""What can be said of a finding: that it is there, that it is not, that it may be, or nothing."""

from __future__ import annotations

from collections.abc import Collection

PRESENT, ABSENT, UNCERTAIN = 1, 0, -1

UNTOLD = -2
"""In dense arrays: nothing is said."""

BY_STRENGTH = (UNTOLD, ABSENT, UNCERTAIN, PRESENT)
"""From weak to strong: what is seen in one place is seen, and doubt outweighs denial."""


def strongest(values: Collection[int | None]) -> int | None:
    """The strongest of several values; None where none is told.

    >>> strongest([ABSENT, UNCERTAIN, None]), strongest([None])
    (-1, None)
    """
    return next((value for value in reversed(BY_STRENGTH[1:]) if value in values), None)
