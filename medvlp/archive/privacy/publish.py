"""`medvlp splits`: the splits as a file for others, and an entry in the audit log."""

from __future__ import annotations

import os
from pathlib import Path

from medvlp.archive.privacy.rewrite import Opened
from medvlp.archive.stage.turn import Turn
from medvlp.data.anonymity import K, publish_splits
from medvlp.data.seal import INFO, seal
from medvlp.digest import digest_bytes
from medvlp.errors import ManifestError


def publish(
    path: Path, out: Path, *, k: int = K, coarsen: bool = False, suppress: bool = False
) -> str:
    """Write a manifest's splits as CSV, if nobody stands out in it.

    Args:
        path: The manifest.
        out: The new file.
        k: How many patients have to share each combination of what may be known of them.
        coarsen: As in `publish_splits`.
        suppress: As in `publish_splits`.

    Returns:
        What was written.

    Raises:
        ManifestError: `out` exists, the manifest was edited, or somebody would stand out.
    """
    if out.exists():
        raise ManifestError(f"{out.name} exists already", remedy="name another --out")
    out.parent.mkdir(parents=True, exist_ok=True)  # before the log says that it was written
    with Turn(path) as turn:
        turn.take()
        opened = Opened.of(path)
        data = publish_splits(opened.manifest, k=k, coarsen=coarsen, suppress=suppress)
        sealed = seal(
            opened.manifest.info,
            opened.key,
            opened.manifest.private,
            "publish",
            file=digest_bytes(data),
        )
        _replace(path / INFO, sealed)
        _replace(out, data)
    return f"{out.name}: {data.count(10) - 1:,} samples; at least {k} patients share each row"


def _replace(file: Path, data: bytes) -> None:
    part = file.with_name(f".{file.name}.part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
