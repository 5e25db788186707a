"""What CheXpert and CheXpert Plus have in common: names of images, views and the 14 labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath
from typing import NamedTuple

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip

_PATIENT = re.compile(r"patient(\d+)")
_STUDY = re.compile(r"study(\d+)")

Labels = Mapping[str, float | None]


class Place(NamedTuple):
    """Where an image belongs, by the end of its path; what stands before it varies.

    `CheXpert-v1.0/train/`, `CheXpert-v1.0-small/train/`, `CheXpert-v1.0 batch 2 (train 1)/`,
    `train/` and `PNG/train/` lead to the same image. A patient's number stands in one part only.
    """

    patient: str
    study: str
    """Its number among the patient's."""

    image: str
    """Name without its ending, which depends on the form."""


def place_of(path: PurePath) -> Place | None:
    """The place that a path such as `train/patient00001/study1/view1_frontal.jpg` names.

    >>> place_of(PurePosixPath("a/patient00002/study2/view1_frontal.png"))
    Place(patient='00002', study='2', image='view1_frontal')
    """
    who = _PATIENT.fullmatch(path.parent.parent.name)
    when = _STUDY.fullmatch(path.parent.name)
    return Place(who[1], when[1], path.stem) if who and when else None


def told_place(cell: str) -> Place | None:
    """The place that a table's cell names."""
    return place_of(PurePosixPath(cell.replace("\\", "/")))


def view_told(side: str, frontal: str, place: Place) -> str:
    """PA or AP where a table says so, else FRONTAL or LATERAL.

    Args:
        side: ``Frontal`` or ``Lateral``; where it is blank, the image's name says it.
        frontal: ``AP`` or ``PA``; of laterals it says ``LL`` or ``RL``, or nothing.
        place: The image.
    """
    lateral = "lateral" in (side or place.image).lower()
    if lateral:
        return "LATERAL"
    return frontal if frontal in ("AP", "PA") else "FRONTAL"


def patient_id(place: Place) -> str:
    """The patient's number, which both sets share."""
    return f"chexpert:{place.patient}"


def study_id(place: Place) -> str:
    """The study's number, which both sets share."""
    return f"chexpert:{place.patient}/{place.study}"
