"""Which of a sample's texts a run reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT

Level = Literal[
    "report", "section", "sentence", "procedure", "phase", "step", "clip"
]  # the words of `LEVELS`
Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlongPolicy:
    """Texts of the same recording that go along with a timed text, because their spans overlap its.

    They are what is said of its moments elsewhere: the clips within a phase, or what another
    speech recogniser heard. A text without a span is about the whole recording.
    """

    levels: Annotated[tuple[Level, ...], Field(min_length=1)]
    sources: tuple[str, ...] | None = None
    """As `TextPolicy.sources`."""

    n: Positive
    """How many of them a batch holds of each sample, in the order of time; absent texts where
    there are fewer."""

    choose: Literal["even", "random"] = "even"
    """Where there are more: those in the middle of `n` equal parts of all of them, or one of each
    part, drawn anew each epoch."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextPolicy:
    """Which of a sample's text nodes are trained on, and how they become a draw."""

    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = ("section", "sentence")
    sources: tuple[str, ...] | None = None
    """Text sources to use, a node's own or that of a node above it: ``impression`` means that
    section and its sentences; every source if not given."""

    choose: Literal["random", "first", "all", "join"] = "random"
    """``random``: `n` nodes, drawn anew each epoch; ``first``: the first in reading order; ``all``:
    every node up to `n`; ``join``: every node as one text in reading order."""

    n: Positive = 1
    """Texts of a sample in a batch."""

    along: AlongPolicy | None = None
    """Further texts behind a timed one, which itself comes first; with `n` 1 alone."""

    mark_sentences: bool = False
    """Whether a token ``[SEN]`` stands before each sentence of a text, and none at its end, for
    towers and objectives that tell sentences apart. The tokenizer gains the token, and the bundle
    reads all that it is given in the same way. `text.max_sentences` limits a text's sentences."""

    required: bool = True
    """Whether a sample without such a text is left out; otherwise it joins in with absent texts,
    for objectives that look at images alone."""

    def __post_init__(self) -> None:
        if self.n > 1 and self.choose in ("first", "join"):
            raise ValueError(f"n={self.n} needs choose random or all, not {self.choose}")
        if self.n > 1 and self.along is not None:
            raise ValueError(f"along: other texts go along with one text, not with n={self.n}")

    @property
    def total(self) -> int:
        """Texts of a sample in a batch with those that go along (N)."""
        return self.n + (0 if self.along is None else self.along.n)
