"""Which of an item's texts a draw takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from medvlp.data.text_nodes import TextNode
from medvlp.data.text_policy import AlongPolicy, TextPolicy


def choose_texts(
    nodes: Sequence[TextNode], policy: TextPolicy, rng: np.random.Generator
) -> list[TextNode]:
    """An item's texts for one draw, at most `policy.n`; joined ones take the first's level."""
    nodes = list(nodes)
    if policy.choose == "random":
        drawn = rng.permutation(len(nodes))[: policy.n]
        return [nodes[i] for i in drawn]
    if policy.choose == "join":
        # A blank line parts sentences, also those without a full stop.
        return [_join(nodes, "\n\n" if policy.mark_sentences else " ")] if nodes else []
    return nodes[: policy.n]


def spread(
    nodes: Sequence[TextNode], policy: AlongPolicy, rng: np.random.Generator
) -> list[TextNode]:
    """At most `policy.n` texts in the order given, one from each of `n` equal parts if more."""
    count, n = len(nodes), policy.n
    if count <= n:
        return list(nodes)
    edges = [i * count // n for i in range(n + 1)]
    if policy.choose == "even":
        return [nodes[(a + b - 1) // 2] for a, b in itertools.pairwise(edges)]
    return [nodes[i] for i in rng.integers(edges[:-1], edges[1:]).tolist()]


def confidence(node: TextNode) -> float:
    """What a text's source says of its words; 1 where it says nothing."""
    return 1.0 if node.confidence is None else node.confidence


def _join(nodes: Sequence[TextNode], between: str) -> TextNode:
    first = nodes[0]
    return TextNode(
        node=first.node,
        level=first.level,
        source=first.source,
        text=between.join(node.text.strip() for node in nodes),
        start_s=first.start_s,
        end_s=first.end_s,
        confidence=float(np.mean([confidence(node) for node in nodes])),
    )
