"""A manifest and its private files take the place of earlier ones together, or not at all.

The new manifest is made in `.OUT.next`, the new private files in `OUT.private/next`. When both are
on the disk, one renaming, of `next` to `ready`, decides: before it, whatever ends the process, the
old ones stand; after it, the next command that writes finishes what is left to do. At no moment
does a manifest stand whose sources are not in `sources.parquet`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medvlp.data.seal import INFO, SOURCES
from medvlp.errors import ManifestError

BOTH = "sources.both"
"""In `next`: the sources of the old manifest and of the new one; they serve during the change."""

_NEXT = "next"
_READY = "ready"


def private_folder(manifest: Path) -> Path:
    """`OUT.private`, the folder beside `manifest` that only its owner may read.

    Beside the folder itself, whatever link leads to it.
    """
    real = manifest.resolve()
    return real.with_name(f"{real.name}.private")


def make_private(manifest: Path) -> Path:
    """The private folder, made if it is not there; nobody else may enter it."""
    private = private_folder(manifest)
    if not private.is_dir():
        private.mkdir(parents=True, mode=0o700, exist_ok=True)
        sync_folder(private.parent)
    return private


@contextmanager
def replacing(out: Path) -> Iterator[tuple[Path, Path]]:
    """Two new folders, for the manifest and for files of the private folder.

    If the block succeeds, the manifest takes the place of `out`, and the private files those of
    the same names. Files must be synced by the block. Nobody else may write at the same time.
    """
    out = out.resolve()
    recover(out)
    private = make_private(out)
    stage, following = _stage(out), private / _NEXT
    try:
        stage.mkdir(parents=True)
        following.mkdir(mode=0o700)
        yield stage, following
        sync_folder(stage)
        sync_folder(following)
        following.rename(private / _READY)
    except BaseException:
        recover(out)
        with suppress(OSError):
            private.rmdir()  # where it was made for this alone
        raise
    sync_folder(private)
    _complete(out)


def recover(out: Path) -> None:
    """Finish or undo a change of `out` that was interrupted; only while nobody else writes."""
    out = out.resolve()
    if interrupted(out):
        _complete(out)
    _undo(out)


def interrupted(out: Path) -> bool:
    """Whether a change of `out` waits to be finished."""
    return (private_folder(out) / _READY).is_dir()


def check_replaceable(out: Path) -> None:
    """See that what is replaced, and so deleted, is a manifest or nothing.

    Raises:
        ManifestError: `out` is a file, or a folder that holds something else.
    """
    if out.is_dir() and ((out / INFO).is_file() or not any(out.iterdir())):
        return
    if out.exists():
        raise ManifestError(
            f"{out.name} is no manifest, and nothing else is replaced",
            remedy="name another --out, or move away what is there",
        )


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folders(out: Path) -> tuple[Path, ...]:
    """All folders that may belong to a manifest: itself, the private one, those of a change."""
    out = out.resolve()
    return out, private_folder(out), _stage(out), _old(out)


def _complete(out: Path) -> None:
    """What follows the decision; every step may have been done before."""
    private, stage, old = private_folder(out), _stage(out), _old(out)
    ready = private / _READY
    if (ready / BOTH).exists():
        (ready / BOTH).replace(private / SOURCES)
        sync_folder(private)
    if stage.exists():
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        stage.rename(out)
        sync_folder(out.parent)
    for file in sorted(ready.iterdir()):
        file.replace(private / file.name)
    sync_folder(private)
    ready.rmdir()
    shutil.rmtree(old, ignore_errors=True)


def _undo(out: Path) -> None:
    for folder in (_stage(out), private_folder(out) / _NEXT, _old(out)):
        shutil.rmtree(folder, ignore_errors=True)


def _stage(out: Path) -> Path:
    return out.with_name(f".{out.name}.next")


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")
