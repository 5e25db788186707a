"""What was heard: segments and words with their times, as every form of transcript gives them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

from medvlp.archive.text.plaintext import clean
from medvlp.archive.verdict import Reject

LONGEST_S = 48 * 3600.0
"""No recording is longer; a segment behind it is not believed."""

MOST_SILENT, LEAST_LOGPROB, MOST_COMPRESSED = 0.6, -1.0, 2.4
"""Whisper's own bounds (Radford et al., arXiv:2212.04356, section 4.5): silence where the
probability of no speech is above the first and the mean log-probability below the second; a loop of
repeated words where the text is this many times as long as when compressed."""

_MOST_IN_A_ROW = 2
"""Segments with the same words that are believed one after another."""

Reason = Literal[
    "bad_row", "no_words", "no_speech", "repetition", "too_short", "off_topic", "not_surgical",
    "unseen", "unlike_frames",
]  # fmt: skip
"""Why something that was said is left out."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or what a recogniser takes for one, and when it was said."""

    text: str
    start_s: float
    end_s: float
    confidence: float | None = None
    """The recogniser's probability, where it gives one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A stretch of speech."""

    start_s: float
    """Seconds; not a number where the transcript's cannot be read."""
    end_s: float
    text: str
    words: tuple[Word, ...] = ()
    """With times of their own; empty where only the segment has times."""
    confidence: float | None = None
    log_probability: float | None = None
    """Mean over its tokens."""
    silence: float | None = None
    """Probability that nobody speaks."""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What one speech recogniser heard in one recording."""

    segments: tuple[Segment, ...]
    language: str | None = None
    """ISO 639-1, where the transcript tells it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """Something that was said and left out."""

    start_s: float
    end_s: float
    reason: Reason
    text: str
    score: float | None = None
    """What was below its threshold."""


def probability(value: object) -> float | None:
    """A number between 0 and 1, or None."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def believed(transcript: Transcript) -> tuple[list[Segment], list[Dropped]]:
    """The segments in order of time that hold speech, and those that do not.

    Left out are segments without sound times (``bad_row``) or words (``no_words``), silence
    (``no_speech``) and a recogniser's loops (``repetition``: words that compress too well, or the
    same words more than twice in a row).
    """
    kept: list[Segment] = []
    dropped: list[Dropped] = []
    timed: list[Segment] = []
    untimed: list[Segment] = []
    for segment in transcript.segments:
        (timed if _is_timed(segment) else untimed).append(segment)
    ordered = sorted(timed, key=lambda s: (s.start_s, s.end_s))
    run: list[str] = []
    for segment in chain(untimed, ordered):
        words = " ".join(segment.text.lower().split())
        run = [*run, words] if run[-1:] == [words] else [words]
        reason = _fault(segment, len(run))
        if reason is None:
            kept.append(segment)
        else:
            dropped.append(
                Dropped(
                    start_s=segment.start_s, end_s=segment.end_s, reason=reason, text=segment.text
                )
            )
        run = run[-_MOST_IN_A_ROW - 1 :]
    return kept, dropped


def cleaned(text: str) -> str:
    """The text in one line, without what cannot be seen; empty where it is no text."""
    try:
        return " ".join(clean(text).text.split())
    except Reject:
        return ""


def mean_confidence(confidences: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [c for c in confidences if c is not None]
    return math.fsum(known) / len(known) if known else None


def silences(spans: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds between each span and the next; 0 where they overlap."""
    reached_s = 0.0
    found = []
    for (_, end_s), (start_s, _) in pairwise(spans):
        reached_s = max(reached_s, end_s)
        found.append(max(0.0, start_s - reached_s))
    return found


def _is_timed(segment: Segment) -> bool:
    return 0 <= segment.start_s < segment.end_s <= LONGEST_S


def _fault(segment: Segment, in_a_row: int) -> Reason | None:
    if not _is_timed(segment):
        return "bad_row"
    if not any(map(str.isalnum, segment.text)):
        return "no_words"
    unsure = segment.log_probability is not None and segment.log_probability < LEAST_LOGPROB
    if unsure and segment.silence is not None and segment.silence > MOST_SILENT:
        return "no_speech"
    data = segment.text.encode()
    if in_a_row > _MOST_IN_A_ROW or len(data) > MOST_COMPRESSED * len(zlib.compress(data)):
        return "repetition"
    return None
