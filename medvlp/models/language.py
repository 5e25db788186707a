"""A tokenizer as one who writes needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvlp.data.tokenizer import panics_named, token_ids
from medvlp.errors import BundleError


class Language:
    """Texts as sequences for a decoder, and back.

    A report is begin, words, end; an answer stands behind its question: begin, question, end,
    answer, end.

    Args:
        tokenizer: The tokenizer.
        max_tokens: Longest sequence.
        whose: For the message.

    Raises:
        BundleError: The tokenizer marks no beginning and end of a text.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, whose: str = "bundle") -> None:
        ids = token_ids(tokenizer)
        if ids.begin is None or ids.end is None:
            raise BundleError(
                f"{whose}: its tokenizer marks no beginning and end of a text",
                remedy="train with a tokenizer that has [CLS] and [SEP], such as our own",
            )
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self.begin, self.end = ids.begin, ids.end
        self.size = ids.count
        self.forbidden = sorted(set(ids.special) - {self.end})
        """What stands for no word is never written."""

    def start(self, question: str | None = None, opening: str = "") -> tuple[int, ...]:
        """What is given before a text: at most three quarters of the longest sequence.

        Args:
            question: What is answered, if anything.
            opening: The text's own first words.
        """
        room = 3 * self._max_tokens // 4
        opened = self._ids(opening)[: room - 1]
        if question is None:
            return self.begin, *opened
        asked = self._ids(question)[: max(room - 2 - len(opened), 0)]
        return (self.begin, *asked, self.end, *opened)

    def after(self, start: Sequence[int], text: str) -> tuple[int, ...]:
        """A start and the whole text behind it, cut where there is no more room."""
        room = self._max_tokens - len(start) - 1
        return (*start, *self._ids(text)[: max(room, 0)], self.end)

    def text(self, ids: Sequence[int]) -> str:
        """The words of token ids."""
        decoded: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return " ".join(decoded.split())

    def _ids(self, text: str) -> list[int]:
        with panics_named():
            ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
