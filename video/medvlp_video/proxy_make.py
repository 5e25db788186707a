"""Making proxies: one pass over a recording, in a process that can be killed.

The pictures go from the decoder to the encoder as planes of brightness and colour, scaled and
never converted, each with its own timestamp. The finished film is read again: all of its timestamps
and some of its frames are compared with what went in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import av
import av.codec
import av.error
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.archive.stage.answer import Alive
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.data.proxy_files import Made, content_of
from medvlp.digest import digest_file
from medvlp.domain import Ref
from medvlp.errors import ConfigError
from medvlp_video.border import recording_box
from medvlp_video.fast import spread
from medvlp_video.proxy import Note, holds, runs_of, write_note
from medvlp_video.read import is_frames
from medvlp_video.timestamps import (
    TimestampIndex,
    TimestampReader,
    decoded,
    opened,
    rgb,
    timestamp_index,
)

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

ENCODER: Final = "libx264"
PIXELS = "yuv420p"
MOST_PSNR = 99.0
"""What equal pictures count as, in dB."""

LEAST_PSNR = 25.0
"""A film that agrees less with what went in, in dB, shows something else."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FilmProxyConfig:
    """How the proxies of recordings are made."""

    short_side: Annotated[int, Field(ge=16, le=4320)] = 360
    """Pixels of the shorter side; smaller recordings keep their size."""

    key_every: Annotated[int, Field(ge=1, le=1000)] = 25
    """Frames from one key frame to the next: what is decoded at most to show one."""

    crf: Annotated[int, Field(ge=1, le=40)] = 20
    """x264's constant rate factor: lower is larger and closer to the original."""


class FilmProxies:
    """The video domain's `ProxyMaker`."""

    config = FilmProxyConfig
    version = 1
    make = Ref("medvlp_video.proxy_make:make")

    def check(self) -> None:
        """See that PyAV's FFmpeg can encode.

        Raises:
            ConfigError: It was built without x264.
        """
        try:
            av.codec.Codec(ENCODER, "w")
        except av.error.FFmpegError:
            raise ConfigError(
                f"data.proxies: the FFmpeg of this PyAV has no {ENCODER}",
                remedy="install PyAV from its wheel: pip install --force-reinstall av",
            ) from None

    def takes(self, paths: Sequence[Path]) -> bool:
        """Whether it is a video file; of frames stored one by one, each is at hand already."""
        return len(paths) == 1 and not is_frames(paths)

    def holds(self, path: Path, sha256: str) -> bool:
        """Whether a file is a proxy of that content, of the length that it was written with."""
        return holds(path, sha256)


PROXIES = FilmProxies()


def make(
    paths: Sequence[Path],
    *,
    target: Path,
    alive: Alive,
    short_side: int,
    key_every: int,
    crf: int,
) -> Made:
    """Write the proxy of one video file.

    Args:
        paths: The file.
        target: What is written; its name begins with the digest of the file's content.
        alive: Called as it gets on.
        short_side: As in `FilmProxyConfig`.
        key_every: As in `FilmProxyConfig`.
        crf: As in `FilmProxyConfig`.

    Raises:
        Reject: What `TimestampReader` raises; ``changed``: the file is no longer what was indexed;
            ``undecodable``: no frame decodes; ``decoder_disagrees``: the film does not show what
            went in; ``unwritten``: the disk or the encoder does not take it.
    """
    (source,) = paths
    sha256 = content_of(target)
    if digest_file(source, alive) != sha256:
        raise Reject("changed", "other bytes than those that were indexed")
    index = timestamp_index(source, alive)
    film = _Film(target, _scaled(index, short_side), key_every=key_every, crf=crf)
    sound_F, looked = _encode(source, index, film, alive)
    if not len(sound_F):
        raise Reject("undecodable", "no frame decodes")
    note = _compared(target, index, sound_F, looked, sha256)
    with _writing():
        write_note(target, note)
    return Made(
        size_bytes=target.stat().st_size,
        frames=len(index.pts),
        bad_frames=len(note.bad),
        psnr_db=note.psnr_db,
    )


@contextmanager
def _writing() -> Iterator[None]:
    """What fails in here is no fault of the original."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        raise Reject("unwritten", type(error).__name__) from None


class _Film:
    """An H.264 film that is being written.

    Args:
        target: The file.
        size: Rows and columns of its pictures.
        key_every: Frames from one key frame to the next.
        crf: Constant rate factor.
    """

    def __init__(self, target: Path, size: tuple[int, int], *, key_every: int, crf: int) -> None:
        self.size = size
        with _writing():
            self._container = av.open(str(target), "w", format="mp4")
        self._stream = self._container.add_stream(ENCODER)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = PIXELS
        # No frame leans on a later one or on one before a key frame. Without arithmetic coding and
        # deblocking (fastdecode) they decode in half the time, for a tenth more on the disk. One
        # thread, so that the same input gives the same bytes.
        self._stream.options = {
            "preset": "veryfast", "tune": "fastdecode", "crf": str(crf), "bf": "0", "threads": "1",
            "g": str(key_every), "keyint_min": str(key_every), "sc_threshold": "0",
        }  # fmt: skip
        self._reformatter = VideoReformatter()
        self._begun = False

    def add(self, frame: VideoFrame, tick: int, tick_s: Fraction) -> VideoFrame:
        """Scale a frame, encode it as shown from `tick` on, and return it as it went in."""
        height, width = self.size
        scaled = self._reformatter.reformat(
            frame, width, height, PIXELS,
            interpolation="BICUBIC", dst_color_range=frame.color_range, threads=1,
        )  # fmt: skip
        if not self._begun:
            self._begin(scaled, tick_s)
        scaled.pts, scaled.time_base = tick, tick_s
        # Or else the encoder would take over which of the original's frames are key frames.
        scaled.pict_type = PictureType.NONE
        with _writing():
            self._container.mux(self._stream.encode(scaled))
        return scaled

    def close(self) -> None:
        """Write what is left."""
        with _writing():
            if self._begun:
                self._container.mux(self._stream.encode(None))
            self._container.close()

    def _begin(self, first: VideoFrame, tick_s: Fraction) -> None:
        context = self._stream.codec_context
        self._stream.time_base = context.time_base = tick_s
        for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
            setattr(context, name, getattr(first, name))
        self._begun = True


def _encode(
    source: Path, index: TimestampIndex, film: _Film, alive: Alive
) -> tuple[NDArray[np.int64], dict[int, NDArray[np.uint8]]]:
    """Send all sound frames to the film; their places, and some of them as they went in."""
    place_of = {pts: place for place, pts in enumerate(index.pts.tolist())}
    wanted = set(spread(len(index.pts)).tolist())
    sound: list[int] = []
    looked: dict[int, NDArray[np.uint8]] = {}
    reformatter = VideoReformatter()
    first = int(index.pts[0])
    with opened(source) as (container, stream):
        assert stream.time_base is not None
        for frame, clean in decoded(container, stream, index.keys, alive):
            place = place_of.pop(frame.pts, None) if clean and frame.pts is not None else None
            if place is None:
                continue
            scaled = film.add(frame, int(index.pts[place]) - first, stream.time_base)
            if place in wanted:
                looked[place] = rgb(reformatter, scaled, _shown(film.size, index), index.turns)
            sound.append(place)
    film.close()
    return np.array(sound, np.int64), looked


def _compared(
    target: Path,
    index: TimestampIndex,
    sound_F: NDArray[np.int64],
    looked: dict[int, NDArray[np.uint8]],
    sha256: str,
) -> Note:
    """Read the film again; what is to be said of it.

    Raises:
        Reject: ``decoder_disagrees``: other times or pictures than those that went in.
    """
    found = timestamp_index(target)
    ticks_F = index.pts - index.pts[0]
    scale = max(1, round(index.tick_s / found.tick_s))
    same = abs(scale * found.tick_s - index.tick_s) <= 1e-9 * index.tick_s
    if not same or not np.array_equal(found.pts, ticks_F[sound_F] * scale):
        raise Reject("decoder_disagrees", "the proxy's frames are shown at other times")
    size = _shown(found.size, index)
    film = TimestampReader(target, replace(found, size=size, turns=index.turns))
    places = np.array(sorted(looked), np.int64)
    frames_FHWC = film.decode(np.searchsorted(sound_F, places))
    psnr_db = min(map(_psnr_db, frames_FHWC, (looked[place] for place in places.tolist())))
    if psnr_db < LEAST_PSNR:
        raise Reject("decoder_disagrees", f"the proxy's frames agree to {psnr_db:.1f} dB only")
    return Note(
        sha256=sha256,
        tick_s=index.tick_s,
        steps=runs_of(ticks_F),
        end=int(index.end_pts - index.pts[0]),
        bad=tuple(np.setdiff1d(np.arange(len(ticks_F)), sound_F).tolist()),
        scale=scale,
        keys=tuple(found.keys.tolist()),
        size=size,
        turns=index.turns,
        border=recording_box(frames_FHWC),
        psnr_db=round(psnr_db, 2),
        encoder=ENCODER,
        film_bytes=target.stat().st_size,
    )


def _scaled(index: TimestampIndex, short_side: int) -> tuple[int, int]:
    """Rows and columns of the film, as stored: even, and no more than the original's."""
    height, width = _shown(index.size, index)
    scale = min(1.0, short_side / min(height, width))
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def _shown(size: tuple[int, int], index: TimestampIndex) -> tuple[int, int]:
    """Rows and columns after the index's turns, and the other way round."""
    return size[::-1] if index.turns % 2 else size


def _psnr_db(one_HWC: NDArray[np.uint8], other_HWC: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two pictures in dB; `MOST_PSNR` of equal ones."""
    gap_HWC = one_HWC.astype(np.float32) - other_HWC
    error = float(np.square(gap_HWC).mean())
    return min(MOST_PSNR, 10 * np.log10(255**2 / error)) if error else MOST_PSNR
