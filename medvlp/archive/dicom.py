"""Opening DICOM files that nobody vouches for: every failure becomes a verdict with a code.

Nothing that pydicom says reaches a message or a log, because its warnings and errors quote values.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import error as inflate_error

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError

from medvlp.archive import pixels
from medvlp.archive.header import Header, header_of, tag_name
from medvlp.archive.verdict import Ignore, Reject

# Its records quote values from headers, too.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_PIXEL_DATA = 0x7FE00010
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_UNDEFINED_LENGTH = 0xFFFFFFFF
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


def read_bytes(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        Reject: The system refuses to read it.
    """
    try:
        return path.read_bytes()
    except OSError:
        raise Reject("unreadable") from None


def parse(data: bytes | Path, *, pixels: bool = True) -> FileDataset:
    """Parse a file's bytes, or as much of a file as comes before its pixels.

    Raises:
        Reject: Not DICOM, cut off, nested too deep, or malformed.
    """
    source: Any = BytesIO(data) if isinstance(data, bytes) else data
    try:
        dataset = dcmread(source, stop_before_pixels=not pixels)
    except InvalidDicomError:
        raise Reject("not_dicom") from None
    except RecursionError:
        raise Reject("depth") from None
    except EOFError:
        raise Reject("truncated_header") from None
    except MemoryError:
        raise Reject("memory") from None
    except inflate_error:
        raise Reject("inflate") from None
    except OSError:
        raise Reject("unreadable") from None
    except Exception:
        raise Reject("bad_header") from None
    _check_cut(dataset)
    return dataset


def _check_cut(dataset: FileDataset) -> None:
    """Refuse a header whose last element is shorter than it says: the file was cut off."""
    if not dataset:
        raise Reject("truncated_header")
    last = list(dataset.keys())[-1]
    element = dataset.get_item(last)
    length = getattr(element, "length", _UNDEFINED_LENGTH)
    if last == _PIXEL_DATA or length == _UNDEFINED_LENGTH or not isinstance(element.value, bytes):
        return
    if len(element.value) < length:
        raise Reject("truncated_header", f"({last >> 16:04X},{last & 0xFFFF:04X})")


def _require_image(dataset: FileDataset) -> None:
    """Set aside what carries no image (reports, documents, structure sets)."""
    if "Rows" not in dataset and "Columns" not in dataset:
        if _PIXEL_DATA in dataset:
            raise Reject("pixel_module", tag_name("Rows"))
        raise Ignore("no_pixels")
    if any(tag in dataset for tag in _FLOAT_PIXELS):
        raise Reject("pixel_module", "(7FE0,0008)")


def read_header(path: Path) -> Header:
    """The header of an image file; pixels are not read.

    Raises:
        Reject: Not DICOM, or a header that cannot be trusted.
        Ignore: A DICOM file without an image.
    """
    with quiet():
        dataset = parse(path, pixels=False)
        _require_image(dataset)
        return header_of(dataset, path)


def open_image(data: bytes, path: Path) -> tuple[FileDataset, Header, tuple[str, ...]]:
    """Parse a whole file: the data set, its header, and flags; sizes are checked, not decoded.

    Raises:
        Reject: Header or pixel bytes cannot be trusted.
        Ignore: A DICOM file without an image.
    """
    with quiet():
        dataset = parse(data)
        _require_image(dataset)
        header = header_of(dataset, path)
        return dataset, header, (*header.flags, *pixels.check_size(dataset, header))


def read_image(path: Path) -> NDArray[np.float32]:
    """A radiograph, float32 (rows, columns): rescaled, windowed, MONOCHROME1 inverted once.

    Raises:
        Reject: The file is bad.
        Ignore: It holds no image.
    """
    dataset, header, _ = open_image(read_bytes(path), path)
    return xray(dataset, header)


def xray(dataset: FileDataset, header: Header) -> NDArray[np.float32]:
    """The radiograph in an opened file, as `read_image` gives it.

    Raises:
        Reject: The pixels are bad.
    """
    with quiet():
        return pixels.xray_values(dataset, header)


def read_planes(path: Path) -> NDArray[np.float32]:
    """Every frame's rescaled values (HU for CT), float32 (frames, rows, columns).

    Raises:
        Reject: The file is bad.
        Ignore: It holds no image.
    """
    dataset, header, _ = open_image(read_bytes(path), path)
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
