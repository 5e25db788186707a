"""What a volume's values say of themselves, and what is noted of a volume that was read whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.dicom.pixels import stored_digest
from medvlp.archive.duplicates.fingerprint import fingerprint
from medvlp.archive.measure import Measured, measured
from medvlp.archive.probe import Probe
from medvlp.archive.series.bodypart import Facts
from medvlp.archive.series.geometry import Volume
from medvlp.archive.series.hounsfield import absent_peaks, count_volume, scale_code, some_of
from medvlp_volumetric.check import check_volume

_FARTHEST_HU = 70_000
_MOST_LABELS = 128
"""Label maps have fewer values (TotalSegmentator's 118), an 8-bit picture of CT has more."""


def is_label_map(values: NDArray[np.float32], *, grey: bool = False) -> bool:
    """Whether the values are a mask's: whole, from 0, and at most 255.

    Args:
        values: Of a whole volume.
        grey: Whether more than 128 of the 256 values are a picture's grey levels instead.
    """
    if float(values.min()) < 0 or float(values.max()) > 255:
        return False
    if not (values == np.rint(values)).all():
        return False
    return not grey or len(levels_of(values)) <= _MOST_LABELS


def levels_of(values: NDArray[np.float32]) -> list[int]:
    """All values that occur in a volume of whole numbers from 0 to 255."""
    seen = np.zeros(256, bool)
    for plane in values:
        seen[plane.astype(np.uint8)] = True
    return [int(value) for value in np.flatnonzero(seen)]


def is_scaled_twice(hu_DHW: NDArray[np.float32]) -> bool:
    """Whether a volume shows a body only on a scale that is moved; some voxels are asked first."""
    some = hu_DHW[some_of(hu_DHW.shape)]
    return bool(scale_code(count_volume(some)) and scale_code(count_volume(hu_DHW)))


def value_flags(values: NDArray[np.float32]) -> tuple[str, ...]:
    """``no_information`` where all voxels are equal, else ``not_hu`` where they cannot be HU.

    Hounsfield units are as dark as fat or air, as bright as bone, and no further out than 16 bits
    of any slope that scanners write.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return ("no_information",)
    plausible = -_FARTHEST_HU <= low <= -100 and 100 <= high <= _FARTHEST_HU
    return () if plausible else ("not_hu",)


def measured_volume(paths: Sequence[Path], volume: Volume, body_part: str = "") -> Measured:
    """What `probe_volume` finds, and the digest of the volume's files.

    Args:
        paths: Its files.
        volume: As it was read from them.
        body_part: As in `probe_volume`.
    """
    return measured(paths, probe_volume(volume, body_part))


def probe_volume(volume: Volume, body_part: str = "") -> Probe:
    """Size, scale, fingerprint and flags of a volume, its histogram among them.

    Flags: those of the volume, ``double_rescale``, ``no_air_peak``, ``no_tissue_peak``, and, where
    it ought to show a body part, those of `medvlp_volumetric.check`.

    Args:
        volume: As it was read.
        body_part: What it ought to show; empty if anything.
    """
    d, h, w = volume.hu_DHW.shape
    axial = volume.canonical().hu_DHW
    return Probe(
        shape=(d, h, w),
        spacing_mm=volume.spacing_mm,
        modality="CT",
        reader=volume.provenance.reader,
        pixels_digest=stored_digest(volume.hu_DHW),
        fingerprint=fingerprint(axial[len(axial) // 2]),
        flags=(*volume.flags, *_value_flags(volume, body_part)),
    )


def _value_flags(volume: Volume, body_part: str) -> tuple[str, ...]:
    """What the histogram says of the scale and of what is shown."""
    if volume.units != "HU":
        return ()
    counts = count_volume(volume.hu_DHW)
    code = scale_code(counts)
    scale = (code,) if code else absent_peaks(counts)
    if not body_part:
        return scale
    axial = volume.canonical()
    d, h, w = axial.hu_DHW.shape
    facts = Facts(
        shape=(d, h, w), spacing_mm=axial.spacing_mm, counts=counts, body_part=body_part.upper()
    )
    return (*scale, *check_volume(facts))
