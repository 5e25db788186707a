"""The CT phantom: series of chest and abdomen with reports, and the truth about both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.phantom import truth
from medvlp.phantom.dicom import write_ct_series
from medvlp.phantom.grammar import Finding
from medvlp.phantom.nifti import write_nifti
from medvlp.phantom.patients import (
    Patient,
    accession,
    draw_patient,
    patient_generator,
    uid,
    uid_number,
)
from medvlp.phantom.report import write_report
from medvlp.phantom.write import Phantom, PhantomConfig, Row, Rows
from medvlp_volumetric import phantom_draw as draw
from medvlp_volumetric import phantom_findings as catalogue
from medvlp_volumetric.phantom_words import STYLE, WORDS

KEY = "study_uid"
_DOMAIN = "volumetric"
_REVERSED = 0.25
_INTERCEPTS = (-1024, 0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CtPhantomConfig(PhantomConfig):
    """Settings of the CT phantom; the field of view does not change with the size."""

    slices: Annotated[int, Field(ge=16, le=1024)] = 64
    size: Annotated[int, Field(ge=48, le=512)] = 128
    """Rows and columns."""
    format: Literal["dicom", "nifti"] = "dicom"
    masks: bool = True
    """Write the organ map and the lesion map beside the boxes."""
    findings: Annotated[tuple[str, ...], Field(min_length=1)] = catalogue.NAMES
    """Findings to draw from; leave out those that coarse slices cannot show."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.findings) - set(catalogue.NAMES))
        if unknown:
            raise ValueError(f"findings: {unknown} are none of {', '.join(catalogue.NAMES)}")


def paint(findings: list[Finding], slices: int, size: int, rng: np.random.Generator) -> draw.Volume:
    """Draw a volume that shows `findings` and nothing else, in HU without noise."""
    by_name = {finding.name: finding for finding in findings}
    volume = draw.blank(draw.draw_build(rng), slices, size)
    draw.draw_abdomen(volume, catalogue.spleen_scale(by_name.get("splenomegaly")))
    draw.draw_bones(volume)
    draw.draw_chest(volume, rng, catalogue.inflation(by_name.get("emphysema")))
    fluid = by_name.get("pericardial_effusion")
    rim, sac = draw.draw_heart(
        volume, catalogue.heart_scale(by_name.get("cardiomegaly")), catalogue.fluid_mm(fluid)
    )
    if fluid:
        volume.mark(fluid, rim, sac)
    draw.draw_aorta(volume)
    for name, painter in catalogue.PAINTERS.items():
        if name in by_name:
            painter(volume, by_name[name], rng)
    return volume


def acquire(volume: draw.Volume, rng: np.random.Generator) -> NDArray[np.int16]:
    """What a scanner makes of it: noise, whole HU, nothing below air."""
    fast = np.random.Generator(np.random.SFC64(rng.integers(2**63)))
    hu = fast.standard_normal(volume.hu.shape, dtype=np.float32)
    hu *= np.float32(volume.build.noise_hu)
    hu += volume.hu
    np.rint(hu, out=hu)
    np.clip(hu, -1024, 3071, out=hu)
    return hu.astype(np.int16)


def write_patient(folder: Path, config: CtPhantomConfig, index: int) -> Rows:
    """Write the study of patient `index`; see `medvlp.phantom.write.Phantom`."""

    def rng(purpose: str) -> np.random.Generator:
        return patient_generator(_DOMAIN, config.seed, index, purpose)

    patient = draw_patient(_DOMAIN, config.seed, index)
    study = uid(_DOMAIN, config.seed, index, "study")
    findings = catalogue.draw_findings(rng("findings"), config.findings)
    volume = paint(findings, config.slices, config.size, rng("image"))
    hu = acquire(volume, rng("noise"))
    spacing = (
        draw.HEIGHT_MM / config.slices, draw.FIELD_MM / config.size, draw.FIELD_MM / config.size,
    )  # fmt: skip
    origin = _origin(config, spacing, rng("table"))
    if config.format == "dicom":
        _write_series(folder, config, hu, patient, index, spacing, origin)
    else:
        write_nifti(folder / "nifti" / patient.id / f"{study}.nii.gz", hu, spacing, origin)
    thickness = f"{spacing[0]:.1f}"
    text, denied = write_report(rng("report"), STYLE, findings, thickness=thickness)
    return {
        truth.REPORTS: [{"accession": accession(patient, 0), "study_uid": study, "text": text}],
        truth.LABELS: truth.label_rows(KEY, study, findings, config.findings),
        truth.ENTITIES: truth.entity_rows(KEY, study, findings, denied, WORDS),
        truth.REGIONS: _region_rows(folder, study, volume, spacing, origin, config.masks),
    }


def _origin(
    config: CtPhantomConfig, spacing: tuple[float, ...], rng: np.random.Generator
) -> draw.Point:
    """The first voxel's centre; the table's height is the scanner's own affair."""
    x, y = (-(config.size - 1) / 2 * spacing[2], -(config.size - 1) / 2 * spacing[1])
    return (x, y, round(float(rng.uniform(-900, 200)), 1))


def _write_series(
    folder: Path, config: CtPhantomConfig, hu: NDArray[np.int16], patient: Patient, index: int,
    spacing: tuple[float, ...], origin: draw.Point,
) -> None:  # fmt: skip
    rng = patient_generator(_DOMAIN, config.seed, index, "acquisition")
    study, series, frame = (
        uid(_DOMAIN, config.seed, index, part) for part in ("study", "series", "frame")
    )
    intercept = int(rng.choice(_INTERCEPTS))
    write_ct_series(
        folder / "dicom" / study / series, hu - np.int16(intercept), patient, spacing_mm=spacing,
        origin_mm=origin, intercept=intercept,
        first_uid=uid_number(_DOMAIN, config.seed, index, "slices"),
        order=rng.permutation(config.slices), reverse_numbers=bool(rng.random() < _REVERSED),
        AccessionNumber=accession(patient, 0), StudyInstanceUID=study, SeriesInstanceUID=series,
        FrameOfReferenceUID=frame, SeriesNumber=2, BodyPartExamined="CHESTABDOMEN",
    )  # fmt: skip


def _region_rows(
    folder: Path, study: str, volume: draw.Volume, spacing: tuple[float, ...],
    origin: draw.Point, masks: bool,
) -> list[Row]:  # fmt: skip
    boxes = (truth.box_row(KEY, study, name, mask) for name, mask in volume.masks.items())
    rows = [row for row in boxes if row]
    if not masks:
        return rows
    organs = Path("truth") / "masks" / f"{study}-organs.nii.gz"
    write_nifti(folder / organs, volume.organs, spacing, origin)
    rows += [
        truth.mask_row(KEY, study, name, organs, value) for value, name in enumerate(draw.ORGANS, 1)
    ]
    for name, mask in volume.masks.items():
        file = Path("truth") / "masks" / f"{study}-{name}.nii.gz"
        write_nifti(folder / file, mask.astype(np.uint8), spacing, origin)
        rows.append(truth.mask_row(KEY, study, name, file))
    return rows


def index_options(config: CtPhantomConfig) -> Mapping[str, Any]:
    """The options with which ``medvlp index --kind dicom`` or ``nifti`` reads the archive."""
    if config.format == "dicom":
        return truth.INDEX_OPTIONS
    return {**truth.INDEX_OPTIONS, "options": {"patient_pattern": "nifti/([^/]+)/"}}


PHANTOM = Phantom(
    config=CtPhantomConfig,
    patient=write_patient,
    tables=truth.radiology_tables(KEY),
    index=index_options,
)
