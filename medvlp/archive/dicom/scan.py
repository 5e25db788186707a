"""What one reading of a DICOM file finds: digest, header and what its decoded pixels are like.

The file is read, parsed and decoded once, in a reading process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.containers import refuse_packed
from medvlp.archive.dicom import second
from medvlp.archive.dicom.dicomdir import dicomdir_verdict, is_dicomdir
from medvlp.archive.dicom.files import open_image, quiet, read_bytes
from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.pixels import decode, shown_values, stored_digest
from medvlp.archive.dicom.values import tag_name
from medvlp.archive.duplicates.fingerprint import fingerprint
from medvlp.archive.series.hounsfield import count_stored
from medvlp.archive.stage.reading import Reading
from medvlp.archive.verdict import Ignore, Reject
from medvlp.digest import digest_bytes
from medvlp.domain import Ref

_VERSION = 9
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFacts:
    """What is kept of a file's decoded pixels."""

    digest: str
    """SHA-256 of the stored values: equal pixels, whatever surrounds and compresses them."""
    low: float
    high: float
    """Least and greatest rescaled value (HU for CT)."""
    counts: tuple[int, ...] = ()
    """CT: how many pixels lie between the edges of `hounsfield.HU_EDGES`."""

    fingerprint: str = ""
    """Of the middle frame; blank where there is nothing to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one reading of a file found."""

    sha256: str
    """Digest of the file's bytes."""
    header: Header
    flags: tuple[str, ...]
    pixels: PixelFacts


def scanning(
    units: Mapping[str, str],
    *,
    legacy: bool = False,
    cross_check: float = second.SHARE,
    fingerprints: bool = True,
) -> Reading[Scan]:
    """The reading of DICOM files.

    Args:
        units: Modality to ``file`` or ``series``; others are ignored.
        legacy: Whether files without preamble are taken, with a flag.
        cross_check: The part of all files that a second decoder reads, too; see `second`.
        fingerprints: Whether near copies will be looked for.
    """
    return Reading(
        read=Ref("medvlp.archive.dicom.scan:scan_file"),
        result=Scan,
        version=_VERSION,
        settings={
            "units": dict(units),
            "legacy": legacy,
            "cross_check": cross_check,
            "fingerprints": fingerprints,
        },
    )


def scan_file(
    paths: Sequence[Path],
    *,
    units: Mapping[str, str],
    legacy: bool = False,
    cross_check: float = second.SHARE,
    fingerprints: bool = True,
) -> Scan:
    """Read, parse and decode one file.

    Args:
        paths: The file.
        units: As in `scanning`.
        legacy: As in `scanning`.
        cross_check: As in `scanning`.
        fingerprints: As in `scanning`.

    Raises:
        Reject: The file is bad.
        Ignore: It holds no image, or one of a modality that nobody reads.
    """
    (path,) = paths
    refuse_packed(path)
    data = read_bytes(path)
    if is_dicomdir(data):
        raise dicomdir_verdict(data)
    dataset, header, flags = open_image(data, path, legacy=legacy)
    if header.modality not in units:
        raise Ignore("other_modality" if header.modality else "no_modality")
    sha256 = digest_bytes(data)
    with quiet():
        stored = decode(dataset, header)
        if second.is_sampled(sha256, cross_check):
            second.cross_check(dataset, header, stored)
        if units[header.modality] == "file":
            values = shown_values(stored, dataset, header)
            if values.min() == values.max():
                flags = (*flags, "no_information")
        facts = _facts(stored, header)
        if fingerprints:
            facts = replace(facts, fingerprint=_fingerprint(stored, header))
    return Scan(sha256=sha256, header=header, flags=flags, pixels=facts)


def _facts(stored: NDArray[Any], header: Header) -> PixelFacts:
    low, high = _range(stored, header)
    counts = _counts(stored, header) if header.modality == "CT" and not header.colour else ()
    return PixelFacts(digest=stored_digest(stored), low=low, high=high, counts=counts)


def _fingerprint(stored: NDArray[Any], header: Header) -> str:
    """Of the middle frame, colours averaged."""
    frames = stored.reshape(header.frames, header.rows, header.columns, -1)
    return fingerprint(frames[header.frames // 2].mean(axis=-1, dtype=np.float32))


def _counts(stored: NDArray[Any], header: Header) -> tuple[int, ...]:
    """The histogram of Hounsfield units over all frames."""
    frames = stored.reshape(header.frames, -1)
    values = [
        count_stored(frame, plane.slope, plane.intercept)
        for frame, plane in zip(frames, header.planes, strict=True)
    ]
    return tuple(sum(column) for column in zip(*values, strict=True))


def _range(stored: NDArray[Any], header: Header) -> tuple[float, float]:
    """Least and greatest rescaled value over all frames.

    Raises:
        Reject: ``nonfinite_rescale``: they are beyond what a float32 holds.
    """
    frames = stored.reshape(header.frames, -1)
    ends = np.stack([frames.min(axis=1), frames.max(axis=1)], axis=1).astype(np.float64)
    slopes = np.array([plane.slope for plane in header.planes])
    intercepts = np.array([plane.intercept for plane in header.planes])
    values = ends * slopes[:, None] + intercepts[:, None]
    low, high = float(values.min()), float(values.max())
    if max(-low, high) > _FLOAT32_MAX:
        raise Reject("nonfinite_rescale", tag_name("RescaleSlope"))
    return low, high
