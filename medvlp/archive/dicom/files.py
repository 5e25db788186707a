"""Opening DICOM files that nobody vouches for: every failure becomes a verdict with a code.

Nothing that pydicom says reaches a message or a log, because its warnings and errors quote values.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from medvlp.archive.dicom import pixels
from medvlp.archive.dicom.elements import PIXEL_DATA, Tree, walk
from medvlp.archive.dicom.header import Header, header_of
from medvlp.archive.dicom.part10 import open_body
from medvlp.archive.dicom.values import tag_name
from medvlp.archive.verdict import Ignore, Reject

# Its records quote values from headers, too.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_ROWS, _COLUMNS = 0x00280010, 0x00280011
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_SUFFIXES = frozenset({"", ".dcm", ".dicom", ".ima", ".dic"})


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what pydicom and its decoders warn of, for it quotes values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def may_be_dicom(path: Path) -> bool:
    """Whether the name promises DICOM (or promises nothing, as most exports do)."""
    return path.suffix.lower() in _SUFFIXES or path.suffix[1:].isdigit()


def is_dicom(path: Path) -> bool:
    """Whether the content says that it is DICOM, whatever the name promises."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_bytes(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        Reject: The system refuses to read it.
    """
    try:
        return path.read_bytes()
    except OSError:
        raise Reject("unreadable") from None


def parse(data: bytes, *, legacy: bool = False) -> tuple[Dataset, Tree]:
    """A file's data set, its values unread, and what its structure is like.

    Args:
        data: The whole file.
        legacy: Whether a data set without preamble and magic is taken.

    Raises:
        Reject: Not DICOM, cut off, nested too deep, a bomb, or malformed.
    """
    tree = walk(open_body(data, legacy=legacy))
    return dataset_of(tree), tree


def dataset_of(tree: Tree) -> Dataset:
    """The data set as pydicom knows it, its values unread; private elements are left out."""
    body = tree.body
    raw = {}
    for tag, element in tree.elements.items():
        if tag >> 16 & 1:
            continue
        raw[BaseTag(tag)] = RawDataElement(
            BaseTag(tag),
            element.vr or None,
            element.length,
            body.data[element.start : element.end],
            element.start,
            element.implicit,
            body.little,
        )
    dataset = Dataset(raw)  # type: ignore[arg-type]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(body.syntax)
    return dataset


def _require_image(tree: Tree) -> None:
    """Set aside what carries no image (reports, documents, structure sets)."""
    if _ROWS not in tree.elements and _COLUMNS not in tree.elements:
        if PIXEL_DATA in tree.elements:
            raise Reject("pixel_module", tag_name("Rows"))
        raise Ignore("no_pixels")
    if any(tag in tree.elements for tag in _FLOAT_PIXELS):
        raise Reject("pixel_module", "(7FE0,0008)")


def read_header(path: Path, *, legacy: bool = False) -> Header:
    """The header of an image file; pixels are not read.

    Args:
        path: The file.
        legacy: As for `parse`.

    Raises:
        Reject: Not DICOM, or a header that cannot be trusted.
        Ignore: A DICOM file without an image.
    """
    return _header(read_bytes(path), path, legacy)[1]


def _header(data: bytes, path: Path, legacy: bool) -> tuple[Dataset, Header, Tree]:
    with quiet():
        dataset, tree = parse(data, legacy=legacy)
        _require_image(tree)
        header = header_of(dataset, path)
    flags = dict.fromkeys((*tree.flags, *_overlay_flags(tree), *header.flags))
    return dataset, replace(header, flags=tuple(flags)), tree


def _overlay_flags(tree: Tree) -> tuple[str, ...]:
    """``overlay_bits`` where an overlay says that it lives in unused bits of the pixels."""
    places = (tree.value(group << 16 | 0x0102) for group in range(0x6000, 0x601F, 2))
    return ("overlay_bits",) if any(place.strip(b"\0") for place in places) else ()


def open_image(
    data: bytes, path: Path, *, legacy: bool = False
) -> tuple[Dataset, Header, tuple[str, ...]]:
    """Parse a whole file: the data set, its header, and flags; sizes are checked, not decoded.

    Args:
        data: The file.
        path: Where it lies.
        legacy: As for `parse`.

    Raises:
        Reject: Header or pixel bytes cannot be trusted.
        Ignore: A DICOM file without an image.
    """
    dataset, header, tree = _header(data, path, legacy)
    with quiet():
        found = pixels.check(dataset, header, follows=tree.follows)
    return dataset, header, (*header.flags, *found)


def read_image(path: Path, *, legacy: bool = False) -> NDArray[np.float32]:
    """A radiograph, float32 (rows, columns): rescaled, windowed, MONOCHROME1 inverted once.

    Args:
        path: The file.
        legacy: As for `parse`.

    Raises:
        Reject: The file is bad.
        Ignore: It holds no image.
    """
    dataset, header, _ = open_image(read_bytes(path), path, legacy=legacy)
    return xray(dataset, header)


def xray(dataset: Dataset, header: Header) -> NDArray[np.float32]:
    """The radiograph in an opened file, as `read_image` gives it.

    Raises:
        Reject: The pixels are bad.
    """
    with quiet():
        return pixels.xray_values(dataset, header)


def read_planes(
    path: Path, *, legacy: bool = False, header: Header | None = None
) -> NDArray[np.float32]:
    """Every frame's rescaled values (HU for CT), float32 (frames, rows, columns).

    Args:
        path: The file.
        legacy: As for `parse`.
        header: As `read_header` gave it of this file, if it did: the structure is walked and the
            pixels are compared with it anew, its values are not converted twice.

    Raises:
        Reject: The file is bad.
        Ignore: It holds no image.
    """
    data = read_bytes(path)
    if header is None:
        dataset, header, _ = open_image(data, path, legacy=legacy)
    else:
        with quiet():
            dataset, tree = parse(data, legacy=legacy)
            pixels.check(dataset, header, follows=tree.follows)
    with quiet():
        return pixels.planes_of_values(dataset, header)


def pixel_digest(path: Path) -> str:
    """`pixels.stored_digest` of a file: tells a repeated slice from a second one in its place.

    Raises:
        Reject: The file is bad.
    """
    dataset, header, _ = open_image(read_bytes(path), path)
    with quiet():
        return pixels.stored_digest(pixels.decode(dataset, header))
