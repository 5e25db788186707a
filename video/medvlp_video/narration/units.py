"""Sentences to procedural units: steps, and phases made of steps.

Between two sentences a boundary is likely after a silence, before words that turn to something new
("the next step"), and where the talk's words change. The last is TextTiling's depth score (Hearst,
Computational Linguistics 23, 1997): how deep the similarity of the words on both sides lies below
its nearest peaks. The three are joined as independent evidence, 1 − (1−p)(1−m)(1−d).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medvlp_video.narration.lexicon import Lexicon
from medvlp_video.narration.sentences import Sentence
from medvlp_video.narration.settings import GroupingConfig, NarrationConfig
from medvlp_video.narration.speech import silences

Floats = NDArray[np.float64]
Vector = Mapping[str, float]

MOST = 0.8
"""What a silence, a marker or a change of words says at most, so that gaps with two stand out."""

_SHALLOW = 0.2
"""Depth above the cut-off below which the talk goes on about the same."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A step, or a phase, as places of sentences in order."""

    steps: tuple[tuple[int, ...], ...]
    """The sentences of each step; a step is its own only one."""

    @property
    def sentences(self) -> tuple[int, ...]:
        """All of its sentences."""
        return tuple(place for step in self.steps for place in step)


def phases_of(
    spoken: Sequence[Sentence], kept: Sequence[int], lexicon: Lexicon, config: NarrationConfig
) -> list[Unit]:
    """The phases of a talk, each with its steps.

    Args:
        spoken: All sentences in order of time: what is left out still fills silences, and may
            turn to something new.
        kept: Places of those that count; every one stands in one step.
        lexicon: Knows topics and markers.
        config: The limits.
    """
    if not kept:
        return []
    vectors = vectors_of([spoken[i].text for i in kept], lexicon)
    told_G = _told(spoken, kept, lexicon, config)
    step_G = joined(told_G, changed(depths(vectors, config.step.block)))
    phase_G = joined(told_G, changed(depths(vectors, config.phase.block)))
    spans = [(spoken[i].start_s, spoken[i].end_s) for i in kept]
    ends = boundaries(step_G, spans, config.step)
    turns = set(boundaries(phase_G, spans, config.phase, among=ends))
    phases: list[list[tuple[int, ...]]] = [[]]
    start = 0
    for end in (*ends, len(kept) - 1):
        phases[-1].append(tuple(kept[start : end + 1]))
        start = end + 1
        if end in turns:
            phases.append([])
    return [Unit(steps=tuple(steps)) for steps in phases]


def vectors_of(texts: Sequence[str], lexicon: Lexicon) -> list[Vector]:
    """Unit vectors of texts, stem by stem: counts weighted by log(1 + N/n), n texts of N having it.

    A text without a topic is the empty vector.
    """
    topics = [lexicon.topic(text) for text in texts]
    having = Counter(stem for topic in topics for stem in topic)
    rarity = {stem: math.log(1 + len(texts) / n) for stem, n in having.items()}
    return [_unit({stem: n * rarity[stem] for stem, n in topic.items()}) for topic in topics]


def cosine(one: Vector, other: Vector) -> float:
    """Of vectors of any length; 0 where one is empty."""
    small, large = sorted((one, other), key=len)
    product = math.fsum(value * large[stem] for stem, value in small.items() if stem in large)
    lengths = _length(one) * _length(other)
    return product / lengths if lengths else 0.0


def depths(vectors: Sequence[Vector], block: int) -> Floats:
    """(G,) TextTiling's depth of the gap behind each text but the last, from 0 to 2.

    Args:
        vectors: Of the texts in order.
        block: Texts on each side that are compared.
    """
    count = len(vectors) - 1
    near = [
        cosine(_sum(vectors[max(0, i + 1 - block) : i + 1]), _sum(vectors[i + 1 : i + 1 + block]))
        for i in range(count)
    ]
    left, right = _peaks(near), _peaks(near[::-1])[::-1]
    return np.array([a + b - 2 * s for a, b, s in zip(left, right, near, strict=True)])


def changed(depth_G: Floats) -> Floats:
    """(G,) what depths say: from nothing at Hearst's cut-off to `MOST` at the deepest.

    The cut-off is their mean less half their deviation: cosines of short sentences mean little by
    themselves. Where even the deepest is shallow, it says less.
    """
    if len(depth_G) == 0:
        return depth_G
    least = max(0.0, float(depth_G.mean() - depth_G.std() / 2))
    room = max(float(depth_G.max()) - least, _SHALLOW)
    return np.asarray(MOST * np.clip((depth_G - least) / room, 0, 1))


def joined(*evidence_G: Floats) -> Floats:
    """(G,) evidence that any one of several independent ones holds."""
    against_G = np.prod([1 - np.clip(one_G, 0, 1) for one_G in evidence_G], axis=0)
    return np.asarray(1 - against_G)


def boundaries(
    evidence_G: Floats,
    spans: Sequence[tuple[float, float]],
    config: GroupingConfig,
    among: Sequence[int] | None = None,
) -> list[int]:
    """The gaps at which units end, ascending.

    The strongest are taken first, and none that leaves too short a unit.

    Args:
        evidence_G: How likely each gap is a boundary.
        spans: Start and end of each of the G + 1 sentences, in seconds.
        config: What is enough, and what too short.
        among: The gaps that may be boundaries; by default all.
    """
    gaps = range(len(evidence_G)) if among is None else among
    strong = [g for g in gaps if evidence_G[g] >= config.least]
    chosen = [-1, len(spans) - 1]
    for gap in sorted(strong, key=lambda g: (-evidence_G[g], g)):
        place = bisect_left(chosen, gap)
        first, last = chosen[place - 1] + 1, chosen[place]
        before_s = spans[gap][1] - spans[first][0]
        after_s = spans[last][1] - spans[gap + 1][0]
        if min(before_s, after_s) >= config.shortest_s:
            insort(chosen, gap)
    return chosen[1:-1]


def _told(
    spoken: Sequence[Sentence], kept: Sequence[int], lexicon: Lexicon, config: NarrationConfig
) -> Floats:
    """(G,) what silences and markers say of the gap behind each kept sentence but the last."""
    between = list(pairwise(kept))
    if not between:
        return np.zeros(0)
    silent_s = silences([(s.start_s, s.end_s) for s in spoken])
    longest_s = np.array([max(silent_s[a:b]) for a, b in between])
    turns = [lexicon.turn(sentence.text) for sentence in spoken]
    turning = np.array([max(turns[a + 1 : b + 1]) for a, b in between])
    # In recordings with few words nearly every silence is long: only the longest say something.
    long_s = max(config.long_pause_s, float(np.quantile(longest_s, 0.9)))
    return joined(MOST * np.minimum(1, longest_s / long_s), MOST * turning)


def _peaks(near: Sequence[float]) -> list[float]:
    """The peak that is reached from each place by going back as long as it rises."""
    peaks: list[float] = []
    for i, value in enumerate(near):
        peaks.append(peaks[-1] if i and near[i - 1] >= value else value)
    return peaks


def _sum(vectors: Sequence[Vector]) -> Vector:
    total: dict[str, float] = {}
    for vector in vectors:
        for stem, value in vector.items():
            total[stem] = total.get(stem, 0.0) + value
    return total


def _unit(vector: Vector) -> Vector:
    length = _length(vector)
    return {stem: value / length for stem, value in vector.items()} if length else {}


def _length(vector: Vector) -> float:
    return math.sqrt(math.fsum(value * value for value in vector.values()))
