"""Subtitles, SubRip (SRT) and WebVTT, as segments.

WebVTT's captions that roll, as video platforms write them, show each line twice or three times;
a line counts once, with the times of its words where they stand in it
(https://www.w3.org/TR/webvtt1/, sections 4 and 5).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from medvlp_video.narration.speech import Segment, Word, cleaned

_CLOCK = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMING = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_INSIDE = re.compile(rf"<{_CLOCK}>")
_TAG = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")
_ABUTS_S = 0.05


def cues(text: str, *, rolling: bool) -> list[Segment]:
    """The segments of a file of subtitles.

    Args:
        text: The file's text, with line feeds as line ends.
        rolling: Whether it is WebVTT, in which captions roll: a line that the cue before shows,
            too, is the same speech, and a line of blanks ends no cue.
    """
    found: list[Segment] = []
    shown: list[str] = []
    ended_s = float("-inf")
    for start_s, end_s, lines in _blocks(text, blanks_end=not rolling):
        plain = [_plain(line) for line in lines]
        rolls = rolling and start_s - ended_s < _ABUTS_S
        new = [i for i, words in enumerate(plain) if words and not (rolls and words in shown)]
        if new:
            words = [word for i in new for word in _words(lines[i], start_s, end_s)]
            said = " ".join(plain[i] for i in new)
            timed = any(_INSIDE.search(lines[i]) for i in new)
            found.append(
                Segment(
                    start_s=start_s, end_s=end_s, text=said, words=tuple(words) if timed else ()
                )
            )
        shown, ended_s = plain, end_s
    return found


def _blocks(text: str, *, blanks_end: bool) -> Iterator[tuple[float, float, list[str]]]:
    """Start, end and lines of each cue."""
    lines: list[str] | None = None
    span = (0.0, 0.0)
    for line in text.split("\n"):
        timing = _TIMING.fullmatch(line)
        if timing:
            if lines is not None:
                yield *span, lines
            span, lines = (_seconds(timing, 1), _seconds(timing, 5)), []
        elif lines is not None and not (line.strip() if blanks_end else line):
            yield *span, lines
            lines = None
        elif lines is not None:
            lines.append(line)
    if lines is not None:
        yield *span, lines


def _words(line: str, start_s: float, end_s: float) -> Iterator[Word]:
    """Each stretch between two times that stand in the line."""
    at, since_s = 0, start_s
    for inside in _INSIDE.finditer(line):
        until_s = _seconds(inside, 1)
        yield from _stretch(line[at : inside.start()], since_s, until_s)
        at, since_s = inside.end(), until_s
    yield from _stretch(line[at:], since_s, end_s)


def _stretch(text: str, start_s: float, end_s: float) -> Iterator[Word]:
    if words := _plain(text):
        yield Word(words, start_s, end_s)


def _plain(line: str) -> str:
    return cleaned(html.unescape(_TAG.sub("", line)))


def _seconds(match: re.Match[str], first: int) -> float:
    hours, minutes, seconds, fraction = match.group(first, first + 1, first + 2, first + 3)
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return whole + float(f"0.{fraction}")
