"""Which files make a sample, and how they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlp.archive.probe import Probe
from medvlp.archive.verdict import Reject
from medvlp.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")


def resolve(path: Path) -> list[tuple[Path, ...]]:
    """One sample per picture in a file or folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    found = [(file,) for file in files if file.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError("the input holds no picture", remedy="name a PNG or JPEG, or a folder")
    return found


def probe(paths: Sequence[Path]) -> Probe:
    """Size of one photograph."""
    picture_HWC = read_picture(paths[0])
    return Probe(shape=picture_HWC.shape[:2], modality="OP", reader="pillow")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """One photograph, (H,W,3); whatever is wrong with the file is a reject with a code."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        raise Reject("not_a_picture") from None
