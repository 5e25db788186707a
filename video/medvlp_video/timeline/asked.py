"""What a user asks of a timeline, and the recording that is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.archive.measure import digest_files
from medvlp.archive.verdict import Reject
from medvlp.data.manifest import Manifest
from medvlp.data.proxies import Proxies
from medvlp.data.proxy_files import ProxyConfig
from medvlp.errors import InputError
from medvlp.evaluate.files import find_sources
from medvlp_video.read import frame_rate, is_frames
from medvlp_video.timeline.truth import Truth, truth_from_manifest, truth_from_table


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of `medvlp timeline`."""

    video: str
    """A video file or a folder of frames; with `manifest`, a sample's id."""

    bundle: Path
    prompts: Path
    out: Path
    rate: float = 1.0
    """Frames a second of presentation time that are looked at."""

    window_s: float | None = None
    """Seconds of a clip; None for as many frames as the bundle's contract has."""

    smooth: str = "hmm"
    dwell_s: float = 60.0
    least_s: float = 5.0
    blank: str | None = None
    """A rule of `blank.load_rule`."""

    live: bool = False
    """At the recording's own pace, the newest frame first."""

    truth: Path | None = None
    manifest: Path | None = None
    frame_rate: float = 1.0
    """Of a folder's frame numbers, where no manifest tells it."""

    proxies: Path | None = None
    """A folder of proxies, made with the default settings, from which the recording is read."""

    pictures: bool = True
    """Show frames on the page."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The recording that is meant, under a name that names nobody."""

    paths: tuple[Path, ...]
    reader: str
    """As the manifest's `reader`; videos are read by exact timestamp, whatever they earned. Of a
    proxy, how it was made."""

    told: Mapping[str, Any]
    """For the JSON: the sample's pseudonym, or the digest of the files."""

    film: bool
    """Whether it is a video file, which a browser may play."""


def find_recording(asked: Asked, names: Sequence[str]) -> tuple[Recording, Truth | None]:
    """The recording, and what is true of it where that is known.

    Raises:
        InputError: It, or the proxy asked for, is not there, or several are; or both or the wrong
            kind of truth is given.
        ConfigError: An interval of the table bears no label's name.
    """
    truth = None if asked.truth is None else truth_from_table(asked.truth, names)
    if asked.manifest is None:
        return _from_files(asked), truth
    manifest = Manifest.open(asked.manifest)
    recording = _from_manifest(manifest, asked.video, asked.proxies)
    return recording, truth or truth_from_manifest(manifest, asked.video, names)


def _from_files(asked: Asked) -> Recording:
    sources = find_sources([Path(asked.video)], "video")
    if len(sources) != 1:
        raise InputError(
            f"the input holds {len(sources)} recordings, a timeline is of one",
            remedy="name one video file or one folder of frames",
        )
    paths = sources[0].paths
    # Whoever opens a pipe waits for somebody to write to it.
    if not all(path.is_file() for path in paths):
        raise unreadable(Reject("unreadable"))
    try:
        sha256 = digest_files(paths)
    except Reject as verdict:
        raise unreadable(verdict) from None
    folder = is_frames(paths)
    reader = f"frames@{asked.frame_rate:g}" if folder else "pyav"
    recording = Recording(paths=paths, reader=reader, told={"sha256": sha256}, film=not folder)
    return _stand_in(recording, sha256, asked.proxies)


def _from_manifest(manifest: Manifest, sample: str, proxies: Path | None) -> Recording:
    rows = manifest.samples.filter(pl.col("sample") == sample, pl.col("domain") == "video")
    if rows.is_empty():
        raise InputError(
            "--manifest: no video sample of that id",
            remedy="give a sample id of the manifest in place of the video",
        )
    row = rows.row(0, named=True)
    paths = manifest.paths(row["source"])
    folder = is_frames(paths)
    reader = f"frames@{frame_rate(row['reader'] or 'frames'):g}" if folder else "pyav"
    recording = Recording(paths=paths, reader=reader, told={"sample": sample}, film=not folder)
    return _stand_in(recording, row["sha256"], proxies)


def _stand_in(recording: Recording, sha256: str, folder: Path | None) -> Recording:
    if folder is None:
        return recording
    proxies = Proxies("video", ProxyConfig(folder=folder))
    path = proxies.find(sha256)
    if path is None:
        raise InputError(
            "--proxies: the folder has no proxy of the recording with the default settings",
            remedy="make it with medvlp cache build, or leave out --proxies",
        )
    return replace(recording, paths=(path,), reader=proxies.flag)


def unreadable(verdict: Reject) -> InputError:
    """The recording cannot be read at all."""
    return InputError(
        f"the recording cannot be read: {verdict.code}",
        remedy="docs/verdicts.md explains the code; mend the file, or leave it out",
    )
