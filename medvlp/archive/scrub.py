"""Known identifiers are taken out of texts: what a header names must not stand in the report."""

from __future__ import annotations

import re
from collections.abc import Iterable

REMOVED = "___"
"""What stands in a text where a known identifier stood."""

_SHORTEST = 3
"""Shorter words ("Li", "7") would mar the text more than they protect."""


def scrub(text: str, identifiers: Iterable[str]) -> str:
    """`text` with each identifier, as a whole word in any case, replaced by `REMOVED`."""
    lowered = text.lower()
    stripped = (identifier.strip() for identifier in identifiers)
    words = sorted(w for w in stripped if len(w) >= _SHORTEST and w.lower() in lowered)
    if not words:
        return text
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)"
    return re.sub(pattern, REMOVED, text, flags=re.IGNORECASE)
