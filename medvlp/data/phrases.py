"""Phrases that a word list names, found in text.

A phrase is words in any case, joined by blanks or hyphens. ``word*`` begins with `word`, ``a|b`` is
one of several, ``~`` stands for up to five words in between without a comma, and ``~~`` for up to
twelve of the same clause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from medvlp.errors import ConfigError

Span = tuple[int, int]
"""First character, and the one after the last."""

_JOINT = r"[\s/,(–-]+"
_GAPS = {
    "~": rf"(?:{_JOINT}[^\s;:,]+){{0,5}}?{_JOINT}",
    "~~": rf"(?:{_JOINT}[^\s;:]+){{0,12}}?{_JOINT}",
}


class Phrases:
    """Phrases as patterns over lower-case text, tried only where their longest word stands.

    Args:
        phrases: In the form above.

    Raises:
        ConfigError: One holds no word.
    """

    def __init__(self, phrases: Sequence[str]) -> None:
        self._patterns = [(_needle(phrase), _pattern(phrase)) for phrase in phrases]

    def find(self, text: str) -> Iterator[tuple[Span, ...]]:
        """Spans of the parts of each phrase found; one part where nothing may stand between."""
        for needle, pattern in self._patterns:
            if needle in text:
                for match in pattern.finditer(text):
                    yield tuple(match.span(i + 1) for i in range(pattern.groups))


def _pattern(phrase: str) -> re.Pattern[str]:
    pieces = [piece.strip() for piece in re.split(r"(~+)", phrase.lower())]
    if not all(pieces) or not set(pieces[1::2]) <= set(_GAPS):
        raise ConfigError(
            f"{phrase!r} is no phrase", remedy="see medvlp/data/phrases.py for the form"
        )
    spelled = [
        _GAPS[piece] if at % 2 else f"({_JOINT.join(map(_word, piece.split()))})"
        for at, piece in enumerate(pieces)
    ]
    return re.compile(rf"(?<!\w){''.join(spelled)}(?!\w)")


def _word(word: str) -> str:
    choices = (re.escape(w).replace(r"\*", r"\w*").replace(r"\-", _JOINT) for w in word.split("|"))
    return f"(?:{'|'.join(choices)})"


def _needle(phrase: str) -> str:
    """The longest piece of a phrase that every text with the phrase holds."""
    fixed = [word for word in re.split(r"[\s~-]+", phrase.lower()) if "|" not in word]
    return max((piece for word in fixed for piece in word.split("*")), key=len, default="")
