"""Short ways to write a case of one DICOM file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from catalogue.case import Array, Case, Write
from catalogue.raw import file_of, ramp, xray
from medvlp.archive.dicom.files import read_image

Bytes = Callable[[str], bytes]
Changes = Mapping[int, tuple[str, bytes] | None]

CUT = "REJECT:truncated_header"


def grey() -> Array:
    """What `raw.xray` shows."""
    return ramp().astype(np.float32)


def plain(name: str) -> bytes:
    """The sound file that the cases spoil."""
    return file_of(xray(name))


def written(name: str, content: Bytes, file: str = "a.dcm") -> Write:
    """A writer of one file whose bytes depend on the case's name."""

    def write(folder: Path) -> list[Path]:
        path = folder / file
        path.write_bytes(content(name))
        return [path]

    return write


def one(
    number: int,
    name: str,
    expected: str,
    content: Bytes,
    file: str = "a.dcm",
    oracle: Callable[[], Array] | None = grey,
) -> Case:
    """A case of one radiograph; where it is accepted, it shows `oracle`."""
    return Case(
        number=number,
        name=name,
        archive="dicom",
        write=written(name, content, file),
        expected=expected,
        read=lambda paths: read_image(paths[0]),
        oracle=oracle,
    )


def unread(number: int, name: str, expected: str, content: Bytes) -> Case:
    """A case whose array nobody looks at."""
    return Case(
        number=number,
        name=name,
        archive="dicom",
        write=written(name, content),
        expected=expected,
    )


def changed(name: str, changes: Changes) -> dict[int, tuple[str, bytes]]:
    """The sound radiograph's elements, some replaced or, where None, left out."""
    elements = {**xray(name), **changes}
    return {tag: value for tag, value in elements.items() if value is not None}


def spoilt(
    number: int,
    name: str,
    expected: str,
    changes: Changes,
    oracle: Callable[[], Array] | None = grey,
) -> Case:
    """A case of the sound radiograph with some elements replaced."""
    return one(number, name, expected, lambda n: file_of(changed(n, changes)), oracle=oracle)
