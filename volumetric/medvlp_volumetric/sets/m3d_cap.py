"""Source kind ``m3d-cap``: M3D-Cap (Bai et al., 2024), CT of web pages with their descriptions.

Reads `ct_case/000006/<series>/*.jpeg` (or PNG) with the description in `ct_case/000006/text.txt`,
or the arrays that the publishers' code makes of them, `ct_case/000006/<series>.npy`, and the split
of `M3D_Cap.json`. Values are grey levels of a display window, 0 to 255, never Hounsfield units, and
nothing tells the size of a voxel: every sample carries ``not_hu`` and ``no_geometry``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlp.archive.intake import Intake
from medvlp.archive.measure import Measured
from medvlp.archive.pictures import is_picture, read_grey
from medvlp.archive.stage.reading import Reading
from medvlp.archive.tables.accounts import give_text, leave_rest
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.tables.tablefile import table_text
from medvlp.archive.text.plaintext import Text, read_text
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.domain import Ref
from medvlp.errors import ArchiveError
from medvlp_volumetric.arrays import is_array, read_array, stacked
from medvlp_volumetric.sets.scans import LABEL
from medvlp_volumetric.told import Affine, Told
from medvlp_volumetric.values import measured_volume

SOURCE = "m3d-cap"

_COLLECTIONS = ("ct_case", "ct_quizze")
_TEXT = "text.txt"
_LIST = "M3D_Cap.json"
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_MARKS = ("study_findings:", "discussion:")
_LEAST_LETTERS = 5
_WHITE = 255.0
_DIGITS = re.compile(r"(\d+)")

_L, _P, _I = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)
_PLANES = {
    "coronal": (_L, _I, _P),
    "sagittal": (_P, _I, _L),
    "axial": (_L, _P, _I),
}
"""Word in a series' name -> where its columns, rows and slices run, as pictures are shown; that
slices run to the feet, the back and the left is a convention, which nothing in the set tells."""

Place = tuple[str, str, str]
"""Collection, case and series."""
Case = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What was read of one series."""

    measured: Measured
    """Of the slices that were kept."""

    told: tuple[str, ...]
    """Flags of `Told`."""


class _Texts:
    """The descriptions of cases; each is read when the first of its series is taken in."""

    def __init__(self, intake: Intake, files: Iterable[Path]) -> None:
        self._intake = intake
        self._paths: dict[Case, Path] = {}
        for path in files:
            place = _place(path)
            if place is not None and path.name == _TEXT:
                self._paths[place[:2]] = path
        self._read: dict[Case, Text | None] = {}

    def of(self, case: Case) -> Text | None:
        """A case's description; its file is accepted, or quarantined."""
        path = self._paths.pop(case, None)
        if path is not None:
            with self._intake.judge([path], "read"):
                self._read[case] = _description(path)
                self._intake.cover([path])
        return self._read.get(case)

    def withdraw(self, case: Case) -> None:
        """Set the description of a patient who has withdrawn aside."""
        if case in self._paths:
            self._intake.ignore(self._paths.pop(case), "withdrawn")

    def close(self) -> None:
        """Quarantine what no sample has."""
        for path in self._paths.values():
            self._intake.reject(path, "join", "report_without_study")


def index_m3d_cap(root: Path, intake: Intake) -> None:
    """Index M3D-Cap; each series is a sample with its case's description, each case a patient."""
    options = intake.options(ListOptions)
    files = list(intake.files())
    splits = _splits(intake, files)
    texts = _Texts(intake, files)
    lists = SplitLists(intake, options.lists)

    def accept(place: Place, stack: Stack) -> None:
        collection, case, series = place
        name = f"{SOURCE}:{collection}/{case}"
        split, flags = lists.columns(Path(case), splits.get(place))
        columns = stack.measured.columns | {"spacing_mm": None}
        columns["flags"] = (*columns["flags"], *stack.told, *flags, "no_geometry")
        sample = intake.accept(
            stack.measured.paths,
            kind="array" if is_array(stack.measured.paths[0]) else "series",
            patient=name,
            study=name,
            series=f"{name}/{series}",
            identity=f"{name}/{series}",
            source_split=split,
            **columns,
        )
        give_text(intake, sample, texts.of(place[:2]))

    for affine, series in _by_plane(_series(intake, files)).items():
        places = sorted(series)
        found = intake.read(reading_stack(affine), (series[place] for place in places), LABEL)
        for place, (paths, stack) in zip(places, found, strict=True):
            with intake.judge(paths, "read"):
                try:
                    if isinstance(stack, Verdict):
                        raise stack
                    accept(place, stack)
                except Ignore:
                    texts.withdraw(place[:2])
                    raise
                # Which holds of the slices that the sample was made without, if there are any.
                raise Reject("mixed_sizes")
    texts.close()
    leave_rest(intake)


def reading_stack(affine: Affine) -> Reading[Stack]:
    """The reading of a series whose slices lie as `affine` says."""
    return Reading(
        read=Ref("medvlp_volumetric.sets.m3d_cap:examine_stack"),
        result=Stack,
        version=1,
        settings={"affine": list(affine)},
    )


def examine_stack(paths: Sequence[Path], *, affine: Sequence[float]) -> Stack:
    """Read one array, or pictures of slices; those of another size than most are left out.

    Raises:
        Reject: A file is bad, ``mixed_sizes`` where no size is that of half of the slices, or
            ``too_few_slices``.
    """
    told = Told(affine=tuple(affine))
    if is_array(paths[0]):
        volume = read_array(paths[0], told)
        if volume.hu_DHW.max() <= 1:
            told = replace(told, scale=(_WHITE, 0.0))
            volume = read_array(paths[0], told)
        return Stack(measured=measured_volume(paths, volume), told=(*told.flags, "not_hu"))
    slices = [read_grey(path).values for path in paths]
    size, count = Counter(values.shape for values in slices).most_common(1)[0]
    if count * 2 < len(slices):
        raise Reject("mixed_sizes")
    if count < 2:
        raise Reject("too_few_slices")
    kept = [k for k, values in enumerate(slices) if values.shape == size]
    those = [paths[k] for k in kept]
    volume = stacked(those, [slices[k] for k in kept], told)
    left = ("slices_left_out",) if count < len(slices) else ()
    return Stack(measured=measured_volume(those, volume), told=(*told.flags, "not_hu", *left))


def _place(path: Path) -> Place | None:
    """Where in the set a file stands; the series is blank of what belongs to a whole case."""
    parts = path.parts
    at = next((k for k, part in enumerate(parts) if part in _COLLECTIONS), None)
    if at is None or len(parts) < at + 3:
        return None
    name = path.stem if is_array(path) else "/".join(parts[at + 2 : -1])
    return parts[at], parts[at + 1], name


def _series(intake: Intake, files: Iterable[Path]) -> dict[Place, tuple[Path, ...]]:
    """The files of each series: its pictures in the order of their numbers, or its array.

    Where there are both, the pictures, which are what was published; the array is quarantined.
    """
    pictures: dict[Place, list[Path]] = {}
    arrays: dict[Place, list[Path]] = {}
    for path in files:
        place = _place(path)
        if place is None:
            continue
        if is_picture(path):
            pictures.setdefault(place, []).append(path)
        elif is_array(path):
            arrays.setdefault(place, []).append(path)
    for place in arrays.keys() & pictures.keys():
        for path in arrays.pop(place):
            intake.reject(path, "join", "duplicate_sample")
    found = arrays | pictures
    return {place: tuple(sorted(paths, key=_order)) for place, paths in found.items()}


def _order(path: Path) -> list[Any]:
    """Names with numbers in them, the numbers by size."""
    words = _DIGITS.split(path.name)
    return [int(word) if word.isdecimal() else word for word in words]


def _by_plane(
    series: Mapping[Place, tuple[Path, ...]],
) -> dict[Affine, dict[Place, tuple[Path, ...]]]:
    """Series by the affine that their names tell."""
    planes: dict[Affine, dict[Place, tuple[Path, ...]]] = {}
    for place, paths in series.items():
        planes.setdefault(_affine(place[2]), {})[place] = paths
    return planes


def _affine(name: str) -> Affine:
    axes = next((axes for word, axes in _PLANES.items() if word in name.lower()), _PLANES["axial"])
    return tuple(number for row in zip(*axes, strict=True) for number in (*row, 0.0))


def _description(path: Path) -> Text:
    """What a case's file tells: its findings, or else its discussion, or else all.

    Raises:
        Reject: See `read_text`; ``empty_report`` also where there is hardly a letter.
    """
    found = read_text(path)
    parts = (_after(mark, found.text) for mark in _MARKS)
    words = next(filter(None, parts), found.text).strip()
    if sum(map(str.isalpha, words)) < _LEAST_LETTERS:
        raise Reject("empty_report")
    return replace(found, text=words)


def _after(mark: str, text: str) -> str:
    return text.partition(mark)[2].strip()


def _splits(intake: Intake, files: Iterable[Path]) -> dict[Place, str]:
    """Series -> split, of the publishers' list, if it is there.

    Raises:
        ArchiveError: The list is none.
    """
    splits: dict[Place, str] = {}
    for path in (path for path in files if path.name == _LIST):
        intake.cover([path])
        try:
            told = json.loads(table_text(path))
            for word, split in _SPLITS.items():
                places = (_place(Path(str(entry["image"]))) for entry in told.get(word, ()))
                splits.update((place, split) for place in places if place)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ArchiveError(
                f"{path.name} is no list of series", remedy="give the file as it is published"
            ) from None
    return splits
