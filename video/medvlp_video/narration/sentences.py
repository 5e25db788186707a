"""Words to sentences with times: by punctuation where there is some, and by pauses."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from medvlp.data.sentences import sentences
from medvlp_video.narration.lexicon import Lexicon
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.speech import Dropped, Segment, Word, mean_confidence
from medvlp_video.narration.words import words_of

_STOP = re.compile(r"[.!?]\W*\Z")
_WORDS_A_STOP = 50
"""A transcript with fewer stops than one in so many words is taken to have no punctuation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A sentence and when it was said."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None
    """Mean over its words, where the recogniser tells."""


def sentences_of(
    segments: Sequence[Segment], lexicon: Lexicon, config: NarrationConfig
) -> tuple[list[Sentence], list[Dropped]]:
    """The sentences of a transcript in order of time, and the segments without a word.

    With punctuation, sentences end where `medvlp.data.sentences` ends them, across segments, and
    at silences of `longest_pause_s`. Without, they end at the end of a segment and at silences of
    `pause_s`. One with more than `most_words` is divided at its longest silence, again and again.

    Args:
        segments: In order of time.
        lexicon: Knows hesitation and sounds.
        config: The limits.
    """
    heard = [(segment, words_of(segment, lexicon)) for segment in segments]
    dropped = [
        Dropped(start_s=s.start_s, end_s=s.end_s, reason="no_words", text=s.text)
        for s, words in heard
        if not words
    ]
    spoken = [words for _, words in heard if words]
    stops = sum(bool(_STOP.search(word.text)) for words in spoken for word in words)
    punctuated = stops * _WORDS_A_STOP >= sum(map(len, spoken)) > 0
    stretches = [[word for words in spoken for word in words]] if punctuated else spoken
    pause_s = config.longest_pause_s if punctuated else config.pause_s
    found = [
        part
        for stretch in stretches
        for block in _at_pauses(stretch, pause_s)
        for sentence in _split(block)
        for part in _short(sentence, config.most_words)
    ]
    return [_sentence(words) for words in found], dropped


def _at_pauses(words: Sequence[Word], pause_s: float) -> Iterator[list[Word]]:
    block: list[Word] = []
    for word in words:
        if block and word.start_s - block[-1].end_s >= pause_s:
            yield block
            block = []
        block.append(word)
    if block:
        yield block


def _split(words: Sequence[Word]) -> Iterator[list[Word]]:
    """The words of each sentence; one in which a sentence ends is cut there."""
    starts = list(accumulate((len(word.text) + 1 for word in words), initial=0))
    block = " ".join(word.text for word in words)
    end = 0
    for sentence in sentences(block):
        start = block.index(sentence, end)
        end = start + len(sentence)
        inside = []
        for place in range(bisect_right(starts, start) - 1, bisect_left(starts, end)):
            word = words[place]
            text = block[max(start, starts[place]) : min(end, starts[place] + len(word.text))]
            inside.append(Word(text, word.start_s, word.end_s, word.confidence))
        yield inside


def _short(words: list[Word], most: int) -> Iterator[list[Word]]:
    """The words in parts of at most `most`, divided at the longest silence of the middle half."""
    waiting = [words]
    while waiting:
        part = waiting.pop()
        if len(part) <= most:
            yield part
            continue
        places = range(max(1, len(part) // 4), max(2, 3 * len(part) // 4 + 1))
        silent_s = [round(part[i].start_s - part[i - 1].end_s, 3) for i in places]
        # Where no silence stands out, the place nearest the middle.
        best = max(
            zip(silent_s, places, strict=True), key=lambda at: (at[0], -abs(2 * at[1] - len(part)))
        )[1]
        waiting += [part[best:], part[:best]]


def _sentence(words: Sequence[Word]) -> Sentence:
    return Sentence(
        text=" ".join(word.text for word in words),
        start_s=words[0].start_s,
        end_s=max(word.end_s for word in words),
        confidence=mean_confidence(word.confidence for word in words),
    )
