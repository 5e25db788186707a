"""What an import of one kind amounts to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from medvlp.models.imports.answer import PICTURE, Known
from medvlp.models.imports.keys import Rule, Weights
from medvlp.models.imports.source import Source
from medvlp.models.imports.words import Rewriting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A source's tensors, and how a bundle is made of them."""

    weights: Weights
    rules: tuple[Rule, ...]
    own: tuple[str, ...] = ("logit_bias",)
    """Weights of the model that the source may lack: they keep their initial value."""

    preprocess: dict[str, Any]
    """The preprocessing contract, in plain values; each of them can be overridden."""

    image: dict[str, Any]
    text: dict[str, Any]
    model: dict[str, Any]
    texts: Rewriting = "plain"
    """What is done to texts before they are cut into tokens."""

    notes: tuple[str, ...] = field(default=())
    """What the user should know of it."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of published model."""

    title: str
    read: Callable[[Source], Recipe]
    licence: str
    """Where the published weights' licence restricts their use, as far as it is known to us."""

    domain: str = "cxr"
    """Whose images it is for."""

    known: Known = PICTURE
    """The image whose embedding tells whether the import does what the original does."""
