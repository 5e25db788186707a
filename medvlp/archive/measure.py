"""Size, scale and digest of one sample's files, as a domain's `probe` finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlp.archive.dicom.burned_in import allowed
from medvlp.archive.probe import Probe
from medvlp.archive.stage.answer import Alive
from medvlp.archive.stage.child import Limits
from medvlp.archive.stage.reading import Reading
from medvlp.archive.verdict import Reject
from medvlp.data.paths import PathText
from medvlp.digest import digest_file, digest_plain, nothing
from medvlp.domain import Ref, get_domain
from medvlp.errors import InputError

_VERSION = 5

_LIMITS = Limits(memory_mb=16384)
"""A domain may read a volume whole."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `Intake.accept` wants to know of files that can be used."""

    paths: tuple[PathText, ...]
    """The sample's files, in order."""
    probe: Probe
    sha256: str

    @property
    def columns(self) -> dict[str, Any]:
        """Arguments of `Intake.accept`."""
        return {
            "shape": self.probe.shape,
            "spacing_mm": self.probe.spacing_mm,
            "fps": self.probe.fps,
            "duration_s": self.probe.duration_s,
            "modality": self.probe.modality or None,
            "reader": self.probe.reader or None,
            "flags": self.probe.flags,
            "sha256": self.sha256,
            "pixels_digest": self.probe.pixels_digest or None,
            "fingerprint": self.probe.fingerprint,
        }


def measuring(
    domain: str, *, burned_in: str = "hold", accept_not_hu: bool = False
) -> Reading[Measured]:
    """The reading of what a path names, a file or a folder, as one sample of a domain.

    Args:
        domain: The domain's name.
        burned_in: ``hold`` or ``allow``, as in `IndexConfig.burned_in`.
        accept_not_hu: Of a domain of CT: take in what cannot be Hounsfield units, with a flag.
    """
    more = {"accept_not_hu": True} if accept_not_hu else {}
    return Reading(
        read=Ref("medvlp.archive.measure:measure"),
        result=Measured,
        version=_VERSION,
        limits=_LIMITS,
        settings={"domain": domain, "burned_in": burned_in, **more},
    )


def measure(
    paths: Sequence[Path], *, domain: str, burned_in: str = "hold", **more: bool
) -> Measured:
    """Find the one sample in a file or folder, probe it and digest its files.

    Args:
        paths: The file or folder.
        domain: The domain's name.
        burned_in: As in `measuring`.
        more: What the domain's `probe` takes.

    Raises:
        Reject: ``no_sample``, ``several_samples``, ``burned_in_risk``, or what the domain says of
            bad files.
        Ignore: What the domain says of files that are none of its own.
    """
    (path,) = paths
    reads = get_domain(domain)
    try:
        samples = reads.resolve.load()(path)
    except InputError:
        raise Reject("no_sample") from None
    if len(samples) != 1:
        raise Reject("several_samples", f"{len(samples)} samples")
    probe = reads.probe.load()(samples[0], **more)
    flags = (*probe.flags, *allowed(probe.burned_in, burned_in))
    return measured(samples[0], replace(probe, flags=flags))


def measured(paths: Sequence[Path], probe: Probe, alive: Alive = nothing) -> Measured:
    """What was found of files, with their digest.

    Raises:
        Reject: ``unreadable``.
    """
    return Measured(paths=tuple(paths), probe=probe, sha256=digest_files(paths, alive))


def digest_files(paths: Sequence[Path], alive: Alive = nothing) -> str:
    """SHA-256 of a file's bytes; of the files' digests in order where there are several.

    Raises:
        Reject: ``unreadable``.
    """
    try:
        digests = [digest_file(path, alive) for path in paths]
    except OSError:
        raise Reject("unreadable") from None
    return digests[0] if len(digests) == 1 else digest_plain(digests)
