"""Whether a series shows the part of the body that it ought to."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SAME = {"THORAX": "CHEST", "LUNG": "CHEST", "SKULL": "HEAD", "BRAIN": "HEAD"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a domain's `check_volume` may judge by; nothing is decoded for it."""

    shape: tuple[int, int, int]
    """(D, H, W)."""
    spacing_mm: tuple[float, float, float]
    """Along D, H and W."""
    counts: tuple[int, ...]
    """How many voxels lie between the edges of `hounsfield.HU_EDGES`."""
    body_part: str
    """As the header states it, else as the archive ought to show; may be empty."""


def shows(stated: str, part: str) -> bool:
    """Whether a stated body part is, or includes, `part`.

    >>> shows("CHEST_ABDOMEN", "THORAX"), shows("HEAD", "CHEST")
    (True, False)
    """
    return _plain(part) in _plain(stated)


def body_part_flags(expected: str, stated: str) -> tuple[str, ...]:
    """``body_part_mismatch`` where a header states another part than the archive ought to show.

    Args:
        expected: What it ought to show; empty if anything.
        stated: What the header says; empty says nothing.
    """
    if not expected or not stated or shows(stated, expected) or shows(expected, stated):
        return ()
    return ("body_part_mismatch",)


def _plain(part: str) -> str:
    letters = re.sub(r"[^A-Z]", "", part.upper())
    for word, meant in _SAME.items():
        letters = letters.replace(word, meant)
    return letters
