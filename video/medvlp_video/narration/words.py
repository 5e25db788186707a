"""Segments to words with times: sounds and hesitation taken out, times shared out where missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from medvlp_video.narration.lexicon import Lexicon
from medvlp_video.narration.speech import Segment, Word, mean_confidence

_BRACKETS = re.compile(r"\[[^\[\]]{0,60}\]|\(([^()]{0,60})\)|[♪♫♬]+")
_EDGE = re.compile(r"\A[^\w]+|[^\w]+\Z")


def words_of(segment: Segment, lexicon: Lexicon) -> list[Word]:
    """The words of a segment's text, in order of time.

    A word has the times of the recogniser's own words where those spell the same text, and a share
    of the segment by its length otherwise. What stands in square brackets, sounds in round ones,
    hesitation, and words said twice in a row are taken out.
    """
    tokens = [(match.start(), match.group()) for match in re.finditer(r"\S+", segment.text)]
    sounds = [
        match.span()
        for match in _BRACKETS.finditer(segment.text)
        if match[1] is None or _bare(match[1]) in lexicon.sounds
    ]
    timed = _timed(segment, [token for _, token in tokens])
    heard = [
        word
        for (at, token), word in zip(tokens, timed, strict=True)
        if not any(start < at + len(token) and at < end for start, end in sounds)
        and _bare(token) not in lexicon.fillers
    ]
    return list(_once(heard, lexicon))


def _bare(token: str) -> str:
    return _EDGE.sub("", token).lower()


def _once(words: Sequence[Word], lexicon: Lexicon) -> Iterator[Word]:
    """The words without those that stammering says twice."""
    before = ""
    for word in words:
        bare = _bare(word.text)
        again = bare == before and bare.isalpha() and bare not in lexicon.doubled
        # A stop between the two makes them two sentences; one behind the second must not be lost.
        if not (again and word.text.lower() == bare):
            yield word
        before = word.text.lower()


def _timed(segment: Segment, tokens: Sequence[str]) -> list[Word]:
    """The tokens with times within the segment that never run backwards."""
    ends = list(accumulate(map(len, tokens)))
    own = _own_times(segment, tokens, ends)
    length = segment.end_s - segment.start_s
    found: list[Word] = []
    reached_s = segment.start_s
    for token, end, known in zip(tokens, ends, own, strict=True):
        start_s = segment.start_s + length * (end - len(token)) / ends[-1]
        word = known or Word(token, start_s, segment.start_s + length * end / ends[-1])
        start_s = min(max(word.start_s, reached_s), segment.end_s)
        end_s = min(max(word.end_s, start_s), segment.end_s)
        confidence = segment.confidence if word.confidence is None else word.confidence
        found.append(Word(token, start_s, end_s, confidence))
        reached_s = start_s
    return found


def _own_times(
    segment: Segment, tokens: Sequence[str], ends: Sequence[int]
) -> list[Word] | list[None]:
    """For each token the recogniser's words that spell it, as one; None where they do not."""
    letters = "".join(tokens)
    spelt = ["".join(word.text.split()) for word in segment.words]
    if "".join(spelt) != letters or not all(map(_is_timed, segment.words)):
        return [None] * len(tokens)
    found = []
    place, reached = 0, 0
    for token, end in zip(tokens, ends, strict=True):
        start = end - len(token)
        # The first word that reaches into the token.
        while reached + len(spelt[place]) <= start:
            reached += len(spelt[place])
            place += 1
        last, until = place, reached + len(spelt[place])
        while until < end:
            last += 1
            until += len(spelt[last])
        parts = segment.words[place : last + 1]
        sure = mean_confidence(part.confidence for part in parts)
        found.append(Word(token, parts[0].start_s, parts[-1].end_s, sure))
    return found


def _is_timed(word: Word) -> bool:
    return math.isfinite(word.start_s) and math.isfinite(word.end_s)
