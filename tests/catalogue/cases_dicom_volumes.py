"""What a CT series makes of bad geometry: refused as a volume, where a picture would be flagged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from catalogue.case import Array, Case, Write
from catalogue.raw import ct_slice, file_of, ramp, text
from medvlp.archive.series.read import read_series

SLICES = 4
SPACING, ORIENTATION = 0x00280030, 0x00200037


def hounsfield() -> Array:
    """The Hounsfield values of `raw.ct_slice`."""
    return np.stack([ramp().astype(np.float32) + k - 1024 for k in range(SLICES)])


def slices(name: str, **changes: str) -> Write:
    """A writer of one series with some decimal strings replaced."""
    tags = {"spacing": SPACING, "orientation": ORIENTATION, "slope": 0x00281053}

    def write(folder: Path) -> list[Path]:
        paths = []
        for k in range(SLICES):
            elements = ct_slice(name, k)
            elements |= {tags[field]: ("DS", text(value)) for field, value in changes.items()}
            paths.append(folder / f"{k}.dcm")
            paths[-1].write_bytes(file_of(elements))
        return paths

    return write


def volume(number: int, name: str, expected: str, **changes: str) -> Case:
    """A case of a whole series."""
    return Case(
        number=number,
        name=name,
        archive="dicom",
        write=slices(name, **changes),
        expected=expected,
        read=lambda paths: read_series(paths).hu_DHW,
        oracle=hounsfield,
    )


CASES = (
    volume(0, "ct-sound", "ACCEPT"),
    volume(56, "ct-spacing-0", "REJECT:bad_spacing", spacing="0\\0"),
    volume(56, "ct-spacing-negative", "REJECT:bad_spacing", spacing="-0.5\\-0.5"),
    volume(56, "ct-spacing-nan", "REJECT:bad_number", spacing="NaN\\0.5"),
    volume(57, "ct-orientation-0", "REJECT:bad_orientation", orientation="0\\0\\0\\0\\0\\0"),
    volume(57, "ct-orientation-skew", "REJECT:bad_orientation", orientation="1\\0\\0\\1\\0\\0"),
    volume(57, "ct-orientation-inf", "REJECT:bad_number", orientation="inf\\0\\0\\0\\1\\0"),
    volume(32, "ct-slope-nan", "REJECT:nonfinite_rescale", slope="nan"),
    volume(34, "ct-slope-0", "REJECT:zero_slope", slope="0"),
)
