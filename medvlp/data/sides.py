"""Left and right in texts: a text as it would read of the mirror image, or that it has none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, validate
from medvlp.data.sentences import sentences
from medvlp.plain_files import read_yaml

_ENGLISH = Path(__file__).with_name("sides.yaml")
_ALONE = r"(?<![^\W_]){}(?![^\W_])"
_CLEAR = re.compile(r"(?<![-/.'’])(?<!\d\s)\b[^\W\d_]\b(?=\s+[^\W\d_])")
"""A letter that stands for a word: before a word, behind no number."""

Word = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Lists:
    pairs: Annotated[tuple[tuple[Word, Word], ...], Field(min_length=1)]
    letters: tuple[Annotated[str, Field(pattern=r"^[A-Z]$")], ...] = ()
    refuse: tuple[Word, ...] = ()
    refuse_with_side: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        if len(self.letters) not in (0, 2):
            raise ValueError("letters: give two, or none")


class SideWords:
    """The words of one language that name a side.

    Args:
        lists: As `sides.yaml` holds them.
    """

    def __init__(self, lists: _Lists) -> None:
        self._other = {a.casefold(): b for pair in lists.pairs for a, b in (pair, pair[::-1])}
        self._letter = dict(zip(lists.letters, lists.letters[::-1], strict=True))
        self._pairs = _any_of(list(self._other))
        self._letters = _any_of(lists.letters)
        self._refuse = _any_of(lists.refuse)
        self._with_side = _any_of(lists.refuse_with_side)

    def names_side(self, text: str) -> bool:
        """Whether a text names a side."""
        return bool(self._pairs.search(text) or self._letters.search(text))

    def swap(self, text: str) -> str | None:
        """The text with left and right exchanged; None where that cannot be done safely.

        >>> words = load_side_words()
        >>> words.swap("Small RIGHT effusion; the L lung is clear.")
        'Small LEFT effusion; the R lung is clear.'
        >>> words.swap("Right-sided aortic arch.") is None
        True
        """
        if self._refuse.search(text) or self._is_name(text) or self._is_unclear(text):
            return None
        swapped = self._pairs.sub(lambda found: _cased(self._other, found[0]), text)
        return _CLEAR.sub(lambda found: self._letter.get(found[0], found[0]), swapped)

    def _is_name(self, text: str) -> bool:
        """Whether a side is part of a name in one of the sentences."""
        if not self._with_side.search(text):
            return False
        parts = sentences(text) or [text]
        return any(self._with_side.search(part) and self.names_side(part) for part in parts)

    def _is_unclear(self, text: str) -> bool:
        clear = {found.start() for found in _CLEAR.finditer(text) if found[0] in self._letter}
        return any(found.start() not in clear for found in self._letters.finditer(text))


def load_side_words(path: Path | None = None) -> SideWords:
    """The words in a YAML file, by default the English ones.

    Raises:
        ConfigError: The file is unreadable or of another form.
    """
    return _load(path or _ENGLISH)


@cache
def _load(path: Path) -> SideWords:
    return SideWords(validate(_Lists, read_yaml(path), path.name))


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    if not words:
        return re.compile(r"(?!)")
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(_ALONE.format(f"(?:{'|'.join(map(_word, longest_first))})"), re.IGNORECASE)


def _word(word: str) -> str:
    parts = re.escape(word.removesuffix("*")).split(r"\ ")
    return r"[\s_-]+".join(parts) + (r"\w*" if word.endswith("*") else "")


def _cased(other: dict[str, str], found: str) -> str:
    swapped = other[found.casefold()]
    if found.isupper():
        return swapped.upper()
    return swapped.capitalize() if found[0].isupper() else swapped
