"""The kinds of published weights, by the word after ``--as``."""

from __future__ import annotations

from medvlp.domain import domains
from medvlp.errors import ConfigError
from medvlp.models.imports import (
    biovil,
    chexzero,
    clip,
    cxr_clip,
    gloria,
    medclip,
    medklip,
    mgca,
    open_clip,
    siglip,
)
from medvlp.models.imports.recipe import Kind

KINDS: dict[str, Kind] = {
    "biovil": biovil.KIND,
    "chexzero": chexzero.KIND,
    "clip": clip.KIND,
    "cxr-clip": cxr_clip.KIND,
    "gloria": gloria.KIND,
    "medclip": medclip.KIND,
    "medklip": medklip.KIND,
    "mgca": mgca.KIND,
    "open-clip": open_clip.KIND,
    "siglip": siglip.KIND,
}
"""The core's, for chest X-rays."""


def kind_of(word: str) -> Kind:
    """The kind of a word, the core's or an installed domain's.

    Raises:
        ConfigError: There is none.
    """
    brought = {name: ref for domain in domains().values() for name, ref in domain.imports.items()}
    if word in KINDS:
        return KINDS[word]
    if word not in brought:
        raise ConfigError(
            f"import: kind {word[:40]!r} is not known",
            remedy=f"choose from: {', '.join(sorted([*KINDS, *brought]))}",
        )
    found: Kind = brought[word].load()
    return found
