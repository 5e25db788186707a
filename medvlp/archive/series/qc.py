"""The quality record of a series: what was found, what was done and what was decided, as JSON.

A record holds measures, codes and pseudonyms; never an identifier, a path or free text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from medvlp.archive.dicom.files import read_planes
from medvlp.archive.series.geometry import Volume
from medvlp.archive.series.grouping import Group, Slice, group_series
from medvlp.archive.series.hounsfield import (
    HuReport,
    Values,
    count_hu,
    is_outside,
    judge_hu,
    some_of,
)
from medvlp.archive.series.layout import Layout, Survey, check_kind, lay_out, settle, survey
from medvlp.archive.series.marks import MARKS
from medvlp.archive.series.policy import NO_REPAIR, Policy
from medvlp.archive.series.read import choose, load, padding_hu, read_headers
from medvlp.archive.series.spacing import MAX_GAP_MM
from medvlp.archive.verdict import Reject, Verdict

_BODY_PARTS = (
    "ABDOMEN ABDOMENPELVIS ANKLE ARM CHEST CHESTABDOMEN CHESTABDPELVIS CSPINE ELBOW EXTREMITY FOOT "
    "HAND HEAD HEADNECK HEART HIP KNEE LEG LSPINE LUNG NECK NECKCHEST PELVIS SHOULDER SKULL SPINE "
    "THORAX TSPINE WHOLEBODY WRIST"
)
BODY_PARTS = frozenset(_BODY_PARTS.split())
"""Body parts that a record may name (PS3.16 annex L, without separators); others stay away."""

OTHER_UNITS = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"})
"""Rescale types (PS3.3 C.11.1.1.2) of CT images whose values are no Hounsfield units."""

_UNITS = MARKS.index("units")

Measured = Callable[[Path], Values]
"""What a file's pixels say: stored by the scan, or found by decoding it."""


@dataclass(frozen=True, kw_only=True)
class SeriesFinding:
    """What became of one group of slices."""

    group: Group
    layout: Layout | None
    verdict: Verdict | None
    """Why there is no layout, or why its values are not believed."""
    hu: HuReport | None
    """None where it is no CT, or values were not looked at."""
    qc: dict[str, Any]

    @property
    def flags(self) -> tuple[str, ...]:
        """What a sample made from this carries."""
        geometry = self.layout.flags if self.layout else self.group.flags
        return (*geometry, *(self.hu.flags if self.hu else ()))


def examine_series(paths: Sequence[Path], policy: Policy = NO_REPAIR) -> list[SeriesFinding]:
    """Every volume, and everything that ought to be one, in some files; nothing is written.

    Raises:
        Reject: A file is bad.
        Ignore: A file is none of ours.
    """
    groups = group_series(read_headers(paths), policy)
    return [examine_group(group, policy, measure_file) for group in groups]


@dataclass(frozen=True, kw_only=True)
class Described:
    """Records of series, each with the places of its files in the list that was asked about."""

    series: tuple[tuple[tuple[int, ...], dict[str, Any]], ...]


def describe_series(paths: Sequence[Path]) -> Described:
    """As `examine_series`, as plain values that a reading process can send.

    Raises:
        Reject: A file is bad.
        Ignore: A file is none of ours.
    """
    place = {path: i for i, path in enumerate(paths)}
    found = examine_series(paths)
    return Described(series=tuple((tuple(place[p] for p in f.group.paths), f.qc) for f in found))


def measure_file(path: Path, *, legacy: bool = False) -> Values:
    """Decode a file and look at its values.

    Args:
        path: The file.
        legacy: Whether files without preamble are taken.

    Raises:
        Reject: The file is bad.
    """
    return _values_of(read_planes(path, legacy=legacy))


def _values_of(pixels: NDArray[np.float32]) -> Values:
    return Values(low=float(pixels.min()), high=float(pixels.max()), counts=count_hu(pixels))


def read_hu(
    paths: Sequence[Path], policy: Policy = NO_REPAIR, part: int = 0, *, legacy: bool = False
) -> Volume:
    """`read_series`, of values that indexing would believe to be Hounsfield units.

    They are judged by some voxels, before padding is set to air; a doubt is settled by all.

    Raises:
        Reject: See `read_series`; also ``not_hu`` and ``double_rescale``.
        Ignore: See `read_series`.
    """
    group = choose(group_series(read_headers(paths, legacy=legacy), policy), part)
    layout = lay_out(group, policy)
    slices, *plane = some_of(layout.shape)
    looked_at = range(layout.shape[0])[slices]
    seen: list[Values] = []

    def look(place: int, values_HW: NDArray[np.float32]) -> None:
        if place in looked_at:
            seen.append(_values_of(values_HW[tuple(plane)]))

    volume = load(layout, policy, look)
    if volume.units == "HU" and _report(layout.slices, seen).code:
        whole = [measure_file(path, legacy=legacy) for path in layout.paths]
        code = _report(layout.slices, whole).code
        if code:
            raise Reject(code)
    return volume


def examine_group(
    group: Group, policy: Policy, measured: Measured, *, believe: bool = False
) -> SeriesFinding:
    """Lay a group out, judge its values, and write the record of both; never raises a verdict.

    Args:
        group: As `group_series` makes it.
        policy: What is done about missing slices and tilt.
        measured: What a file's pixels say.
        believe: Accept values that are no Hounsfield units, with a flag.
    """
    found: Survey | None = None
    layout: Layout | None = None
    verdict: Verdict | None = None
    hu: HuReport | None = None
    try:
        check_kind(group)
        found = survey(group)
        layout = settle(group, found, policy)
    except Verdict as raised:
        verdict = raised
    if found is not None and group.header.modality == "CT":
        try:
            hu = _judge(found, measured)
        except Verdict as raised:
            verdict = verdict or raised
    if hu is not None and hu.code:
        if believe:
            hu = replace(hu, flags=(*hu.flags, hu.code))
        elif verdict is None:
            verdict = Reject(hu.code)
    finding = SeriesFinding(group=group, layout=layout, verdict=verdict, hu=hu, qc={})
    return replace(finding, qc=qc_of(finding, found, policy))


def _judge(found: Survey, measured: Measured) -> HuReport:
    """Values of the series: each file counts once, in the order of its first slice."""
    paths = dict.fromkeys(item.header.path for item in found.slices)
    values = {path: measured(path) for path in paths}
    report = _report(found.slices, [*values.values()])
    if _padded(found, values):
        report = replace(report, flags=tuple(dict.fromkeys((*report.flags, "padding_clamped"))))
    return report


def _report(slices: Sequence[Slice], values: Sequence[Values]) -> HuReport:
    """What values say, and what their headers say of them."""
    intercepts = sorted({item.plane.intercept for item in slices})
    bits = max(item.header.bits_stored for item in slices)
    report = judge_hu(values, intercepts, bits)
    other = {item.plane.marks[_UNITS].upper() for item in slices if item.plane.marks}
    return replace(report, code="not_hu") if other & OTHER_UNITS else report


def _padded(found: Survey, values: Mapping[Path, Values]) -> bool:
    """Whether values reach as far out as the padding that a slice states."""
    for item in found.slices:
        stated = padding_hu(item)
        if stated is not None and is_outside(stated):
            here = values[item.header.path]
            if here.low <= stated <= here.high:
                return True
    return False


def qc_of(finding: SeriesFinding, found: Survey | None, policy: Policy) -> dict[str, Any]:
    """The record of a finding: JSON values only.

    Args:
        finding: Its `qc` is not looked at.
        found: What was measured, if the slices say where they lie.
        policy: Under which it was laid out.
    """
    header = finding.group.header
    verdict = finding.verdict
    return {
        "verdict": "accept" if verdict is None else str(verdict),
        "message": "" if verdict is None else verdict.message,
        "flags": sorted({*finding.flags}),
        "modality": header.modality,
        "body_part": header.body_part if header.body_part in BODY_PARTS else None,
        "files": len(finding.group.paths),
        "slices": len(finding.group.slices),
        "repeated": len(finding.group.repeated),
        "matrix": [header.rows, header.columns],
        "policy": {"missing": policy.missing, "tilt": policy.tilt},
        "reader": "pydicom",
        "found": None if found is None else _measures(found),
        "volume": None if finding.layout is None else _volume(finding.layout),
        "values": None if finding.hu is None else _values(finding.hu),
    }


def _measures(found: Survey) -> dict[str, Any]:
    """What positions say, before anything is repaired."""
    spacing = found.spacing
    measures: dict[str, Any] = {
        "clashes": found.clashes,
        "constant": found.constant,
        "tilt_deg": _number(found.tilt_deg, 2),
        "off_line_mm": _number(found.drift_mm),
    }
    if spacing is not None:
        holes = [gap for gap in spacing.gaps_mm if abs(gap - spacing.gap_mm) > 0.01]
        measures |= {
            "spacing": spacing.kind,
            "gap_mm": _number(spacing.gap_mm),
            "gaps_mm": [_number(min(spacing.gaps_mm)), _number(max(spacing.gaps_mm))],
            "odd_gaps_mm": [_number(gap) for gap in holes[:20]],
            "odd_after": list(spacing.odd[:20]),
            "missing": list(spacing.missing[:200]),
            "missing_mm": _number(len(spacing.missing) * spacing.gap_mm),
            "single_views": spacing.gap_mm > MAX_GAP_MM,
        }
    return measures


def _volume(layout: Layout) -> dict[str, Any]:
    """The volume as it is read: after repairs."""
    present = {*layout.places}
    filled = [place for place in range(layout.shape[0]) if place not in present]
    return {
        "shape": list(layout.shape),
        "spacing_mm": [_number(mm) for mm in layout.spacing_mm],
        "affine": [[_number(x, 6) for x in row] for row in layout.affine.tolist()],
        "axes": _axcodes(layout),
        "filled": filled[:200],
        "extent_mm": [
            _number(n * mm, 1) for n, mm in zip(layout.shape, layout.spacing_mm, strict=True)
        ],
    }


def _axcodes(layout: Layout) -> str:
    reverse = np.eye(4)[[2, 1, 0, 3]]
    return "".join(str(code) for code in orientations.aff2axcodes(layout.affine @ reverse))


def _values(hu: HuReport) -> dict[str, Any]:
    return {
        "low": _number(hu.low, 1),
        "high": _number(hu.high, 1),
        "air_peak_hu": hu.air_peak_hu,
        "tissue_peak_hu": hu.tissue_peak_hu,
        "padding": _number(hu.padding_fraction, 4),
        "constant_slices": list(hu.constant_slices[:200]),
        "odd_slices": list(hu.odd_slices[:200]),
    }


def _number(value: float, digits: int = 3) -> float | None:
    """A number that JSON knows."""
    return round(float(value), digits) + 0.0 if math.isfinite(value) else None
