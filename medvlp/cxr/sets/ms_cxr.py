"""Source kind ``ms-cxr``: MS-CXR (Boecking et al., ECCV 2022), phrases and boxes on MIMIC-CXR.

Reads `MS_CXR_Local_Alignment_v*.csv` (or the COCO file of that name) beside the images of
MIMIC-CXR-JPG or MIMIC-CXR in its folders, and `mimic-cxr-2.0.0-metadata.csv.gz` where it is there.
Images that MS-CXR does not name are left alone. Patients and studies are those of kind
``mimic-cxr``, so that a model trained on MIMIC-CXR is compared with what it is evaluated on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import compare, leave_rest, with_suffix
from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.mimic_tables import (
    METADATA,
    Image,
    load_images,
    patient_id,
    place_of,
    study_id,
)
from medvlp.cxr.sets.ms_cxr_tables import Box, Marks, Phrase, load_marks
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, Xray, take_images

SOURCE = "ms-cxr"
PAIRS = 1_162
"""Published pairs of an image and a phrase."""

_PICTURES = (*sorted(DICOM_SUFFIXES), ".jpg", ".jpeg", ".png")


def index_ms_cxr(root: Path, intake: Intake) -> None:
    """Index MS-CXR with its own split; each phrase is a text of its image."""
    files = list(intake.files())
    marks = load_marks(intake, files)
    told = any(fnmatchcase(path.name, METADATA) for path in files)
    metadata = load_images(intake, files) if told else {}
    compare(intake, "pairs", sum(len(m.boxes) for m in marks.values()), PAIRS)
    intake.notes["phrases_with_a_refused_box"] += sum(len(m.spoilt) for m in marks.values())
    intake.notes["images_with_two_phrases_of_a_finding"] += sum(map(_repeats, marks.values()))

    def accept(path: Path, mark: Marks, xray: Xray) -> None:
        place = place_of(PurePosixPath(mark.path))
        image = metadata.get(path.stem)
        if place is None or place_of(path) != place or not _agrees(image, place):
            raise Reject("identity_conflict")
        scale = _scale(mark, xray)
        subject, study = place
        sample = intake.accept(
            [path],
            kind="dicom" if path.suffix.lower() in DICOM_SUFFIXES else "image",
            patient=patient_id(subject),
            study=study_id(study),
            study_order=image.order if image else None,
            identifiers=[subject, study],
            acquired=image.date if image else None,
            source_split=mark.split or (image.split if image else None),
            **xray.columns | ({"view": image.view} if image and image.view else {}),
        )
        for i, (phrase, boxes) in enumerate(_whole(mark)):
            _describe(intake, sample, i, phrase, [_scaled(box, scale) for box in boxes])

    images = sorted(with_suffix(files, _PICTURES), key=_preference)
    named = [path for path in images if path.stem in marks]
    take_images(intake, named, marks, lambda path: path.stem, accept)
    leave_rest(intake)


def _preference(path: Path) -> tuple[int, Path]:
    return _PICTURES.index(path.suffix.lower()), path


def _agrees(image: Image | None, place: tuple[str, str]) -> bool:
    return image is None or (image.subject, image.study) == place


def _repeats(mark: Marks) -> bool:
    return max(Counter(finding for finding, _ in mark.boxes).values(), default=0) > 1


def _whole(mark: Marks) -> Iterator[tuple[Phrase, Sequence[Box]]]:
    yield from ((p, boxes) for p, boxes in mark.boxes.items() if p not in mark.spoilt)


def _scale(mark: Marks, xray: Xray) -> tuple[float, float]:
    """Factors of columns and rows from the image that the boxes were drawn in to this one.

    Raises:
        Reject: ``region_size``: it has another shape, so it is no resized copy of that image.
    """
    rows, columns = xray.shape
    drawn_rows, drawn_columns = mark.size
    if abs(rows * drawn_columns - columns * drawn_rows) > max(drawn_rows, drawn_columns):
        raise Reject("region_size")
    return columns / drawn_columns, rows / drawn_rows


def _scaled(box: Box, scale: tuple[float, float]) -> Box:
    (x0, y0, x1, y1), (across, down) = box, scale
    return x0 * across, y0 * down, x1 * across, y1 * down


def _describe(
    intake: Intake, sample: str, order: int, phrase: Phrase, boxes: Sequence[Box]
) -> None:
    finding, words = phrase
    node = intake.node(sample, level="sentence", text=words, source=SOURCE, order=order)
    intake.label(sample, finding, 1, SOURCE)
    intake.entity(sample, node=node, anatomy=None, observation=finding, presence=1, source=SOURCE)
    for box in boxes:
        intake.region(sample, name=finding, kind="box", geometry=box, ref=node)
