"""Miniatures of surgical recordings: one tiny film, copied, and folders of a few frames."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from minisets import Indexed, picture

from medvlp.data.manifest import Manifest

SIDE = 16


@cache
def _film(seconds: int) -> bytes:
    """16 x 16 pixels at one frame a second, as MP4."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=1)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "10"}
        for number in range(seconds):
            grey = np.full((SIDE, SIDE, 3), number * 255 // seconds, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 1)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def film(path: Path, seconds: int = 12) -> Path:
    """A video of so many seconds; no two have the same bytes: a box that says nothing differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note = str(path).encode()
    path.write_bytes(_film(seconds) + (8 + len(note)).to_bytes(4, "big") + b"free" + note)
    return path


def frames(folder: Path, numbers, form="{:06d}.png") -> Path:
    """A folder of frames with these numbers; a few will do for hours."""
    for number in numbers:
        picture(folder / form.format(number), hash((folder.name, number)) % 2**32, (SIDE, SIDE, 3))
    return folder


def timed(found: Indexed, name: str) -> list[tuple[str, float, float]]:
    """Name, start and end of a recording's timed regions, in order of time."""
    rows = [(word, *span) for word, kind, span in found.regions(name) if kind == "interval"]
    return sorted(rows, key=lambda row: row[1:])


def texts(found: Indexed, name: str) -> list[tuple]:
    """Level, source, start, end and words of a recording's texts, as the table has them."""
    rows = found.manifest.texts.to_dicts()
    columns = ("level", "source", "start_s", "end_s", "text")
    sample = found.samples[name]["sample"]
    return [tuple(row[c] for c in columns) for row in rows if row["sample"] == sample]


def known(manifest: Manifest, kind: str) -> set[str]:
    """Names of a manifest's timed regions of a kind, such as ``phase``."""
    return {name for name in manifest.regions["name"] if name.startswith(f"{kind}:")}
