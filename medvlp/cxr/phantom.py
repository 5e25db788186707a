"""The chest X-ray phantom: DICOM radiographs with reports, and the truth about both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.cxr import phantom_draw as draw
from medvlp.cxr import phantom_findings as catalogue
from medvlp.cxr.phantom_words import STYLE, WORDS
from medvlp.phantom import truth
from medvlp.phantom.dicom import write_radiograph
from medvlp.phantom.grammar import Finding
from medvlp.phantom.patients import accession, draw_patient, patient_generator, uid
from medvlp.phantom.report import write_report
from medvlp.phantom.write import Phantom, PhantomConfig, Row, Rows

KEY = "sop_uid"
_DOMAIN = "cxr"
_SECOND_STUDY = 0.12
_WINDOWED = 0.8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CxrPhantomConfig(PhantomConfig):
    """Settings of the chest X-ray phantom."""

    size: Annotated[int, Field(ge=64, le=2048)] = 256
    """Rows and columns."""
    monochrome1: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Share of images stored inverted."""
    masks: bool = True
    """Write a mask for each finding and an anatomy label map, beside the boxes."""


def paint(
    findings: list[Finding], size: int, rng: np.random.Generator
) -> tuple[draw.Canvas, float]:
    """Draw an image that shows `findings` and nothing else.

    Returns:
        The canvas, its image in 0..1, and the cardiothoracic ratio.
    """
    by_name = {finding.name: finding for finding in findings}
    canvas = draw.blank(draw.draw_build(rng), size)
    draw.draw_lungs(canvas, rng, catalogue.inflation(by_name.get("emphysema")))
    ratio = draw.draw_heart(canvas, catalogue.heart_scale(by_name.get("cardiomegaly")))
    callus = catalogue.fracture(canvas, by_name.get("rib_fracture"), rng)
    draw.draw_bones(canvas, callus)
    for name, painter in catalogue.PAINTERS.items():
        if name in by_name:
            painter(canvas, by_name[name], rng)
    assert canvas.texture is not None
    canvas.image += 0.07 * canvas.texture
    return canvas, ratio


def expose(canvas: draw.Canvas, rng: np.random.Generator) -> NDArray[np.uint16]:
    """The detector's 12-bit values: exposure, contrast, shading, noise and the lead marker."""
    size = len(canvas.image)
    shade = 1 + np.float32(rng.uniform(-0.06, 0.06)) * canvas.x
    image = (canvas.image + 0.012 * draw.noise_plane(rng, size, 6)) * shade
    draw.draw_marker(image, canvas.build.marker)
    gain, offset = rng.uniform(0.85, 1.1), rng.uniform(0.03, 0.1)
    grain = rng.uniform(0.006, 0.015) * rng.standard_normal(image.shape, dtype=np.float32)
    values = 4095 * (offset + 0.6 * gain * image + grain)
    stored: NDArray[np.uint16] = np.clip(values, 0, 4095).astype(np.uint16)
    return stored


def write_patient(folder: Path, config: CxrPhantomConfig, index: int) -> Rows:
    """Write the studies of patient `index`; see `medvlp.phantom.write.Phantom`."""
    rng = patient_generator(_DOMAIN, config.seed, index, "studies")
    rows: Rows = {}
    for study in range(2 if rng.random() < _SECOND_STUDY else 1):
        for path, more in _write_study(folder, config, index, study).items():
            rows.setdefault(path, []).extend(more)
    return rows


def _write_study(folder: Path, config: CxrPhantomConfig, index: int, study: int) -> Rows:
    def rng(purpose: str) -> np.random.Generator:
        return patient_generator(_DOMAIN, config.seed, index, f"{purpose}/{study}")

    patient = draw_patient(_DOMAIN, config.seed, index)
    number = accession(patient, study)
    study_uid, series_uid, image_uid = (
        uid(_DOMAIN, config.seed, index, study, part) for part in ("study", "series", "image")
    )
    findings = catalogue.draw_findings(rng("findings"))
    canvas, ratio = paint(findings, config.size, rng("image"))
    pixels = expose(canvas, rng("exposure"))
    acquisition = rng("acquisition")
    view = str(acquisition.choice(("PA", "AP")))
    low, high = (int(v) for v in np.percentile(pixels[::4, ::4], (1, 99.5)))
    window = ((low + high) // 2, max(high - low, 2))
    path = folder / "dicom" / study_uid / f"{image_uid}.dcm"
    path.parent.mkdir(parents=True)
    write_radiograph(
        path, pixels, patient, modality=str(acquisition.choice(("DX", "CR"))),
        inverted=acquisition.random() < config.monochrome1,
        window=window if acquisition.random() < _WINDOWED else None,
        spacing_mm=2 * draw.MM_PER_UNIT * canvas.build.zoom / config.size, ViewPosition=view,
        AccessionNumber=number, StudyInstanceUID=study_uid,
        SeriesInstanceUID=series_uid,
        SOPInstanceUID=image_uid, SeriesNumber=1, InstanceNumber=1,
    )  # fmt: skip
    text, denied = write_report(rng("report"), STYLE, findings, view=view, ratio=f"{ratio:.2f}")
    return {
        truth.REPORTS: [{"accession": number, "study_uid": study_uid, "text": text}],
        truth.LABELS: truth.label_rows(KEY, image_uid, findings, catalogue.NAMES),
        truth.ENTITIES: truth.entity_rows(KEY, image_uid, findings, denied, WORDS),
        truth.REGIONS: _region_rows(folder, image_uid, canvas, config.masks),
    }


def _region_rows(folder: Path, image: str, canvas: draw.Canvas, masks: bool) -> list[Row]:
    rows = []
    for name, mask in canvas.masks.items():
        box = truth.box_row(KEY, image, name, mask)
        if box is None:
            continue
        rows.append(box)
        if masks:
            file = Path("truth") / "masks" / f"{image}-{name}.png"
            _write_png(folder / file, mask.astype(np.uint8) * 255)
            rows.append(truth.mask_row(KEY, image, name, file))
    if masks:
        file = Path("truth") / "masks" / f"{image}-anatomy.png"
        _write_png(folder / file, anatomy_map(canvas))
        rows += [
            truth.mask_row(KEY, image, name, file, value)
            for value, name in enumerate(draw.ANATOMY, 1)
        ]
    return rows


def anatomy_map(canvas: draw.Canvas) -> NDArray[np.uint8]:
    """A label map of `phantom_draw.ANATOMY`: 1 right lung, 2 left lung, 3 heart."""
    assert canvas.heart is not None
    planes = (canvas.lungs["right"], canvas.lungs["left"], canvas.heart)
    labels = np.zeros(canvas.image.shape, dtype=np.uint8)
    for value, plane in enumerate(planes, 1):
        labels[plane > 0.5] = value
    return labels


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=1)


def index_options(config: CxrPhantomConfig) -> Mapping[str, Any]:
    """The options with which ``medvlp index --kind dicom`` reads the archive."""
    return truth.INDEX_OPTIONS


PHANTOM = Phantom(
    config=CxrPhantomConfig,
    patient=write_patient,
    tables=truth.radiology_tables(KEY),
    index=index_options,
)
