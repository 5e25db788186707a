"""What can be said of a sample's files without reading them whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medvlp.archive.dicom.pixels import stored_digest
from medvlp.archive.duplicates.fingerprint import fingerprint
from medvlp.archive.pictures import read_grey


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Size, scale and rate of one sample, for the manifest's columns of the same names."""

    shape: tuple[int, ...]
    """Array order of the domain's reader: (rows, columns), (slices, rows, columns), or
    (frames, rows, columns)."""

    spacing_mm: tuple[float, ...] | None = None
    """Millimetres along each axis of `shape`."""

    fps: float | None = None
    duration_s: float | None = None
    modality: str = ""
    reader: str = ""
    """Which decoder reads it."""

    pixels_digest: str = ""
    """Equal where the decoded pixels are; blank where they were not decoded."""

    fingerprint: str | None = None
    """Of `fingerprint.fingerprint`; None where the pixels were not decoded."""

    flags: tuple[str, ...] = ()
    """What reading it remarked, for the sample's flags."""

    burned_in: str = ""
    """Number of the element that says that names may be burned into the pixels."""

    bad_frames: tuple[int, ...] = ()
    """Places of a video's frames that do not decode, as far as it was looked at."""


def probe_picture(path: Path) -> Probe:
    """Shape (rows, columns) of a PNG, JPEG or TIFF, which is decoded to see that it can be.

    Raises:
        Reject: See `read_grey`.
    """
    picture = read_grey(path)
    height, width = picture.values.shape
    return Probe(
        shape=(height, width),
        reader="pillow",
        pixels_digest=stored_digest(picture.values),
        fingerprint=fingerprint(picture.values),
        flags=picture.flags,
    )
