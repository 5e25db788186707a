"""NIfTI volumes: read with their affine, checked before they are believed."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from medvlp.archive.annotations import Annotations
from medvlp.archive.geometry import Volume
from medvlp.archive.intake import Intake
from medvlp.archive.plaintext import read_text
from medvlp.archive.probe import Probe
from medvlp.archive.reports import ReportIndex, load_reports
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.config import STRICT

SUFFIXES = (".nii", ".nii.gz")
_MAX_VOXELS = 2**31
_MIN_AXIS_MM = 1e-3

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(SUFFIXES)


def _open(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Any = nib.load(path)
    except Exception:
        raise Reject("not_nifti") from None
    shape = image.shape
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3:
        raise Reject("not_3d", f"{len(shape)} axes")
    if min(shape) < 2:
        raise Reject("too_few_slices", f"{min(shape)} along the shortest axis")
    if np.prod(shape, dtype=np.int64) > _MAX_VOXELS:
        raise Reject("declared_exceeds_bytes")
    _check_affine(np.asarray(image.affine, dtype=np.float64))
    return image


def _check_affine(affine: NDArray[np.float64]) -> None:
    if not np.isfinite(affine).all():
        raise Reject("bad_affine", "not finite")
    axes = np.linalg.norm(affine[:3, :3], axis=0)
    if axes.min() < _MIN_AXIS_MM:
        raise Reject("bad_affine", "an axis of no length")
    cosines = affine[:3, :3] / axes
    if abs(np.linalg.det(cosines)) < 0.9:
        raise Reject("bad_affine", "axes not perpendicular")


def probe_nifti(path: Path) -> Probe:
    """Shape (D,H,W) and spacing of the array as `read_nifti` gives it, from the header.

    Raises:
        Reject: Not NIfTI, not three-dimensional, or a bad affine.
    """
    image = _open(path)
    w, h, d = image.shape[:3]
    dx, dy, dz = (float(x) for x in np.linalg.norm(image.affine[:3, :3], axis=0))
    return Probe(shape=(d, h, w), spacing_mm=(dz, dy, dx), reader="nibabel")


def read_nifti(path: Path) -> Volume:
    """A volume in the orientation it is stored in, its rescale applied.

    Flags: ``not_hu`` where the values cannot be Hounsfield units.

    Raises:
        Reject: Not NIfTI, cut off, not three-dimensional, not finite, or a bad affine.
    """
    image = _open(path)
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError:
        raise Reject("memory") from None
    except Exception:
        raise Reject("truncated_pixels") from None
    values_WHD = values.reshape(values.shape[:3])
    if not np.isfinite(values_WHD).all():
        raise Reject("nonfinite_pixels")
    flags = () if looks_like_hu(values_WHD) else ("not_hu",)
    return Volume.from_whd(values_WHD, np.asarray(image.affine, dtype=np.float64), flags)


def looks_like_hu(values: NDArray[np.float32]) -> bool:
    """Whether the values can be Hounsfield units: as dark as fat or air, and as bright as bone."""
    return float(values.min()) <= -100 and float(values.max()) >= 100


def is_label_map(values: NDArray[np.float32]) -> bool:
    """Whether the values are a mask's: whole, from 0, and at most 255."""
    if float(values.min()) < 0 or float(values.max()) > 255:
        return False
    return bool((values == np.rint(values)).all())


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NiftiOptions:
    """Settings of the kind ``nifti``: ``--set options.patient_pattern=...``."""

    patient_pattern: str = ""
    """Regular expression over the path inside the source folder; its first group is the patient.
    Without one every file is a patient, so give one if patients have several files."""

    accept_not_hu: bool = False
    """Take in volumes whose values cannot be Hounsfield units, with the flag ``not_hu``."""

    @field_validator("patient_pattern")
    @classmethod
    def _has_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error.msg}") from error
        if value and not groups:
            raise ValueError("put the part that names the patient into brackets")
        return value


def index_nifti(root: Path, intake: Intake) -> None:
    """Take in every CT volume under `root`.

    A report is the table's or folder's row of the file's name (without suffix) as accession
    number or study, or a .txt file of that name beside the volume; annotation tables go by the same
    name or by ``path``. Masks are ignored.
    """
    options = intake.options(NiftiOptions)
    reports = load_reports(intake)
    annotations = Annotations.load(intake)
    files = list(intake.files())
    texts = {path for path in files if path.suffix.lower() == ".txt"}
    volumes = [path for path in files if is_nifti(path)]
    for path, found in intake.map(_examine, volumes, "Reading NIfTI"):
        with intake.judge([path], "read"):
            if isinstance(found, Verdict):
                raise found
            if "not_hu" in found.flags and not options.accept_not_hu:
                raise Reject("not_hu")
            sample = _accept(root, intake, options, path, found)
            _attach_report(intake, reports, sample, path, texts)
            name, inside = stem(path), _inside(root, path)
            annotations.apply(sample, accession=name, study_uid=name, path=inside)
    for path in intake.files():
        intake.ignore(path, "not_nifti")


class _Examined:
    """What is kept of a volume that was read to check it."""

    def __init__(self, volume: Volume) -> None:
        self.shape = volume.hu_DHW.shape
        self.spacing_mm = volume.spacing_mm
        self.flags = volume.flags


def _examine(path: Path) -> _Examined | Verdict:
    try:
        volume = read_nifti(path)
    except Verdict as verdict:
        return verdict
    if is_label_map(volume.hu_DHW):
        return Ignore("label_map")
    return _Examined(volume)


def stem(path: Path) -> str:
    """The file's name without NIfTI's suffixes."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.name


def _accept(root: Path, intake: Intake, options: NiftiOptions, path: Path, found: _Examined) -> str:
    inside, name = _inside(root, path), stem(path)
    match = re.search(options.patient_pattern, inside) if options.patient_pattern else None
    if options.patient_pattern and match is None:
        raise Reject("no_patient")
    return intake.accept(
        [path],
        kind="nifti",
        domain="volumetric",
        patient=match[1] if match else inside,
        study=inside,
        identity=inside,
        modality="CT",
        shape=found.shape,
        spacing_mm=found.spacing_mm,
        reader="nibabel",
        flags=found.flags,
        identifiers=(name,),
    )


def _attach_report(
    intake: Intake, reports: ReportIndex | None, sample: str, path: Path, texts: set[Path]
) -> None:
    name = stem(path)
    text = reports.find(accession=name, study_uid=name) if reports else None
    beside = path.with_name(f"{name}.txt")
    if text is None and beside in texts:
        with intake.judge([beside], "read"):
            text = read_text(beside).text
            intake.cover([beside])
    if text:
        intake.report(sample, text)
