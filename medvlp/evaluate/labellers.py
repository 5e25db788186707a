"""Who finds the findings in a text: our rules, or CheXbert from the user's own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medvlp.data.findings import Findings, side
from medvlp.data.presence import PRESENT
from medvlp.models.chexbert import CheXbert, load_chexbert
from medvlp.progress import track


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a text says."""

    labels: Mapping[str, int | None]
    """Finding -> 1 present, 0 absent, -1 uncertain, None not mentioned."""

    sides: Mapping[str, str | None]
    """Finding that is present -> left, right, both, or None where no side is told."""


class Labeller(Protocol):
    """Reads texts."""

    names: tuple[str, ...]
    """The findings that it knows."""

    def read(self, texts: Sequence[str]) -> list[Read]:
        """What each text says."""


class Rules:
    """Our rules (`medvlp.data.findings`)."""

    def __init__(self, findings: Findings) -> None:
        self.names = findings.names
        self._findings = findings

    def read(self, texts: Sequence[str]) -> list[Read]:
        """What each text says."""
        return [self._read(text) for text in track(texts, "findings in texts")]

    def _read(self, text: str) -> Read:
        labels = self._findings.label(text)
        mentions = self._findings.mentions(text)
        sides = {name: side(name, mentions) for name, v in labels.items() if v == PRESENT}
        return Read(labels=labels, sides=sides)


class ByCheXbert:
    """CheXbert, which tells no sides.

    Args:
        folder: See `medvlp.models.chexbert.load_chexbert`.

    Raises:
        ConfigError: The folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._model: CheXbert = load_chexbert(folder)
        self.names = self._model.names

    def read(self, texts: Sequence[str]) -> list[Read]:
        """What each text says."""
        return [Read(labels=labels, sides={}) for labels in self._model.label(texts)]
