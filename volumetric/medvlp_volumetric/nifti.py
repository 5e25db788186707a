"""NIfTI volumes: read with their affine, checked before they are believed."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator
from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.measure import Measured
from medvlp.archive.series.geometry import Provenance, Volume
from medvlp.archive.stage.child import Limits
from medvlp.archive.stage.reading import Reading
from medvlp.archive.tables.accounts import give_text
from medvlp.archive.tables.annotations import Annotations
from medvlp.archive.text.plaintext import read_text
from medvlp.archive.text.reports import ReportIndex, load_reports
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.config import STRICT
from medvlp.data.tables import PATIENT_IS_IMAGE
from medvlp.domain import Ref
from medvlp_volumetric.nifti_file import NiftiHeader, Stream, open_nifti
from medvlp_volumetric.told import NOTHING, Affine, Told, affine_of
from medvlp_volumetric.values import is_label_map, measured_volume, value_flags

SUFFIXES = (".nii", ".nii.gz")
_STEP = 1 << 17
"""Voxels read at a time: few enough that what is made of them stays near the processor."""
_NO_PLACE = frozenset({"no_geometry", "bad_affine", "bad_spacing"})
_PLAIN = frozenset(
    [
        "ct",
        "img",
        "image",
        "volume",
        "vol",
        "scan",
        "series",
        "chest",
        "thorax",
        "abdomen",
        "head",
        "nifti",
        "data",
    ]
)
"""Files' names that are words of reports and name nobody."""

_FARTHEST = float(np.finfo(np.float32).max)

Scale = tuple[float, float]
"""Slope and intercept."""

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith(SUFFIXES)


def read_nifti(path: Path, told: Told = NOTHING) -> Volume:
    """A volume in the orientation it is stored in, its rescale applied.

    Flags: those of the header (`medvlp_volumetric.nifti_file`), ``trailing_bytes``,
    ``no_information`` where all voxels are equal, else ``not_hu`` where the values cannot be
    Hounsfield units.

    Args:
        path: The file.
        told: What its set's tables tell of it: a scale is applied after the header's own, an
            affine stands in place of the header's.

    Raises:
        Reject: Not NIfTI, cut off, inflating without bound, not three-dimensional, not finite, or
            without a usable affine.
    """
    with open_nifti(path, told.matrix) as file:
        file.check_size()
        header = file.header
        scale = _joined(header.scale, told.scale)
        values_WHD = _values(header, scale, file.stream)
        flags = (*header.flags, *file.check_end())
    steps = ("rescaled",) if scale else ()
    history = Provenance(reader="nibabel", files=(path,), steps=steps)
    return Volume.from_whd(values_WHD, header.affine, (*flags, *value_flags(values_WHD)), history)


def stated_affine(path: Path) -> Affine | None:
    """Where a file's header says that its voxels lie; None where it tells nothing to go by.

    Raises:
        Reject: What else is wrong with the header.
    """
    try:
        with open_nifti(path) as file:
            return affine_of(file.header.affine)
    except Reject as verdict:
        if verdict.code not in _NO_PLACE:
            raise
        return None


def _joined(first: Scale | None, then: Scale | None) -> Scale | None:
    """Two scales, one after the other, as one."""
    if first is None or then is None:
        return first or then
    return first[0] * then[0], first[1] * then[0] + then[1]


def _values(header: NiftiHeader, scale: Scale | None, stream: Stream) -> NDArray[np.float32]:
    """The voxels, scaled while they are read, so that they are in memory once."""
    try:
        values = np.empty(math.prod(header.shape_WHD), np.float32)
    except MemoryError:
        raise Reject("memory") from None
    for start in range(0, len(values), _STEP):
        part = values[start : start + _STEP]
        data = stream.read(len(part) * header.dtype.itemsize)
        if len(data) < len(part) * header.dtype.itemsize:
            raise Reject("truncated_pixels")
        part[:] = _scaled(np.frombuffer(data, header.dtype), scale)
    return values.reshape(header.shape_WHD, order="F")


def _scaled(stored: NDArray[Any], scale: Scale | None) -> NDArray[Any]:
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise Reject("nonfinite_pixels")
    if scale is None:
        # No integer of 64 bits is beyond a float32.
        if stored.dtype.kind == "f" and _beyond(stored):
            raise Reject("nonfinite_pixels")
        return stored
    values = stored * np.float64(scale[0])
    values += scale[1]
    if _beyond(values):
        raise Reject("nonfinite_rescale")
    return values


def _beyond(values: NDArray[Any]) -> bool:
    return max(-float(values.min()), float(values.max())) > _FARTHEST


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NiftiOptions:
    """Settings of the kind ``nifti``: ``--set options.patient_pattern=...``."""

    patient_pattern: str = ""
    """Regular expression over the path inside the source folder; its first group is the patient.
    Without one every file is a patient, so give one if patients have several files."""

    accept_not_hu: bool = False
    """Take in volumes whose values cannot be Hounsfield units, with the flag ``not_hu``. One of
    whole values from 0 to 255 is then taken for grey levels if more than 128 of them occur, else
    for a mask as ever."""

    body_part: str = ""
    """What the volumes ought to show, such as CHEST; one that hardly does is flagged, as
    `medvlp_volumetric.check` says. NIfTI states no body part of its own."""

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
    name or by ``path``. A name that several volumes bear belongs to none. Masks are ignored.
    """
    options = intake.options(NiftiOptions)
    reports = load_reports(intake)
    annotations = Annotations.load(intake)
    files = list(intake.files())
    texts = {path for path in files if path.suffix.lower() == ".txt"}
    volumes = [path for path in files if is_nifti(path)]
    items = ((path,) for path in volumes)
    told: dict[str, Any] = {"body_part": options.body_part} if options.body_part else {}
    if options.accept_not_hu:
        told["grey"] = True
    reading = replace(READING, settings=told)
    sound: list[tuple[Path, Measured]] = []
    # Masks are often called as their volumes; two volumes of one name are told apart by neither,
    # also where one of them is refused or withdrawn.
    called = Counter(map(stem, intake.withdrawn_files()))
    for (path,), found in intake.read(reading, items, "Reading NIfTI"):
        with intake.judge([path], "read"):
            called[stem(path)] += not (isinstance(found, Ignore) and found.code == "label_map")
            if isinstance(found, Verdict):
                raise found
            if not options.accept_not_hu:
                refuse_not_hu(found.probe.flags)
            sound.append((path, found))
    if repeated := sum(called[stem(path)] > 1 for path, _ in sound):
        intake.notes["names_repeated"] = repeated
    for path, found in sound:
        with intake.judge([path], "read"):
            name = stem(path) if called[stem(path)] == 1 else None
            sample = _accept(root, intake, options, path, found)
            _attach_report(intake, reports, sample, path, name, texts)
            inside = _inside(root, path)
            annotations.apply(sample, accession=name, study_uid=name, path=inside)
    for path in intake.files():
        with intake.judge([path], "read"):
            raise _not_single(path)


def examine_nifti(paths: Sequence[Path], *, body_part: str = "", grey: bool = False) -> Measured:
    """Read one volume whole, as training will.

    Args:
        paths: The file.
        body_part: As in `NiftiOptions`.
        grey: As in `is_label_map`.

    Raises:
        Reject: See `read_nifti`.
        Ignore: See `read_scan`.
    """
    return measured_volume(paths, read_scan(paths[0], grey=grey), body_part)


def read_scan(path: Path, told: Told = NOTHING, *, grey: bool = False) -> Volume:
    """A volume that is no mask.

    Args:
        path: The file.
        told: As in `read_nifti`.
        grey: As in `is_label_map`.

    Raises:
        Reject: See `read_nifti`.
        Ignore: ``label_map``: a mask, which unscaled bytes are without being looked at, unless
            they may be grey levels.
    """
    with open_nifti(path, told.matrix) as file:
        if file.header.dtype == np.uint8 and file.header.scale is None and not grey:
            raise Ignore("label_map")
    volume = read_nifti(path, told)
    if is_label_map(volume.hu_DHW, grey=grey):
        raise Ignore("label_map")
    return volume


def refuse_not_hu(flags: Collection[str]) -> None:
    """Refuse a volume whose flags say that its values are no Hounsfield units.

    Raises:
        Reject: ``not_hu`` or ``double_rescale``.
    """
    for code in ("not_hu", "double_rescale"):
        if code in flags:
            raise Reject(code)


READING = Reading(
    read=Ref("medvlp_volumetric.nifti:examine_nifti"),
    result=Measured,
    version=3,
    limits=Limits(memory_mb=16384),
)
"""Volumes are read whole: one of 2**30 voxels takes 4 GiB as float32, and masks are made of it."""


def _not_single(path: Path) -> Verdict:
    """Why a file with another suffix is set aside: half of a pair, or none of ours."""
    if path.suffix.lower() in (".hdr", ".img"):
        try:
            with open_nifti(path.with_suffix(".hdr")):
                pass
        except Reject as verdict:
            if verdict.code in ("nifti_pair", "analyze"):
                return verdict
    return Ignore("not_nifti")


def stem(path: Path) -> str:
    """The file's name without NIfTI's suffixes."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.name


def _accept(root: Path, intake: Intake, options: NiftiOptions, path: Path, found: Measured) -> str:
    inside = _inside(root, path)
    match = re.search(options.patient_pattern, inside) if options.patient_pattern else None
    if options.patient_pattern and match is None:
        raise Reject("no_patient")
    columns = found.columns
    if match is None:
        columns["flags"] = (*columns["flags"], PATIENT_IS_IMAGE)
    return intake.accept(
        [path],
        kind="nifti",
        domain="volumetric",
        patient=match[1] if match else inside,
        study=inside,
        identity=inside,
        **columns,
        identifiers=(stem(path),) if stem(path).casefold() not in _PLAIN else (),
    )


def _attach_report(
    intake: Intake,
    reports: ReportIndex | None,
    sample: str,
    path: Path,
    name: str | None,
    texts: set[Path],
) -> None:
    beside = path.with_name(f"{stem(path)}.txt")
    if reports is not None and reports.attach(sample, name=name):
        return
    if beside in texts:
        with intake.judge([beside], "read"):
            give_text(intake, sample, read_text(beside))
            intake.cover([beside])
