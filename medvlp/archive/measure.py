"""Size, scale and digest of a sample's files, for kinds whose files a domain's `probe` reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.archive.probe import Probe
from medvlp.archive.verdict import Reject, Verdict
from medvlp.digest import digest_file, digest_plain


@dataclass(frozen=True)
class Measured:
    """What `Intake.accept` wants to know of files that can be used."""

    paths: tuple[Path, ...]
    columns: dict[str, Any]


def measure(paths: Sequence[Path], probe: Callable[[Sequence[Path]], Probe]) -> Measured | Verdict:
    """Probe and digest one sample's files; a verdict on bad ones is returned, not raised."""
    try:
        found = probe(paths)
        digest = digest_files(paths)
    except Verdict as verdict:
        return verdict
    columns = {
        "shape": found.shape,
        "spacing_mm": found.spacing_mm,
        "fps": found.fps,
        "duration_s": found.duration_s,
        "modality": found.modality or None,
        "reader": found.reader or None,
        "sha256": digest,
        "flags": found.flags,
    }
    return Measured(tuple(paths), columns)


def digest_files(paths: Sequence[Path]) -> str:
    """SHA-256 of a file's bytes; of the files' digests in order where there are several.

    Raises:
        Reject: ``unreadable``.
    """
    try:
        digests = [digest_file(path) for path in paths]
    except OSError:
        raise Reject("unreadable") from None
    return digests[0] if len(digests) == 1 else digest_plain(digests)
