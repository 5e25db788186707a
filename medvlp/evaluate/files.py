"""What zero-shot scoring and search share: the user's own files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from medvlp.domain import get_domain
from medvlp.errors import InputError
from medvlp.models.bundle import Bundle, load
from medvlp.models.inputs import Source, expand

BATCH = 16
"""Samples that are in memory at a time."""


def open_bundle(path: Path) -> Bundle:
    """A bundle on the fastest device of this machine.

    Raises:
        BundleError: See `medvlp.load`.
    """
    return load(path, "cuda" if torch.cuda.is_available() else "cpu")


def find_sources(inputs: Sequence[Path], domain: str) -> list[Source]:
    """Every sample in the files and folders that the user named.

    Raises:
        InputError: An input does not exist, or holds nothing that the domain reads.
    """
    missing = [str(i + 1) for i, path in enumerate(inputs) if not path.exists()]
    if missing:
        raise InputError(
            f"input {', '.join(missing)} of {len(inputs)} does not exist",
            remedy="name existing files or folders",
        )
    return expand(inputs, get_domain(domain).resolve.load())


def as_given(sources: Sequence[Source], inputs: Sequence[Path]) -> list[str]:
    """Each sample's place in the words of the user: a file, or the folder that holds its files.

    Where several samples lie in one folder, as series do in many studies, each is told by its
    first file.
    """
    places = [_place(source, inputs) for source in sources]
    count = Counter(places)
    return [
        place if count[place] == 1 else str(source.paths[0])
        for place, source in zip(places, sources, strict=True)
    ]


def _place(source: Source, inputs: Sequence[Path]) -> str:
    if len(source.paths) == 1:
        return str(source.paths[0])
    if inputs[source.position].is_file():
        return str(inputs[source.position])
    return os.path.commonpath(source.paths)


def refused(codes: Iterable[str]) -> str:
    """Counts of the reason codes, most frequent first, as ``code 3, other 1``."""
    return ", ".join(f"{code} {count}" for code, count in Counter(codes).most_common())
