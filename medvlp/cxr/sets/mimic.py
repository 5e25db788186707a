"""Source kind ``mimic-cxr``: MIMIC-CXR and MIMIC-CXR-JPG (Johnson et al., 2019) in one folder.

Reads `files/p10/p10000032/s50414267/<dicom_id>.jpg` (or `.dcm`), the report beside the study's
folder, `files/p10/p10000032/s50414267.txt`, and `mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}`
as `.csv.gz` or `.csv`. Reports are divided into sections here; no table of sections is needed.
Laterals are samples like the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import give_text, leave_rest, table_rows, with_suffix
from medvlp.archive.text.plaintext import Text, read_text
from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.cxr.select import EACH, select_exclusive
from medvlp.cxr.sets.mimic_tables import (
    STUDY,
    SUBJECT,
    Image,
    Labeller,
    Tables,
    load_tables,
    patient_id,
    place_of,
    study_id,
)
from medvlp.cxr.sets.xrays import DICOM_SUFFIXES, Xray, take_images
from medvlp.data.views import SIDES, view_word

_PICTURES = (*sorted(DICOM_SUFFIXES), ".jpg", ".jpeg", ".png")
"""Where an image is there twice, the first of these is taken."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MimicOptions:
    """Settings of the kind."""

    labeller: Labeller = "chexpert"
    """Whose labels are taken; the two do not always agree."""

    selection: Literal["none", "only", "without"] = "none"
    """5×200 (see `medvlp.cxr.select`): ``only`` makes a manifest of the chosen studies, all in the
    split ``test``; ``without``, with the same seed, one of the patients who are not in it, for
    training. Studies with a frontal image and a report can be chosen."""

    leave_out: Path | None = None
    """A table with a column ``dicom_id``, such as MS-CXR's: the patients of its images are not
    taken in, so that a model trained on the rest can be evaluated on them."""

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
        if (image.subject, image.study) != place_of(path):
            raise Reject("identity_conflict")
        columns = xray.columns
        columns["view"] = image.view or columns["view"]
        sample = intake.accept(
            [path],
            kind="dicom" if path.suffix.lower() in DICOM_SUFFIXES else "image",
            patient=patient_id(image.subject),
            study=study_id(image.study),
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


def _is_frontal(image: Image) -> bool:
    return SIDES.get(view_word(image.view)) == "frontal"


def _preference(path: Path) -> tuple[Path, int]:
    return path.with_suffix(""), _PICTURES.index(path.suffix.lower())


class _Reports:
    """The reports' files by study; each is read once, when its first image is taken in."""

    def __init__(self, intake: Intake, files: list[Path]) -> None:
        self._intake = intake
        found = ((STUDY.fullmatch(p.stem), p) for p in with_suffix(files, (".txt",)))
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
        give_text(self._intake, sample, self._texts[study])

    def close(self, every: bool) -> None:
        """Account for the reports that no image asked for.

        Args:
            every: Whether all studies were wanted; else those left over were not chosen.
        """
        left = set(self._intake.files())
        for path in self._files.values():
            subject = SUBJECT.fullmatch(path.parent.name)
            if path in left and subject and self._intake.withdrawn.holds(patient_id(subject[1])):
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
        self.all_of_them = options.selection == "none" and options.leave_out is None
        self._only = options.selection == "only"
        self._studies: Mapping[str, str] = {}
        self._subjects: set[str] = set()
        if options.leave_out is not None:
            self._leave_out(intake, intake.locate(options.leave_out), tables.images)
        if options.selection == "none":
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
        chosen = {i.subject for i in tables.images.values() if i.study in self._studies}
        self._subjects |= set() if self._only else chosen
        intake.remarks["selection"] = selection.digest
        intake.notes["selected_studies"] += len(self._studies)

    def holds(self, image: Image) -> bool:
        """Whether an image is of a study that is taken in."""
        chosen = image.study in self._studies or not self._only
        return chosen and image.subject not in self._subjects

    def _leave_out(self, intake: Intake, table: Path, images: Mapping[str, Image]) -> None:
        names = {cells["dicom_id"] for _, cells in table_rows(intake, table, ("dicom_id",))}
        self._subjects |= {images[name].subject for name in names if name in images}
        intake.notes["left_out_without_metadata"] += len(names - images.keys())
        intake.notes["left_out_patients"] += len(self._subjects)
