"""Chest X-rays from DICOM, PNG, JPEG and TIFF as one float image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.dicom.burned_in import risk_of, unstated_flags
from medvlp.archive.dicom.files import may_be_dicom, open_image, read_bytes, read_image, xray
from medvlp.archive.dicom.part10 import NO_PREAMBLE
from medvlp.archive.dicom.pixels import stored_digest
from medvlp.archive.duplicates.fingerprint import fingerprint
from medvlp.archive.pictures import is_picture, read_grey
from medvlp.archive.probe import Probe, probe_picture
from medvlp.archive.walk import is_junk
from medvlp.errors import InputError


def resolve(path: Path) -> list[tuple[Path, ...]]:
    """The X-rays in a file or folder, one file each, in name order.

    Raises:
        InputError: There is no such path, or nothing in it that could be an X-ray.
    """
    if path.is_file():
        return [(path,)]
    found = sorted(p for p in path.rglob("*") if _may_be_xray(p) and not is_junk(p, path))
    if not found:
        raise InputError(
            "the input holds no DICOM, PNG, JPEG or TIFF file"
            if path.is_dir()
            else "no such input",
            remedy="name an X-ray file or a folder of them",
        )
    return [(p,) for p in found]


def _may_be_xray(path: Path) -> bool:
    may_be = is_picture(path) or may_be_dicom(path)
    return may_be and path.is_file() and not path.name.startswith(".")


def probe(paths: Sequence[Path]) -> Probe:
    """Shape and pixel spacing of one X-ray, which is decoded to see that it can be.

    Raises:
        Reject: The file is bad.
        Ignore: A DICOM file without an image.
    """
    (path,) = paths
    if is_picture(path):
        return probe_picture(path)
    dataset, header, flags = open_image(read_bytes(path), path)
    values = xray(dataset, header)
    if values.min() == values.max():
        flags = (*flags, "no_information")
    return Probe(
        shape=(header.rows, header.columns),
        spacing_mm=header.spacing_mm,
        modality=header.modality,
        reader="pydicom",
        pixels_digest=stored_digest(values),
        fingerprint=fingerprint(values),
        flags=(*flags, *unstated_flags(header)),
        burned_in=risk_of(header),
    )


def read_xray(path: Path, flags: Sequence[str] = ()) -> NDArray[np.float32]:
    """One X-ray, (H,W), brighter where X-rays were stopped; full bit depth, no fixed range.

    Args:
        path: The file.
        flags: The sample's, which say whether a DICOM file without preamble is taken.

    Raises:
        Reject: The file is bad.
        Ignore: A DICOM file without an image.
    """
    if is_picture(path):
        return read_grey(path).values
    return read_image(path, legacy=NO_PREAMBLE in flags)
