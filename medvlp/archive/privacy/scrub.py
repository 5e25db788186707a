"""Reports are scrubbed: of what their own header names, then of what identifies by its form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from medvlp.archive.privacy.identifiers import Identifiers, merged
from medvlp.archive.privacy.phi_patterns import find_patterns

REMOVED = "___"
"""What stands in a text where something was taken out."""

OVER_89 = "90+"
"""What stands where an age above 89 stood."""


@dataclass(frozen=True)
class Scrubbed:
    """A text without identifiers, and how many were taken out of each category."""

    text: str
    counts: Counter[str]


def scrub(text: str, identifiers: Iterable[str] = (), *, patterns: bool = True) -> Scrubbed:
    """Take identifiers out of a text.

    Args:
        text: The text.
        identifiers: What the text's own header (or table row) names, raw: persons in DICOM's
            writing (``Family^Given``), dates, numbers, words and phrases. Each is found in any
            case, with or without diacritics and separators, dates in any common writing.
        patterns: Whether to look for identifiers by their form, too: dates, telephone numbers,
            addresses, numbers behind words such as MRN, names behind titles, signatures, ages
            above 89.

    >>> scrub("Mr. Meier, 93-year-old: mass of 3.5 cm.", ["Meier^Jo"]).text
    'Mr. ___, 90+-year-old: mass of 3.5 cm.'
    """
    raw = frozenset(identifiers)
    spans = Identifiers.of(raw).find(text) if raw else []
    if patterns:
        spans += find_patterns(text)
    if not spans:
        return Scrubbed(text, Counter())
    parts: list[str] = []
    counts: Counter[str] = Counter()
    at = 0
    for start, end, category in merged(spans):
        parts += [text[at:start], OVER_89 if category == "age" else REMOVED]
        counts[category] += 1
        at = end
    return Scrubbed("".join((*parts, text[at:])), counts)
