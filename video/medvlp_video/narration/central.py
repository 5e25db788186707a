"""The sentence that stands for a unit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from medvlp_video.narration.units import Vector


def most_central(vectors: Sequence[Vector], scores: Sequence[float]) -> int:
    """The place of the sentence with the highest product of centrality and surgical score.

    Centrality is the mean cosine with the unit's other sentences (degree centrality of LexRank,
    Erkan and Radev, JAIR 22, 2004). Where it is nothing, as in a unit of one sentence or of
    sentences without a word in common, the most surgical one is taken, and of equals the first.

    Args:
        vectors: Unit vectors of the unit's sentences.
        scores: How surgical each is.
    """
    total: Counter[str] = Counter()
    for vector in vectors:
        total.update(vector)
    others = max(1, len(vectors) - 1)
    best = []
    for vector, score in zip(vectors, scores, strict=True):
        with_all = math.fsum(value * total[stem] for stem, value in vector.items())
        near = max(0.0, with_all - math.fsum(v * v for v in vector.values())) / others
        best.append((round(near * score, 9), score))
    return max(range(len(best)), key=lambda i: (*best[i], -i))
