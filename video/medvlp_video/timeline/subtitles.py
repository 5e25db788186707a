"""The timeline over the picture: WebVTT and Advanced SubStation Alpha (ASS) subtitles."""

from __future__ import annotations

from collections.abc import Sequence

from medvlp_video.timeline.track import Segment

_ASS_HEAD = """[Script Info]
ScriptType: v4.00+
PlayResX: 1280
PlayResY: 720

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, OutlineColour, BackColour, BorderStyle, Outline, \
Shadow, Alignment, MarginL, MarginR, MarginV
Style: Phase,Sans,34,&H00FFFFFF,&H00000000,&H80000000,3,1,0,1,24,24,24

[Events]
Format: Layer, Start, End, Style, Text
"""


def vtt(segments: Sequence[Segment]) -> str:
    """A WebVTT file (W3C) with a cue for each segment."""
    cues = [
        f"{_clock(s.start_s, 1000)} --> {_clock(s.end_s, 1000)}\n{_escaped(words(s))}\n"
        for s in segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def ass(segments: Sequence[Segment]) -> str:
    """An ASS file with a line for each segment, at the lower left."""
    lines = [
        f"Dialogue: 0,{_short(s.start_s)},{_short(s.end_s)},Phase,{_plain(words(s))}\n"
        for s in segments
    ]
    return _ASS_HEAD + "".join(lines)


def words(segment: Segment) -> str:
    """What is said of a segment."""
    return segment.name if segment.label is None else f"{segment.name} ({segment.confidence:.0%})"


def _clock(time_s: float, parts: int) -> str:
    """``hh:mm:ss.mmm`` for 1000 parts a second, ``hh:mm:ss.cc`` for 100.

    >>> _clock(3661.5, 1000), _clock(59.999, 100)
    ('01:01:01.500', '00:01:00.00')
    """
    total = round(time_s * parts)
    whole, part = divmod(total, parts)
    digits = len(str(parts)) - 1
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{part:0{digits}d}"


def _short(time_s: float) -> str:
    """The clock as ASS writes it, to hundredths and with one digit for the hour."""
    return _clock(time_s, 100).removeprefix("0")


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split())


def _plain(text: str) -> str:
    """Without what ASS takes for commands: braces and backslashes."""
    return " ".join(text.replace("{", "(").replace("}", ")").replace("\\", "/").split())
