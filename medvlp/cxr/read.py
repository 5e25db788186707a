"""Chest X-rays from DICOM, PNG, JPEG and TIFF as one float image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlp.archive.dicom import may_be_dicom, read_header, read_image
from medvlp.archive.probe import Probe
from medvlp.archive.verdict import Reject
from medvlp.errors import InputError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_MAX_PIXELS = 2**27
"""More than any detector has; a file that declares more is refused before it is decoded."""


def resolve(path: Path) -> list[tuple[Path, ...]]:
    """The X-rays in a file or folder, one file each, in name order.

    Raises:
        InputError: There is no such path, or nothing in it that could be an X-ray.
    """
    if path.is_file():
        return [(path,)]
    found = sorted(p for p in path.rglob("*") if _may_be_xray(p))
    if not found:
        raise InputError(
            "the input holds no DICOM, PNG, JPEG or TIFF file"
            if path.is_dir()
            else "no such input",
            remedy="name an X-ray file or a folder of them",
        )
    return [(p,) for p in found]


def _may_be_xray(path: Path) -> bool:
    picture = path.suffix.lower() in PICTURE_SUFFIXES
    return (picture or may_be_dicom(path)) and path.is_file() and not path.name.startswith(".")


def probe(paths: Sequence[Path]) -> Probe:
    """Shape and pixel spacing of one X-ray, from its header.

    Raises:
        Reject: The file is bad.
        Ignore: A DICOM file without an image.
    """
    (path,) = paths
    if path.suffix.lower() in PICTURE_SUFFIXES:
        with _open_picture(path) as picture:
            return Probe(shape=(picture.height, picture.width), reader="pillow")
    header = read_header(path)
    return Probe(
        shape=(header.rows, header.columns),
        spacing_mm=header.planes[0].spacing,
        modality=header.modality,
        reader="pydicom",
    )


def read_xray(path: Path) -> NDArray[np.float32]:
    """One X-ray, (H,W), brighter where X-rays were stopped; full bit depth, no fixed range.

    Raises:
        Reject: The file is bad.
        Ignore: A DICOM file without an image.
    """
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _read_picture(path)
    return read_image(path)


def _open_picture(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
    except Image.DecompressionBombError:
        raise Reject("declared_exceeds_bytes") from None
    except Exception:
        raise Reject("not_a_picture") from None
    if picture.width * picture.height > _MAX_PIXELS:
        picture.close()
        raise Reject("declared_exceeds_bytes", f"{picture.width}x{picture.height}")
    return picture


def _read_picture(path: Path) -> NDArray[np.float32]:
    with _open_picture(path) as picture:
        try:
            # "I;16" and "I" hold 16-bit greys, which convert("L") would clip to 255.
            grey = picture if picture.mode.startswith(("I", "F")) else _to_grey(picture)
            values = np.asarray(grey, dtype=np.float32)
        except Exception:
            raise Reject("codec") from None
    if values.ndim != 2 or not np.isfinite(values).all():
        raise Reject("nonfinite_pixels")
    return values


def _to_grey(picture: Image.Image) -> Image.Image:
    # A palette or transparency must become colours before it becomes grey.
    return picture.convert("RGB").convert("L") if picture.mode not in ("L", "1") else picture
