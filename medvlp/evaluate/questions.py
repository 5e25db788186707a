"""What a grounding task asks of an image: where is this, in which words?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.data.items import Item
from medvlp.data.manifest import Manifest
from medvlp.evaluate.masks import Regions
from medvlp.evaluate.predict import Scorer

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One name in one image; several regions of that name are one truth."""

    item: Item
    name: str
    texts: tuple[str, ...]
    """The words that say it; the mean of their embeddings asks."""


def ask_by_prompts(
    items: Sequence[Item], regions: Regions, texts: Mapping[str, tuple[str, ...]]
) -> list[Question]:
    """A question for every name that is drawn in an item.

    Args:
        items: The images.
        regions: Where names are drawn.
        texts: Name -> its prompts.
    """
    return [
        Question(item=item, name=name, texts=texts[name])
        for item in items
        for name, drawn in zip(regions.names, regions.drawn(item.sample), strict=True)
        if drawn
    ]


def ask_by_phrases(
    items: Sequence[Item], regions: Regions, manifests: Sequence[Manifest]
) -> tuple[list[Question], int]:
    """A question for every drawn name in the image's own words, and how many have none.

    The words are the text nodes that the table of entities names for the observation of the
    region's name, where it is present.
    """
    phrases = _phrases(manifests)
    asked = ask_by_prompts(items, regions, dict.fromkeys(regions.names, ()))
    told = [
        Question(item=q.item, name=q.name, texts=phrases[q.item.sample, q.name])
        for q in asked
        if (q.item.sample, q.name) in phrases
    ]
    return told, len(asked) - len(told)


def _phrases(manifests: Sequence[Manifest]) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], list[str]] = {}
    for manifest in manifests:
        present = manifest.entities.filter(pl.col("presence") == 1)
        rows = present.join(manifest.texts, on=["sample", "node"], how="inner")
        ordered = rows.sort("sample", "observation", "order", "node")
        for row in ordered.iter_rows(named=True):
            found.setdefault((row["sample"], row["observation"]), []).append(row["text"])
    return {key: tuple(dict.fromkeys(texts)) for key, texts in found.items()}


def embed_questions(scorer: Scorer, questions: Sequence[Question]) -> list[Floats]:
    """A unit vector (E,) a question: the renormalised mean of its texts' embeddings."""
    known: dict[tuple[str, ...], Floats] = {}
    for question in questions:
        if question.texts not in known:
            mean_E = scorer.bundle.embed_text(question.texts).mean(axis=0)
            known[question.texts] = mean_E / max(float(np.linalg.norm(mean_E)), 1e-12)
    return [known[question.texts] for question in questions]
