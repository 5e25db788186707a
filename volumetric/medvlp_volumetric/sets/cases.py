"""Volumes with masks of organs: what the segmentation sets share.

A mask is a file for one organ, or one for all, in which each organ has its value. Every organ that
is drawn becomes a region of kind ``mask`` and a label 1; one whose mask is empty, a label 0. One
organ has one name in all sets, TotalSegmentator's; what a set draws as one has a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlp.archive.intake import Intake
from medvlp.archive.tables.lists import SplitLists
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.data.tables import PATIENT_IS_IMAGE
from medvlp_volumetric.nifti import is_nifti
from medvlp_volumetric.sets.scans import (
    LABEL,
    READING_MASKS,
    MaskFacts,
    Scan,
    check_grid,
    reading_scans,
    scan_columns,
)

WITHHELD = "labels_withheld"
NO_LABELS = "no_labels"

Organs = Mapping[int | None, str]
"""Value in a mask's file -> organ; under None the one organ that all other values than 0 are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One volume and its masks."""

    volume: Path
    name: str
    """In the set, such as ``s0001``."""

    masks: Mapping[Path, Organs]
    split: str | None = None
    flags: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `Intake.accept`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSet:
    """What holds for all cases of a set."""

    source: str
    """Its kind, which is the source of its labels and part of its studies' names."""

    lists: SplitLists
    untold: Collection[str] = ()
    """Organs that are not always drawn where they are seen: no mask says nothing of them."""


def take_cases(intake: Intake, about: CaseSet, cases: Sequence[Case]) -> None:
    """Take in volumes with their masks; these sets name no patients, so each volume is one.

    A mask that cannot be used is quarantined; its volume stays, carries ``mask_refused``, and
    nothing is known of the organ. Masks of a volume that is refused are ``mask_without_sample``.
    """
    scans = intake.read(reading_scans(), ((case.volume,) for case in cases), LABEL)
    drawn = ((path,) for case in cases for path in case.masks)
    masks = intake.read(READING_MASKS, drawn, "Reading masks")
    for case, (_, scan) in zip(cases, scans, strict=True):
        found = {path: next(masks)[1] for path in case.masks}
        try:
            if isinstance(scan, Verdict):
                raise scan
            sample = _accept(intake, about, case, scan)
        except Reject as verdict:
            intake.reject(case.volume, "read", verdict.code, verdict.message)
            for path in case.masks:
                intake.reject(path, "join", "mask_without_sample")
        except Ignore as verdict:
            for path in (case.volume, *case.masks):
                intake.ignore(path, verdict.code)
        else:
            _draw_all(intake, about, sample, case, scan, found)


def _accept(intake: Intake, about: CaseSet, case: Case, scan: Scan) -> str:
    split, flags = about.lists.columns(Path(case.name), case.split)
    columns = scan_columns(scan, (*flags, *case.flags, PATIENT_IS_IMAGE))
    return intake.accept(
        [case.volume],
        kind="nifti",
        patient=None,
        study=f"{about.source}:{case.name}",
        source_split=split,
        **columns | dict(case.columns),
    )


def _draw_all(
    intake: Intake,
    about: CaseSet,
    sample: str,
    case: Case,
    scan: Scan,
    found: Mapping[Path, MaskFacts | Verdict],
) -> None:
    """Regions and labels of a case's masks."""
    used = 0
    for path, mask in found.items():
        with intake.judge([path], "read"):
            if isinstance(mask, Verdict):
                raise mask
            check_grid(mask, scan)
            _draw(intake, about, sample, path, mask, case.masks[path])
            used += 1
    if used < len(found):
        intake.flag(sample, "mask_refused")


def _draw(
    intake: Intake, about: CaseSet, sample: str, path: Path, mask: MaskFacts, organs: Organs
) -> None:
    """Regions and labels of one mask.

    Raises:
        Reject: ``unknown_label``: a value that stands for no organ.
    """
    if None not in organs and not organs.keys() >= set(mask.values):
        raise Reject("unknown_label")
    intake.cover([path])
    for value, organ in organs.items():
        seen = bool(mask.values) if value is None else value in mask.values
        if seen:
            place = None if value is None else [value]
            ref = intake.source(path)
            intake.region(sample, name=organ, kind="mask", geometry=place, ref=ref)
        if seen or organ not in about.untold:
            intake.label(sample, organ, float(seen), about.source)


def pair_files(
    intake: Intake, key: Callable[[Path], tuple[str, bool] | None]
) -> Iterator[tuple[str, Path, Path | None]]:
    """Name, volume and label map of each case, in order of the names.

    A second file of a name is quarantined as ``duplicate_sample``, a label map without its volume
    as ``mask_without_sample``.

    Args:
        intake: Accounts for them.
        key: A file's case and whether it is a label map; None of what is no part of the set.
    """
    volumes: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in filter(is_nifti, intake.files()):
        told = key(path)
        if told is None:
            continue
        name, is_mask = told
        if (masks if is_mask else volumes).setdefault(name, path) != path:
            intake.reject(path, "join", "duplicate_sample")
    for name in masks.keys() - volumes.keys():
        intake.reject(masks[name], "join", "mask_without_sample")
    for name in sorted(volumes):
        yield name, volumes[name], masks.get(name)


def mapped_case(
    name: str,
    volume: Path,
    mask: Path | None,
    organs: Mapping[int, str],
    split: str | None = None,
    missing: str = NO_LABELS,
) -> Case:
    """A case whose organs are all in one label map; `missing` is its flag where there is none."""
    return Case(
        volume=volume,
        name=name,
        masks={} if mask is None else {mask: {value: organs[value] for value in organs}},
        split=split,
        flags=() if mask else (missing,),
    )
