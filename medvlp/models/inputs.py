"""What a user hands to a model: files, folders, arrays or items, one sample after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.stage.child import Children
from medvlp.archive.verdict import Verdict
from medvlp.archive.walk import linked_folders
from medvlp.data.no_image import NoImage, no_image_error
from medvlp.data.preprocess import Preprocess, ReadsInPlace, Span
from medvlp.data.underlay import Underlay
from medvlp.errors import InputError
from medvlp.models.apart import reading_by

T = TypeVar("T")


@runtime_checkable
class FileSample(Protocol):
    """One sample as its files and, for video, the span of them; manifest items are such."""

    @property
    def source_paths(self) -> Sequence[Path]:
        """Its files, in order."""

    @property
    def span(self) -> Span | None:
        """Seconds, or None for all of it."""

    @property
    def flags(self) -> Sequence[str]:
        """How its files were read when they were taken in."""


Input = str | Path | tuple[Path, ...] | NDArray[Any] | FileSample
"""A path (a folder may hold several samples), one sample's files, a decoded array, an item."""

Resolve = Callable[[Path], list[tuple[Path, ...]]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One sample to be read."""

    position: int
    """Which of the user's inputs it came from, from 0."""

    paths: tuple[Path, ...] = ()
    span: Span | None = None
    flags: tuple[str, ...] = ()
    array: NDArray[Any] | None = None
    """The user's own array, in place of files."""


def expand(inputs: Input | Iterable[Input], resolve: Resolve) -> list[Source]:
    """Every sample in the inputs, in order; nothing is read yet.

    Raises:
        InputError: There is no input, or one names nothing that this domain reads.
    """
    single = isinstance(inputs, str | Path | np.ndarray | FileSample)
    many: list[Any] = [inputs] if single else list(inputs)  # type: ignore[arg-type]
    sources = [s for position, one in enumerate(many) for s in _sources(position, one, resolve)]
    if not sources:
        raise InputError("there is no input", remedy="name at least one file, folder or array")
    return sources


def read(source: Source, preprocess: Preprocess) -> NDArray[Any]:
    """The sample's stored array.

    Raises:
        Reject: A bad file.
        Ignore: A file that is none of the domain's.
        InputError: The model knows no images at all.
    """
    if isinstance(preprocess, NoImage):
        raise no_image_error()
    if source.array is not None:
        return preprocess.from_array(source.array)
    return preprocess.read(source.paths, source.span, source.flags)


def read_in_place(source: Source, preprocess: Preprocess) -> tuple[NDArray[Any], Underlay | None]:
    """`read`, and what a map of the sample can be laid over, where its domain knows such."""
    if source.array is None and isinstance(preprocess, ReadsInPlace):
        return preprocess.read_in_place(source.paths, source.flags)
    return read(source, preprocess), None


def _read_or_code(source: Source, preprocess: Preprocess) -> NDArray[Any] | str:
    """The sample's stored array, or the reason code why there is none."""
    try:
        return read(source, preprocess)
    except Verdict as verdict:
        return verdict.code


def read_each(
    sources: Iterable[Source], preprocess: Preprocess
) -> Iterator[tuple[Source, NDArray[Any] | str]]:
    """Each source with its stored array, or the reason code why there is none, in order.

    Files that were never taken into a manifest are read apart: one that crashes a decoder, or
    keeps it busy for ever, costs itself only.
    """
    with Children(1) as children:
        for unknown, group in groupby(sources, _unknown):
            if unknown and not isinstance(preprocess, NoImage):
                yield from _read_apart(list(group), preprocess, children)
            else:
                yield from ((source, _read_or_code(source, preprocess)) for source in group)


def _unknown(source: Source) -> bool:
    return source.array is None and source.span is None and not source.flags


def _read_apart(
    sources: Sequence[Source], preprocess: Preprocess, children: Children
) -> Iterator[tuple[Source, NDArray[Any] | str]]:
    answers = children.run(reading_by(preprocess), [source.paths for source in sources])
    # One process answers in the order in which it is asked.
    for source, (_, found) in zip(sources, answers, strict=True):
        yield source, found.code if isinstance(found, Verdict) else found.array


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter.

    Raises:
        ValueError: `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"batch size is {size}, it must be at least 1")
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _sources(position: int, one: Any, resolve: Resolve) -> list[Source]:
    if isinstance(one, np.ndarray):
        return [Source(position=position, array=one)]
    if isinstance(one, FileSample):
        paths, flags = tuple(one.source_paths), tuple(one.flags)
        return [Source(position=position, paths=paths, span=one.span, flags=flags)]
    if isinstance(one, tuple):
        return [Source(position=position, paths=tuple(map(Path, one)))]
    if not isinstance(one, str | Path):
        raise InputError(
            f"input {position + 1} is a {type(one).__name__}, neither a path nor a NumPy array",
            remedy="pass paths, NumPy arrays, or items of a manifest",
        )
    return [Source(position=position, paths=paths) for paths in _resolved(Path(one), resolve)]


def _resolved(path: Path, resolve: Resolve) -> list[tuple[Path, ...]]:
    """The samples in a path, and behind links to folders below it, which was named by the user."""
    links = linked_folders(path)
    if not links:
        return resolve(path)
    found: dict[tuple[Path, ...], tuple[Path, ...]] = {}
    for place in (path, *links):
        with suppress(InputError):
            for paths in resolve(place):
                found.setdefault(tuple(file.resolve() for file in paths), paths)
    return list(found.values()) or resolve(path)
