"""What published sets share: the reading of one X-ray file with what its DICOM header tells."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from medvlp.archive.dicom.files import open_image, read_bytes
from medvlp.archive.dicom.values import Fields
from medvlp.archive.intake import Intake
from medvlp.archive.measure import Measured, measure
from medvlp.archive.pictures import is_picture
from medvlp.archive.stage.reading import Reading
from medvlp.archive.tables.accounts import take_files
from medvlp.domain import Ref

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
PICTURES = (".png", ".jpg", ".jpeg")

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

_VERSION = 2
_MOST_YEARS = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Xray:
    """What a set's reader learns from one image; of a PNG or JPEG that is its size alone."""

    measured: Measured
    age_years: float | None = None
    sex: str = ""
    view: str = ""
    scanner: str = ""

    @property
    def columns(self) -> dict[str, Any]:
        """Arguments of `Intake.accept`."""
        return {
            **self.measured.columns,
            "modality": self.measured.probe.modality or "DX",
            "age": self.age_years,
            "sex": self.sex or None,
            "view": self.view or None,
            "scanner": self.scanner or None,
        }

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.measured.probe.shape
        return rows, columns


def reading_xrays(*, burned_in: str = "allow") -> Reading[Xray]:
    """The reading of an image of a published set.

    Publishers have cleared these pixels, and several sets come as secondary captures, a class that
    is held in a hospital's archive. So nothing is held here; the flag ``burned_in_allowed`` stays.

    Args:
        burned_in: ``hold`` for a set whose images somebody else may have put beside it.
    """
    return Reading(
        read=Ref("medvlp.cxr.sets.xrays:read_facts"),
        result=Xray,
        version=_VERSION,
        settings={"burned_in": burned_in},
    )


def take_images(
    intake: Intake,
    images: Iterable[Path],
    rows: Mapping[K, R],
    key: Callable[[Path], K | None],
    accept: Callable[[Path, R, Xray], None],
) -> None:
    """`take_files` of X-rays.

    Args:
        intake: Accounts for every image.
        images: The set's images.
        rows: What is known of each image.
        key: By what an image finds its row.
        accept: Takes the image in; may raise a verdict.
    """
    reading = reading_xrays()
    take_files(intake, images, rows, key, lambda row: reading, accept, "Reading X-rays")


def read_facts(paths: Sequence[Path], *, burned_in: str = "allow") -> Xray:
    """Decode one image and take what its header tells.

    Raises:
        Reject: The file is bad.
        Ignore: A DICOM file without an image.
    """
    (path,) = paths
    measured = measure(paths, domain="cxr", burned_in=burned_in)
    if is_picture(path):
        return Xray(measured=measured)
    dataset, header, _ = open_image(read_bytes(path), path)
    age = header.age_years
    if age is None and (age := _bare_years(Fields(dataset))) is not None:
        flags = tuple(flag for flag in measured.probe.flags if flag != "bad_age")
        measured = replace(measured, probe=replace(measured.probe, flags=flags))
    return Xray(
        measured=measured,
        age_years=age,
        sex=header.sex,
        view=header.view,
        scanner=header.scanner,
    )


def _bare_years(fields: Fields) -> float | None:
    """An age without DICOM's unit, as RSNA and SIIM write it: years."""
    words = fields.text("PatientAge")
    return float(words) if words.isdecimal() and int(words) <= _MOST_YEARS else None
