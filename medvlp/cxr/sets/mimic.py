"""Source kind ``mimic-cxr``: MIMIC-CXR and MIMIC-CXR-JPG (Johnson et al., 2019) in one folder.

Reads `files/p10/p10000032/s50414267/<dicom_id>.jpg` (or `.dcm`), the report beside the study's
folder, `files/p10/p10000032/s50414267.txt`, and `mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}`
as `.csv.gz` or `.csv`. Reports are divided into sections here; no table of sections is needed.
Laterals are samples like the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.text.plaintext import Text, read_text
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.cxr.select import EACH, select_exclusive
from medvlp.cxr.sets.accounts import leave_rest, take_images, with_suffix
from medvlp.cxr.sets.mimic_tables import Image, Labeller, Tables, load_tables
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, Xray
from medvlp.data.views import SIDES, view_word

SOURCE = "mimic-cxr"

_PICTURES = (*sorted(DICOM_SUFFIXES), ".jpg", ".jpeg", ".png")
"""Where an image is there twice, the first of these is taken."""

_STUDY = re.compile(r"s(\d+)")
_SUBJECT = re.compile(r"p(\d+)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MimicOptions:
    """Settings of the kind."""

    labeller: Labeller = "chexpert"
    """Whose labels are taken; the two do not always agree."""

    selection: Literal["none", "only", "without"] = "none"
    """5×200 (see `medvlp.cxr.select`): ``only`` makes a manifest of the chosen studies, all in the
    split ``test``; ``without``, with the same seed, one of the patients who are not in it, for
    training. Studies with a frontal image and a report can be chosen."""

    selection_seed: int = 0
    selection_each: Annotated[int, Field(gt=0)] = EACH
    """Studies of each of the five findings."""


def index_mimic(root: Path, intake: Intake) -> None:
    """Index MIMIC-CXR with its own patients, studies and split."""
    options = intake.options(MimicOptions)
    files = list(intake.files())
    tables = load_tables(intake, files, options.labeller)
    images = sorted(with_suffix(files, _PICTURES), key=_preference)
    reports = _Reports(intake, files)
    wanted = _Wanted(intake, options, tables, images, reports)

    def accept(path: Path, image: Image, xray: Xray) -> None:
        if (image.subject, image.study) != _place(path):
            raise Reject("identity_conflict")
        columns = xray.columns
        columns["view"] = image.view or columns["view"]
        sample = intake.accept(
            [path],
            kind="dicom" if path.suffix.lower() in DICOM_SUFFIXES else "image",
            patient=_patient(image.subject),
            study=f"{SOURCE}:{image.study}",
            study_order=image.order,
            identifiers=[image.subject, image.study],
            acquired=image.date or None,
            source_split="test" if options.selection == "only" else image.split,
            **columns,
        )
        reports.attach(sample, image.study)
        for name, value in tables.labels.get(image.study, {}).items():
            intake.label(sample, name, value, options.labeller)

    rows = {name: image for name, image in tables.images.items() if wanted.holds(image)}
    for path in images:
        if path.stem in tables.images and path.stem not in rows:
            intake.ignore(path, "not_selected")
    there = [path for path in images if path.stem not in tables.images or path.stem in rows]
    take_images(intake, there, rows, lambda path: path.stem, accept)
    reports.close(wanted.all_of_them)
    leave_rest(intake)


def _patient(subject: str) -> str:
    return f"{SOURCE}:{subject}"


def _is_frontal(image: Image) -> bool:
    return SIDES.get(view_word(image.view)) == "frontal"


def _preference(path: Path) -> tuple[Path, int]:
    return path.with_suffix(""), _PICTURES.index(path.suffix.lower())


def _place(path: Path) -> tuple[str, str] | None:
    """Subject and study by the folders that an image lies in."""
    study = _STUDY.fullmatch(path.parent.name)
    subject = _SUBJECT.fullmatch(path.parent.parent.name)
    return (subject[1], study[1]) if study and subject else None


class _Reports:
    """The reports' files by study; each is read once, when its first image is taken in."""

    def __init__(self, intake: Intake, files: list[Path]) -> None:
        self._intake = intake
        found = ((_STUDY.fullmatch(p.stem), p) for p in with_suffix(files, (".txt",)))
        self._files = {match[1]: path for match, path in found if match}
        self._texts: dict[str, Text | None] = {}

    def __contains__(self, study: str) -> bool:
        return study in self._files

    def attach(self, sample: str, study: str) -> None:
        """Give a sample its study's report, if there is one that can be read."""
        path = self._files.get(study)
        if path is None:
            return
        if study not in self._texts:
            self._texts = {study: self._read(path)}  # a study's images follow one another
        text = self._texts[study]
        if text is not None:
            self._intake.report(sample, text.text)
            self._intake.flag(sample, *text.flags)

    def close(self, every: bool) -> None:
        """Account for the reports that no image asked for.

        Args:
            every: Whether all studies were wanted; else those left over were not chosen.
        """
        left = set(self._intake.files())
        for path in self._files.values():
            subject = _SUBJECT.fullmatch(path.parent.name)
            if path in left and subject and self._intake.withdrawn.holds(_patient(subject[1])):
                self._intake.ignore(path, "withdrawn")
            elif path in left and every:
                self._intake.reject(path, "join", "report_without_study")
            elif path in left:
                self._intake.ignore(path, "not_selected")

    def _read(self, path: Path) -> Text | None:
        text: Text | None = None
        with self._intake.judge([path], "read"):
            text = read_text(path)
            self._intake.cover([path])
        return text


class _Wanted:
    """Which studies are taken in."""

    def __init__(
        self,
        intake: Intake,
        options: MimicOptions,
        tables: Tables,
        images: list[Path],
        reports: _Reports,
    ) -> None:
        self.all_of_them = options.selection == "none"
        self._only = options.selection == "only"
        self._studies: Mapping[str, str] = {}
        self._subjects: set[str] = set()
        if self.all_of_them:
            return
        there = {path.stem for path in images}
        frontal = {
            image.study
            for name, image in tables.images.items()
            if name in there and _is_frontal(image) and image.study in reports
        }
        labels = {study: told for study, told in tables.labels.items() if study in frontal}
        selection = select_exclusive(
            labels, seed=options.selection_seed, each=options.selection_each
        )
        self._studies = selection.study
        self._subjects = {i.subject for i in tables.images.values() if i.study in self._studies}
        intake.remarks["selection"] = selection.digest
        intake.notes["selected_studies"] += len(self._studies)

    def holds(self, image: Image) -> bool:
        """Whether an image is of a study that is taken in."""
        if self._only:
            return image.study in self._studies
        return image.subject not in self._subjects
