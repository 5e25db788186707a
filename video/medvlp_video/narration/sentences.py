"""Words to sentences with times: by punctuation where there is some, and by pauses."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from medvlp.data.sentences import sentences
from medvlp_video.narration.lexicon import Lexicon
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.speech import Dropped, Segment, Word, mean_confidence
from medvlp_video.narration.words import words_of

_STOP = re.compile(r"[.!?]\W*\Z")
_ABUTS_S = 0.05
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
    at silences of `longest_pause_s`. Without, they end at the end of a segment, unless its last
    word cannot end one, and at silences of `pause_s`. One with more than `most_words` is divided at
    its longest silence, again and again.

    Args:
        segments: In order of time.
        lexicon: Knows hesitation and sounds.
        config: The limits.
    """
    heard = [(segment, words_of(segment, lexicon)) for segment in _less_silence(segments, config)]
    dropped = [
        Dropped(start_s=s.start_s, end_s=s.end_s, reason="no_words", text=s.text)
        for s, words in heard
        if not words
    ]
    spoken = [words for _, words in heard if words]
    stops = sum(bool(_STOP.search(word.text)) for words in spoken for word in words)
    punctuated = stops * _WORDS_A_STOP >= sum(map(len, spoken)) > 0
    if punctuated:
        pause_s, stretches = config.longest_pause_s, [[w for words in spoken for w in words]]
    else:
        pause_s, stretches = config.pause_s, _run_on(spoken, lexicon, config.pause_s)
    found = [
        part
        for stretch in stretches
        for block in _at_pauses(stretch, pause_s)
        for sentence in _split(block)
        for part in _short(sentence, config.most_words)
    ]
    return [_sentence(words) for words in found], dropped


def _less_silence(segments: Sequence[Segment], config: NarrationConfig) -> Iterator[Segment]:
    """The segments without the silence in which many begin that have no times of words."""
    reached_s = 0.0
    for segment in segments:
        start_s = segment.end_s - len(segment.text.split()) / config.slowest
        if not segment.words and segment.start_s - reached_s < _ABUTS_S and start_s > reached_s:
            yield replace(segment, start_s=max(segment.start_s, start_s))
        else:
            yield segment
        reached_s = max(reached_s, segment.end_s)


def _run_on(spoken: Sequence[list[Word]], lexicon: Lexicon, pause_s: float) -> list[list[Word]]:
    """Segments joined where one ends with a word that cannot end a sentence."""
    joined: list[list[Word]] = []
    for words in spoken:
        before = joined[-1][-1] if joined else None
        if (
            before is not None
            and before.text.lower() in lexicon.run_on
            and words[0].start_s - before.end_s < pause_s
        ):
            joined[-1] += words
        else:
            joined.append(list(words))
    return joined


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
