"""What is wrong with a DICOM file as a file: preamble, cut ends, lengths, nesting, syntaxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from catalogue.case import Array, Case, Write
from catalogue.raw import (
    PIXELS,
    file_of,
    ramp,
    us,
    xray,
)
from medvlp.archive.dicom import read_image

Bytes = Callable[[str], bytes]


def grey() -> Array:
    """What `raw.xray` shows."""
    return ramp().astype(np.float32)


def written(name: str, content: Bytes, file: str = "a.dcm") -> Write:
    """A writer of one file whose bytes depend on the case's name."""

    def write(folder: Path) -> list[Path]:
        path = folder / file
        path.write_bytes(content(name))
        return [path]

    return write


def one(number: int, name: str, expected: str, content: Bytes, file: str = "a.dcm") -> Case:
    """A case of one radiograph; where it is accepted, it shows `grey`."""
    return Case(
        number=number,
        name=name,
        archive="dicom",
        write=written(name, content, file),
        expected=expected,
        read=lambda paths: read_image(paths[0]),
        oracle=grey,
    )


def plain(name: str) -> bytes:
    """The sound file that the cases spoil."""
    return file_of(xray(name))


def cut_header(name: str) -> bytes:
    """Ends in the middle of the patient's name."""
    data = plain(name)
    return data[: data.index(b"Canary") + 3]


CASES = (
    one(0, "sound", "ACCEPT", plain),
    one(1, "empty-file", "REJECT:not_dicom", lambda _: b""),
    one(2, "hundred-bytes", "REJECT:not_dicom", lambda _: b"x" * 100),
    one(3, "text-file", "REJECT:not_dicom", lambda _: b"Dear colleague, \n" * 40),
    one(6, "no-magic", "REJECT:not_dicom", lambda n: plain(n).replace(b"DICM", b"DOCM", 1)),
    one(7, "cut-header", "REJECT:truncated_header", cut_header),
    one(8, "pixels-short-4000", "REJECT:truncated_pixels", lambda n: plain(n)[:-4000]),
    one(9, "pixels-short-1", "REJECT:truncated_pixels", lambda n: plain(n)[:-1]),
    one(19, "rows-0", "REJECT:bad_dims", lambda n: file_of({**xray(n), 0x00280010: ("US", us(0))})),
    one(
        60,
        "no-pixel-element",
        "REJECT:pixel_module",
        lambda n: file_of({t: v for t, v in xray(n).items() if t != PIXELS}),
    ),
)
