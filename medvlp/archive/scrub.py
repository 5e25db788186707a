"""Known identifiers are taken out of texts: what a header names must not stand in the report."""

from __future__ import annotations

import re
from collections.abc import Iterable

REMOVED = "___"
"""What stands in a text where a known identifier stood."""

_SHORTEST = 3
"""Shorter words ("Li", "7") would mar the text more than they protect."""


def identifier_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words as a whole word, in any case."""
    long = sorted({w.strip() for w in words if len(w.strip()) >= _SHORTEST}, key=len, reverse=True)
    if not long:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, long))})(?!\w)", re.IGNORECASE)
