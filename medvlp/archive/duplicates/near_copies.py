"""Pairs of near copies among many pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.duplicates.alignment import agreement
from medvlp.archive.duplicates.fingerprint import picture
from medvlp.archive.duplicates.landmarks import Index
from medvlp.progress import track

COPY = 0.62
"""A pair that agrees at least so well is reported. `benchmarks/bench_duplicates.py` measures how
often copies reach it and others do."""

_CANDIDATES = 10
_CHUNK = 64


class Pair(NamedTuple):
    """Two places in a list of fingerprints, and how well their pictures agree, 0 to 1."""

    one: int
    other: int
    score: float


def near_copies(fingerprints: Sequence[str], *, workers: int = 1) -> list[Pair]:
    """Every pair of near copies that is found, each once, in order.

    Equal fingerprints are joined with the first of their kind only, so that a thousand copies of
    one image make a thousand pairs and not half a million.

    Args:
        fingerprints: As `fingerprint.fingerprint` makes them; empty ones pair with nothing.
        workers: Threads.
    """
    first: dict[str, int] = {}
    pairs, shown, pictures = [], [], []
    for place, text in enumerate(fingerprints):
        if text in first:
            pairs.append(Pair(first[text], place, 1.0))
        elif (found := picture(text)) is not None:
            first[text] = place
            shown.append(place)
            pictures.append(found)
    if len(pictures) > 1:
        stacked = np.stack(pictures)
        pairs += [Pair(shown[a], shown[b], s) for a, b, s in _among(stacked, workers)]
    return sorted(pairs)


def copies_of(index: Index, start: int, stop: int, least: float = COPY) -> list[Pair]:
    """The near copies of the pictures from `start` to `stop` among all in an index.

    Whether a pair is found may depend on which of the two is looked up; where both are, it may
    come twice.

    Args:
        index: Of all pictures.
        start: First place of those looked up.
        stop: One after the last.
        least: Score from which a pair is told.
    """
    asked = list(index.candidates(start, stop, _CANDIDATES))
    scores = agreement(index.pictures, asked)
    return [
        Pair(min(c.query, c.base), max(c.query, c.base), float(score))
        for c, score in zip(asked, scores, strict=True)
        if score >= least
    ]


def _among(pictures: NDArray[np.uint8], workers: int) -> Iterator[Pair]:
    index = Index(pictures)
    best: dict[tuple[int, int], float] = {}

    def look(start: int) -> list[Pair]:
        return copies_of(index, start, min(start + _CHUNK, len(pictures)))

    starts = range(0, len(pictures), _CHUNK)
    with ThreadPoolExecutor(workers) as pool:
        for found in track(pool.map(look, starts), "Looking for copies", total=len(starts)):
            for one, other, score in found:
                best[one, other] = max(score, best.get((one, other), 0.0))
    for (one, other), score in best.items():
        yield Pair(one, other, score)
