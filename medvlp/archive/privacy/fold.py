"""Text in small letters without diacritics, and where each letter came from."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_LETTERS = {
    "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i",
    "’": "'", "‘": "'", "ʼ": "'", "‐": "-", "‑": "-", "–": "-", "—": "-",
}  # fmt: skip


@dataclass(frozen=True)
class Folded:
    """Folded text; letter k of it is part of letter ``place[k]`` of the original."""

    text: str
    place: tuple[int, ...] | None
    """None where the places are the same."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where in the original the letters from `start` to before `end` are."""
        if self.place is None:
            return start, end
        return self.place[start], self.place[end - 1] + 1


def fold(text: str) -> Folded:
    """Fold a text.

    >>> fold("Jérôme Weiß").text
    'jerome weiss'
    """
    if text.isascii():
        return Folded(text.lower(), None)
    letters: list[str] = []
    place: list[int] = []
    for k, original in enumerate(text):
        plain = folded_letter(original)
        letters.append(plain)
        place += [k] * len(plain)
    return Folded("".join(letters), tuple(place))


def folded_letter(letter: str) -> str:
    """One letter folded; a combining mark becomes nothing."""
    parts = unicodedata.normalize("NFKD", letter.lower())
    return "".join(_LETTERS.get(p, p) for p in parts if not unicodedata.combining(p))
