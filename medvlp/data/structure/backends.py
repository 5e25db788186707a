"""Who reads sentences: anything that turns them into triples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from medvlp.data.structure.extract import Extractor, Triple
from medvlp.progress import track


class Backend(Protocol):
    """Reads sentences of one domain."""

    source: str
    """What the rows that it makes carry as their source."""

    dropped: int
    """Answers that could not be used."""

    def read(self, sentences: Sequence[str]) -> list[tuple[Triple, ...]]:
        """The triples of each sentence."""


class Rules:
    """Our rules (`medvlp.data.structure.extract`)."""

    source = "rules"
    dropped = 0

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor

    def read(self, sentences: Sequence[str]) -> list[tuple[Triple, ...]]:
        """The triples of each sentence."""
        return [self._extractor.sentence(text) for text in track(sentences, "Reading sentences")]
