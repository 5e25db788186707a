"""Prompts that others have published: known by hash, taken from the user's own copy.

Their sentences are not ours to pass on. A protocol names the file and its SHA-256 and asks with
words of our own until the user says where their copy lies; a copy of another content is refused.
"""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.data.randomness import generator
from medvlp.digest import digest_bytes
from medvlp.errors import ConfigError
from medvlp.plain_files import read_text

LARGEST = 1 << 20
"""Bytes that such a file may have."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishedPrompts:
    """A published prompt file and how it is read."""

    source: str
    """Where it was published, for people."""

    sha256: Sha256
    layout: Literal["lines", "python-dict"]
    """``lines``: one prompt a line, in the order of `labels`. ``python-dict``: a Python file in
    which `variable` is a literal dictionary ``{class: {part: [words]}}``; a prompt is one word of
    each part, in order, and `labels` may leave classes out."""

    labels: tuple[str, ...]
    """Label of each line, or the classes taken from the dictionary."""

    variable: str | None = None
    draws: Annotated[int, Field(ge=1)] | None = None
    """How many combinations of a class are drawn, once and for all; all of them if not given."""

    path: Path | None = None
    """The user's copy; without it the protocol's own prompts are used."""

    def __post_init__(self) -> None:
        if (self.layout == "python-dict") != (self.variable is not None):
            raise ValueError("variable goes with layout python-dict")


def read_published(published: PublishedPrompts, base: Path) -> PromptSet:
    """The exclusive prompt set in the user's copy.

    Args:
        published: Which file it must be.
        base: Where a relative path begins.

    Raises:
        ConfigError: The file has another content, or does not hold what it should.
        ValueError: No copy is named.
    """
    if published.path is None:
        raise ValueError("no copy is named")
    text = read_text(base / published.path, LARGEST, what="text")
    if digest_bytes(text.encode()) != published.sha256:
        raise ConfigError(
            f"task.published: {published.path.name} is not {published.source}: its SHA-256 differs",
            remedy="take the file as it was published, unchanged",
        )
    try:
        read = _lines if published.layout == "lines" else _combined
        found = {name: Prompts(positive=texts) for name, texts in read(published, text).items()}
        return PromptSet(mode="exclusive", labels=found)
    except (KeyError, ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"task.published: {published.path.name} does not hold the prompts of "
            f"{', '.join(published.labels)}",
            remedy="correct task.published.layout, labels or variable",
        ) from error


def _lines(published: PublishedPrompts, text: str) -> dict[str, tuple[str, ...]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {name: (line,) for name, line in zip(published.labels, lines, strict=True)}


def _combined(published: PublishedPrompts, text: str) -> dict[str, tuple[str, ...]]:
    classes = _literal(text, str(published.variable))
    return {name: _prompts(published, name, classes[name]) for name in published.labels}


def _prompts(published: PublishedPrompts, name: str, parts: Any) -> tuple[str, ...]:
    combined = [" ".join(" ".join(words).split()) for words in product(*parts.values())]
    distinct = list(dict.fromkeys(combined))
    if published.draws is None or published.draws >= len(distinct):
        return tuple(distinct)
    rng = generator(0, 0, name, "published prompts")
    chosen = sorted(rng.permutation(len(distinct))[: published.draws])
    return tuple(distinct[i] for i in chosen)


def _literal(text: str, variable: str) -> Any:
    """The literal that a Python file assigns to a name; none of the file is run."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == variable for target in node.targets
        ):
            return ast.literal_eval(node.value)
    raise KeyError(variable)
