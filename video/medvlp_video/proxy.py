"""Proxies: small films with near key frames, read in the place of recordings.

A proxy is an MP4 file whose last box (of type ``uuid``, which players pass over) is a note: which
content the film was made of, when its frames are shown, which of them did not decode and have no
place in the film, and where the picture lies within a black border. Its last four bytes are the
checksum of all before.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.data.whole_files import append_checksum
from medvlp_video.border import Box
from medvlp_video.frames import FrameReader
from medvlp_video.timestamps import TimestampIndex, TimestampReader

_BOX = b"uuid" + bytes.fromhex("5f0c8d1e6a3b4c7f9e21d4b0a87c6352")
_LENGTH = 4
_CRC = 4
_TAIL = _LENGTH + _CRC
"""The note's last bytes: its own length in the file, and the checksum."""
_MOST_NOTE = 1 << 28
"""Bytes of a note when it is inflated; an hour of video takes some ten thousand."""
_MOST_FRAMES = 10**8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Note:
    """What a proxy says of itself. Ticks are the original's, counted from its first frame."""

    sha256: str
    """Of the original's content."""

    tick_s: float
    steps: tuple[tuple[int, int], ...]
    """Ticks from one frame of the original to the next, equal ones together: (how many, ticks)."""

    end: int
    """The tick at which the last frame disappears."""

    bad: tuple[int, ...]
    """Places of the original's frames that did not decode; the film has none in their place."""

    scale: int
    """The film's ticks in one of the original's."""

    keys: tuple[int, ...]
    """Ticks of the film's key frames."""

    size: tuple[int, int]
    """Rows and columns, as shown."""

    turns: int
    """Quarter turns against the clock by which the film's frames are shown."""

    border: Box
    """The picture inside the black border, in pixels as shown."""

    psnr_db: float
    """The least agreement of the frames compared with those that went into the encoder."""

    encoder: str
    film_bytes: int


@plain_dataclass(frozen=True)
class _Contents:
    note: Note
    times: NDArray[np.float64]
    duration_s: float
    index: TimestampIndex
    place_F: NDArray[np.int64]
    """Of each frame of the original, its place in the film; -1 of bad ones."""


class ProxyReader(FrameReader):
    """Frames of a recording from its proxy: same count, same times, same bad frames.

    Raises:
        Reject: ``undecodable``: it is no whole proxy.
    """

    def __init__(self, path: Path) -> None:
        held = _contents(path)
        if held is None:
            raise Reject("undecodable", "no whole proxy")
        note, count = held.note, len(held.times)
        fps = count / held.duration_s
        super().__init__(held.times, size=note.size, fps=fps, duration_s=held.duration_s)
        self.border = note.border
        self._held = held
        self._film = TimestampReader(path, held.index)

    def decode(self, index_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(F,H,W,3) RGB frames by their place in `times`.

        Raises:
            Reject: ``bad_frame``: one of them did not decode in the original.
        """
        place_F = self._held.place_F[index_F]
        if (place_F < 0).any():
            raise Reject("bad_frame", "a frame that does not decode in the original")
        return self._film.decode(place_F)

    def bad_frames(self) -> NDArray[np.int64]:
        """Places in `times` of the frames that did not decode in the original."""
        return np.flatnonzero(self._held.place_F < 0)


def holds(path: Path, sha256: str) -> bool:
    """Whether a file is a proxy of that content, of the length that it had when it was made."""
    held = _contents(path)
    return held is not None and held.note.sha256 == sha256


def read_note(path: Path) -> Note | None:
    """What a proxy says of itself; None of any other file, and of one that was cut."""
    try:
        packed, place = _packed(path)
        text = zlib.decompressobj().decompress(packed, _MOST_NOTE)
        note = TypeAdapter(Note).validate_json(text)
    except (OSError, ValueError, zlib.error, ValidationError):
        return None
    return note if note.film_bytes == place and _fits(note) else None


def write_note(path: Path, note: Note) -> None:
    """Append the note to a finished film."""
    packed = zlib.compress(TypeAdapter(Note).dump_json(note))
    length = _LENGTH + len(_BOX) + len(packed) + _TAIL
    with path.open("ab") as file:
        file.write(length.to_bytes(_LENGTH, "big") + _BOX + packed)
        file.write(length.to_bytes(_LENGTH, "big"))
    append_checksum(path)


def _packed(path: Path) -> tuple[bytes, int]:
    """The deflated note, and where its box begins."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL))
        length = int.from_bytes(file.read(_LENGTH), "big")
        place = size - length
        if place < 0 or length < _LENGTH + len(_BOX) + _TAIL:
            raise ValueError("no note")
        file.seek(place)
        box = file.read(length)
    if box[:_LENGTH] != length.to_bytes(_LENGTH, "big") or not box[_LENGTH:].startswith(_BOX):
        raise ValueError("no note")
    return box[_LENGTH + len(_BOX) : -_TAIL], place


def runs_of(ticks_F: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Ascending ticks that begin at 0 as `Note.steps`."""
    steps = np.diff(ticks_F)
    starts = np.flatnonzero(np.diff(steps, prepend=0))
    counts = np.diff(starts, append=len(steps))
    return tuple(zip(counts.tolist(), steps[starts].tolist(), strict=True))


def _ticks(steps: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    counts, ticks = np.array(steps, np.int64).reshape(-1, 2).T
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.repeat(ticks, counts))])


def _fits(note: Note) -> bool:
    """Whether the numbers can be those of a film."""
    frames = 1 + sum(count for count, _ in note.steps)
    bad = np.array(note.bad, np.int64)
    return bool(
        all(count > 0 and ticks > 0 for count, ticks in note.steps)
        and len(bad) < frames < _MOST_FRAMES
        and note.end > sum(count * ticks for count, ticks in note.steps)
        and min(note.tick_s, note.scale, *note.size) > 0
        and note.keys
        and np.array_equal(np.unique(bad), bad)
        and (len(bad) == 0 or (bad[0] >= 0 and bad[-1] < frames))
    )


def _contents(path: Path) -> _Contents | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _parsed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(path: Path, size: int, changed_ns: int) -> _Contents | None:
    note = read_note(path)
    if note is None:
        return None
    ticks_F = _ticks(note.steps)
    sound_F = np.delete(np.arange(len(ticks_F)), np.array(note.bad, np.int64))
    place_F = np.full(len(ticks_F), -1)
    place_F[sound_F] = np.arange(len(sound_F))
    index = TimestampIndex(
        pts=ticks_F[sound_F] * note.scale,
        keys=np.array(note.keys, np.int64),
        tick_s=note.tick_s / note.scale,
        end_pts=note.end * note.scale,
        size=note.size,
        turns=note.turns,
        begin=0,
    )
    times_s = np.asarray(ticks_F * note.tick_s, np.float64)
    return _Contents(note, times_s, note.end * note.tick_s, index, place_F)
