"""Finding and reading transcripts: Whisper's JSON, WebVTT, SubRip, and tables.

Transcripts may come from anybody: a file is bounded, plain values only, and a bad one raises a
code, not an error.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.text.plaintext import decode
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.archive.walk import Entry, walk
from medvlp.errors import ArchiveError, ConfigError, InputError
from medvlp.plain_files import read_json
from medvlp_video.narration.cues import cues
from medvlp_video.narration.speech import Segment, Transcript, Word, cleaned, number, probability
from medvlp_video.spans import seconds_of

LARGEST = 1 << 25
"""Bytes of a transcript; a day of speech with the times of its words has less."""

_START, _END = ("start", "start_s"), ("end", "end_s")
_NOT_A_TIME = float("nan")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One file that may be a transcript."""

    path: Path
    name: str
    """Its place in the folder that the user named."""
    video: str
    """What a table of texts calls its recording."""


def find_transcripts(root: Path) -> tuple[list[Found], list[tuple[str, Verdict]]]:
    """The transcripts below `root`, one for each recording, and names of the other files.

    A recording goes by the name of its transcript without its ending, and by the path from `root`
    where two in different folders share it. Of several forms of one transcript, Whisper's JSON is
    read, then WebVTT, SubRip, and tables.

    Raises:
        InputError: `root` does not exist.
    """
    if not root.exists():
        raise InputError(
            "a folder of transcripts does not exist", remedy="name an existing folder or file"
        )
    folder = root if root.is_dir() else root.parent
    forms: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
    others: list[tuple[str, Verdict]] = []
    for entry in walk(root):
        suffix = entry.path.suffix.lower()
        name, verdict = _judged(entry, folder)
        if verdict is not None:
            others.append((name, verdict))
        else:
            forms[entry.path.relative_to(folder).with_suffix("")][suffix] = entry.path
    stems = Counter(place.name for place in forms)
    found = []
    for place, paths in sorted(forms.items()):
        best = min(paths, key=list(_READERS).index)
        video = place.name if stems[place.name] == 1 else place.as_posix()
        name = paths[best].relative_to(folder).as_posix()
        found.append(Found(path=paths[best], name=name, video=video))
        others += [
            (paths[suffix].relative_to(folder).as_posix(), Ignore("another_form"))
            for suffix in sorted(paths)
            if suffix != best
        ]
    return found, others


def _judged(entry: Entry, folder: Path) -> tuple[str, Verdict | None]:
    """The file's place in `folder`, and why it is no transcript, if it is none."""
    name = entry.path.relative_to(folder).as_posix()
    if entry.rejected:
        return _as_text(name), Reject(entry.rejected)
    if entry.ignored:
        return _as_text(name), Ignore(entry.ignored)
    if entry.path.suffix.lower() not in _READERS:
        return _as_text(name), Ignore("not_of_the_set")
    if name != _as_text(name):
        return _as_text(name), Reject("no_transcript", "its name is no valid text")
    return name, None


def _as_text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def read_transcript(path: Path) -> Transcript:
    """A transcript, in the form that its ending tells.

    Raises:
        Reject: ``file_too_large``, ``unreadable``, ``bad_json``, ``text_binary``,
            ``text_encoding``, ``no_table`` or ``no_transcript``.
    """
    try:
        size = path.stat().st_size
    except OSError:
        raise Reject("unreadable") from None
    if size > LARGEST:
        raise Reject("file_too_large", f"{size} bytes")
    found = _READERS[path.suffix.lower()](path)
    if not found.segments:
        raise Reject("no_transcript")
    return found


def _whisper(path: Path) -> Transcript:
    """``segments`` as Whisper and its kin write them, or the bare list of them."""
    try:
        values = read_json(path, LARGEST)
    except ConfigError:
        raise Reject("bad_json") from None
    rows = values.get("segments") if isinstance(values, dict) else values
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Reject("no_transcript", "no list of segments")
    language = values.get("language") if isinstance(values, dict) else None
    return Transcript(
        segments=tuple(map(_segment, rows)),
        language=language if isinstance(language, str) else None,
    )


def _segment(row: Mapping[str, Any]) -> Segment:
    log_probability = number(row.get("avg_logprob"))
    silence = probability(row.get("no_speech_prob"))
    start_s, end_s = _time(row.get("start")), _time(row.get("end"))
    confidence = None
    if log_probability is not None:
        confidence = math.exp(min(0.0, log_probability)) * (1 - (silence or 0.0))
    words = row.get("words")
    return Segment(
        start_s=start_s,
        end_s=end_s,
        text=_text(row.get("text")),
        words=tuple(_spoken(words)) if isinstance(words, list) else (),
        confidence=confidence,
        log_probability=log_probability,
        silence=silence,
    )


def _spoken(words: Sequence[Any]) -> Iterator[Word]:
    """Words as Whisper (``word``, ``probability``) and WhisperX (``score``) write them."""
    for word in words:
        if isinstance(word, dict) and (text := _text(word.get("word", word.get("text")))):
            sure = probability(word.get("probability", word.get("score")))
            yield Word(text, _time(word.get("start")), _time(word.get("end")), sure)


def _time(value: object) -> float:
    found = number(value)
    return _NOT_A_TIME if found is None else found


def _text(value: object) -> str:
    return cleaned(value) if isinstance(value, str) else ""


def _subtitles(path: Path) -> Transcript:
    try:
        with path.open("rb") as file:
            text = decode(file.read(LARGEST + 1), LARGEST).text
    except OSError:
        raise Reject("unreadable") from None
    return Transcript(segments=tuple(cues(text, rolling=path.suffix.lower() == ".vtt")))


def _table(path: Path) -> Transcript:
    """A row a segment: ``start``, ``end`` (seconds or h:m:s), ``text``, ``confidence``."""
    try:
        table = open_table(path)
    except ArchiveError:
        raise Reject("no_table") from None
    columns = set(table.frame.columns)
    if "text" not in columns or not columns.intersection(_START) or not columns.intersection(_END):
        raise Reject("no_transcript", "no columns start, end and text")
    return Transcript(segments=tuple(map(_row, table.frame.iter_rows(named=True))))


def _row(cells: Mapping[str, Any]) -> Segment:
    start_s, end_s = (_cell_s(cells, names) for names in (_START, _END))
    try:
        sure = probability(float(cells.get("confidence") or "nan"))
    except ValueError:
        sure = None
    return Segment(start_s=start_s, end_s=end_s, text=_text(cells["text"]), confidence=sure)


def _cell_s(cells: Mapping[str, Any], names: Sequence[str]) -> float:
    cell = next((cells[name] for name in names if cells.get(name) is not None), None)
    try:
        found = seconds_of(None if cell is None else str(cell))
    except Reject:
        found = None
    return _NOT_A_TIME if found is None else found


_READERS: dict[str, Callable[[Path], Transcript]] = {
    ".json": _whisper, ".vtt": _subtitles, ".srt": _subtitles, ".csv": _table,
}  # fmt: skip
"""By ending, the one that tells most first."""
