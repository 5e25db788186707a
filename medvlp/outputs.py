"""What a command writes: files and folders that appear under their names whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from medvlp.errors import InputError


def writable(path: Path | None) -> Path | None:
    """See before the work that an output has a place; its missing folders are made with it.

    For options of commands, as their callback.

    Raises:
        InputError: What should be a folder above it is none, or does not take anything.
    """
    if path is not None:
        whole = path.absolute()
        above = next((p for p in whole.parents if os.path.lexists(p)), whole)
        place = whole if path.is_dir() else above
        if not place.is_dir():
            raise InputError(
                f"{path.name} cannot be written: {place.name} is no folder",
                remedy="name another place",
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(
                f"{path.name} cannot be written: no right to write in {place.name or place}",
                remedy="name another place, or have its rights changed",
            )
    return path


def writable_file(path: Path | None) -> Path | None:
    """`writable`, of an output that is a file.

    Raises:
        InputError: See `writable`; or a folder stands there.
    """
    if path is not None and path.is_dir():
        raise InputError(f"{path.name or path} is a folder", remedy="name a file")
    return writable(path)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only if the block succeeds."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Put a text in the place of a file in one step."""
    with whole_file(path) as file:
        file.write(text)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears under its name only if the block succeeds.

    Raises:
        InputError: Something stands there already.
    """
    if path.exists():
        raise InputError(f"{path.name} exists already", remedy="name another folder, or remove it")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
