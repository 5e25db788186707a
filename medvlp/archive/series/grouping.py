"""DICOM frames that belong to one volume, found without trusting identifiers or numbers.

One patient, study and series; one matrix, orientation and pixel spacing; and where slices share a
place, one acquisition. Files without a series identifier belong to their folder's series.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.dicom.files import pixel_digest
from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.planes import Plane
from medvlp.archive.series.marks import MARKS
from medvlp.archive.series.policy import NO_REPAIR, SPLIT, Policy, part_flag
from medvlp.archive.series.spacing import SAME_PLACE_MM, measure

COSINE_TOLERANCE = 1e-3
_SPACING_TOLERANCE_MM = 1e-4
_OFFSET_MM = 0.1
FARTHEST_MM = 1e5
_WIDEST_MM = 1e3
_MOST_DIRECTIONS = 512
"""What points in more directions is no series; the rest is not told apart."""
_MOST_MARKS = 3
"""So many marks together part one series at most."""
_TIME = MARKS.index("time")
_ACQUISITION = MARKS.index("acquisition")

Digest = Callable[[Path], str]
"""The digest of a file's pixels: equal for identical images."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One frame of one file."""

    header: Header
    frame: int

    @property
    def plane(self) -> Plane:
        """Its place and rescale."""
        return self.header.planes[self.frame]

    @property
    def position(self) -> NDArray[np.float64]:
        """Centre of its first voxel, DICOM's LPS millimetres."""
        return np.asarray(self.plane.position, dtype=np.float64)

    @property
    def placed(self) -> bool:
        """Whether it says where it lies, and not beyond all measure."""
        return _plausible(self.plane)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Slices of one volume, or of what ought to be one; in no particular order."""

    slices: tuple[Slice, ...]
    repeated: tuple[Slice, ...] = ()
    """Left out because an identical slice is in."""

    flags: tuple[str, ...] = ()

    @property
    def header(self) -> Header:
        """The header of one of its files."""
        return self.slices[0].header

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, those of repeated slices last."""
        slices = (*self.slices, *self.repeated)
        return tuple(dict.fromkeys(item.header.path for item in slices))


def _plausible(plane: Plane) -> bool:
    limits = ((plane.position, FARTHEST_MM), (plane.orientation, 2.0), (plane.spacing, _WIDEST_MM))
    return all(vector is not None and max(map(abs, vector)) <= limit for vector, limit in limits)


def group_series(
    headers: Iterable[Header], policy: Policy = NO_REPAIR, digest: Digest = pixel_digest
) -> list[Group]:
    """Frames that belong to one volume each.

    Localizers and screen pictures form groups of their own, and so does each acquisition, phase
    or reconstruction where several cover the same places.

    Args:
        headers: Of image files, of any number of series.
        policy: Whether a series is split where slices are missing.
        digest: The digest of a file's pixels, asked for where two slices share a place.
    """
    buckets: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for header in headers:
        where = header.series or (str(header.path.parent), header.series_number)
        kind = (header.localizer, header.captured)
        buckets[header.patient, header.study, where, *kind].append(header)
    return [group for bucket in buckets.values() for group in _groups(bucket, policy, digest)]


def _groups(headers: list[Header], policy: Policy, digest: Digest) -> list[Group]:
    groups = _volumes(headers, policy, digest)
    shapes = {(g.header.rows, g.header.columns) for g in groups if g.slices[0].placed}
    mixed = ("mixed_matrix",) if len(shapes) > 1 else ()
    shared = _shared([group.paths for group in groups])
    parts = _Parts(headers, policy, digest)
    return [
        replace(
            group,
            flags=(
                *group.flags,
                *mixed,
                *(parts.of(group) if shared & {*group.paths} else ()),
            ),
        )
        for group in groups
    ]


def _shared(paths: Sequence[tuple[Path, ...]]) -> set[Path]:
    """Files that hold parts of several groups."""
    count = Counter(path for group in paths for path in group)
    return {path for path, groups in count.items() if groups > 1}


class _Parts:
    """Which volume a group is among those that a reader finds in its files alone."""

    def __init__(self, headers: list[Header], policy: Policy, digest: Digest) -> None:
        self.headers = headers
        self.policy = policy
        self.digest = digest
        self._found: dict[frozenset[Path], dict[frozenset[tuple[Path, int]], int]] = {}

    def of(self, group: Group) -> tuple[str, ...]:
        """The flag of its number; none if nobody would find it again."""
        paths = frozenset(group.paths)
        if paths not in self._found:
            headers = [header for header in self.headers if header.path in paths]
            again = _volumes(headers, self.policy, self.digest)
            self._found[paths] = {_frames(other): i for i, other in enumerate(again, start=1)}
        number = self._found[paths].get(_frames(group))
        return (part_flag(number),) if number else ()


def _frames(group: Group) -> frozenset[tuple[Path, int]]:
    return frozenset((item.header.path, item.frame) for item in group.slices)


def _volumes(headers: list[Header], policy: Policy, digest: Digest) -> list[Group]:
    ordered = sorted(headers, key=lambda header: (header.sop, str(header.path)))
    slices = [Slice(header, frame) for header in ordered for frame in range(header.frames)]
    groups: list[Group] = []
    for cluster in _alike(slices):
        if cluster[0].placed:
            groups.extend(_Splitter(cluster, digest).groups(policy))
        else:
            groups.append(Group(slices=tuple(cluster)))
    return groups


def _alike(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one matrix, orientation and pixel spacing; those without a place by matrix."""
    lost: dict[tuple[int, int], list[Slice]] = defaultdict(list)
    placed = []
    for item in slices:
        if item.placed:
            placed.append(item)
        else:
            lost[item.header.rows, item.header.columns].append(item)
    grids_NK = np.array([_grid(item) for item in placed])
    left = np.arange(len(placed))
    clusters: list[list[Slice]] = []
    while len(left):
        near = np.abs(grids_NK[left] - grids_NK[left[0]]).max(axis=1) <= 1
        if len(clusters) == _MOST_DIRECTIONS:
            near[:] = True
        clusters.append([placed[i] for i in left[near]])
        left = left[~near]
    return [*clusters, *lost.values()]


def _grid(item: Slice) -> list[float]:
    """Numbers of which none differs by more than 1 between two slices of one grid."""
    header, plane = item.header, item.plane
    return [
        2.0 * header.rows,
        2.0 * header.columns,
        *(cosine / COSINE_TOLERANCE for cosine in plane.orientation or ()),
        *(mm / _SPACING_TOLERANCE_MM for mm in plane.spacing or ()),
    ]


def parallel(a: Plane, b: Plane) -> bool:
    """Whether two planes of a group have one orientation and one pixel spacing.

    Each lies within the tolerance of a third one, so twice the tolerance apart at most.
    """
    return _close(a.orientation, b.orientation, 2 * COSINE_TOLERANCE) and _close(
        a.spacing, b.spacing, 2 * _SPACING_TOLERANCE_MM
    )


def _close(a: Sequence[float] | None, b: Sequence[float] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def heights(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Positions along the first slice's normal, in mm."""
    axes = np.asarray(slices[0].plane.orientation, dtype=np.float64).reshape(2, 3)
    normal = np.cross(axes[0], axes[1])
    length = float(np.linalg.norm(normal))
    positions = np.array([item.position for item in slices])
    return np.asarray(positions @ (normal / length if length else normal))


class _Splitter:
    """One cluster of parallel slices, taken apart where several lie in one place."""

    def __init__(self, slices: list[Slice], digest: Digest) -> None:
        self.slices = slices
        self.digest = cache(digest)
        self.height = dict(zip(slices, heights(slices).tolist(), strict=True))

    def groups(self, policy: Policy) -> list[Group]:
        stacks = self._split(self.slices, 0, _MOST_MARKS) or [self.slices]
        groups = [self._distinct(stack) for stack in stacks]
        if policy.missing == "split":
            groups = [part for group in groups for part in self._at_gaps(group)]
        return groups

    def _split(self, slices: list[Slice], first_mark: int, more: int) -> list[list[Slice]] | None:
        """Stacks without two different slices in one place, or None if nothing parts them."""
        if not self._clashes(slices):
            return self._untangled(slices, first_mark)
        crowd = max(map(len, self._places(slices)))
        for mark in range(first_mark, len(MARKS) if more else 0):
            parts = self._by_mark(slices, mark)
            fit = self._are_stacks(parts, crowd)
            stacks = self._each(parts, mark + 1, more - 1) if fit else None
            if stacks:
                return stacks
        for parts in (self._by_offset(slices), self._passes(slices)):
            if self._are_stacks(parts, crowd) and not any(map(self._clashes, parts)):
                return parts
        return None

    def _each(self, parts: list[list[Slice]], mark: int, more: int) -> list[list[Slice]] | None:
        stacks: list[list[Slice]] = []
        for part in parts:
            found = self._split(part, mark, more)
            if found is None:
                return None
            stacks.extend(found)
        return stacks

    def _are_stacks(self, parts: list[list[Slice]], crowd: int) -> bool:
        """Whether these can be acquisitions: no more of them than slices in the fullest place.

        More would be rotations of one scan. A single slice may stray beside a regular series.
        """
        if not 1 < len(parts) <= crowd:
            return False
        return all(len(part) > 1 for part in parts) or self._regular(max(parts, key=len))

    def _untangled(self, slices: list[Slice], first_mark: int) -> list[list[Slice]]:
        """Regular series that interleave, or the slices as they are."""
        if len(slices) < 2 or self._regular(slices):
            return [slices]
        for mark in range(first_mark, len(MARKS)):
            parts = self._tangled(self._by_mark(slices, mark))
            if parts:
                return parts
        return [slices]

    def _tangled(self, parts: list[list[Slice]]) -> list[list[Slice]] | None:
        """The parts, if each is a regular series and they reach into one another.

        Parts that follow one another are one scan with a gap: that they are regular says nothing.
        """
        if len(parts) < 2 or not all(map(self._regular, parts)):
            return None
        spans = sorted((min(h), max(h)) for h in ([self.height[s] for s in p] for p in parts))
        return parts if all(b[0] < a[1] for a, b in pairwise(spans)) else None

    def _by_mark(self, slices: list[Slice], mark: int) -> list[list[Slice]]:
        parts: dict[str, list[Slice]] = defaultdict(list)
        for item in slices:
            parts[item.plane.marks[mark] if item.plane.marks else ""].append(item)
        return [parts[value] for value in sorted(parts)]

    def _by_offset(self, slices: list[Slice]) -> list[list[Slice]]:
        """By where the first voxel lies across the normal: two fields of view of one scan."""
        axes = np.asarray(slices[0].plane.orientation, dtype=np.float64).reshape(2, 3)
        parts: dict[tuple[float, ...], list[Slice]] = defaultdict(list)
        for item in slices:
            parts[tuple(np.rint(axes @ item.position / _OFFSET_MM))].append(item)
        return [parts[offset] for offset in sorted(parts)]

    def _passes(self, slices: list[Slice]) -> list[list[Slice]]:
        """By time: the first slice of every place, the second, and so on."""
        places = self._places(slices)
        if len({len(place) for place in places}) != 1:
            return []
        ranked = [sorted(place, key=_when) for place in places]
        if any(len({*map(_when, place)}) < len(place) for place in ranked):
            return []
        return [list(run) for run in zip(*ranked, strict=True)]

    def _places(self, slices: list[Slice]) -> list[list[Slice]]:
        """Slices by place, in ascending order."""
        places: list[list[Slice]] = []
        for item in sorted(slices, key=self.height.__getitem__):
            if places and self.height[item] - self.height[places[-1][0]] < SAME_PLACE_MM:
                places[-1].append(item)
            else:
                places.append([item])
        return places

    def _clashes(self, slices: list[Slice]) -> bool:
        """Whether different images share a place."""
        crowded = (place for place in self._places(slices) if len(place) > 1)
        return any(len({*map(self._image, place)}) > 1 for place in crowded)

    def _image(self, item: Slice) -> object:
        """Equal for copies of one image in one place; a frame of several is like no other."""
        if item.header.frames > 1:
            return item
        corner = tuple(np.rint(item.position / _OFFSET_MM).tolist())
        return self.digest(item.header.path), corner, item.plane.slope, item.plane.intercept

    def _regular(self, slices: list[Slice]) -> bool:
        places = self._places(slices)
        if len(places) < 2:
            return False
        return measure([self.height[place[0]] for place in places]).kind == "regular"

    def _distinct(self, slices: list[Slice]) -> Group:
        """Without the copies of a slice that is in; different images in one place stay."""
        kept: list[Slice] = []
        repeated: list[Slice] = []
        for place in self._places(slices):
            unique: dict[object, Slice] = {}
            for item in place:
                image = self._image(item) if len(place) > 1 else item
                if image in unique:
                    repeated.append(item)
                else:
                    unique[image] = item
            kept.extend(unique.values())
        # A volume that never moves is no series with copies.
        if len(kept) == 1:
            kept, repeated = [*kept, *repeated], []
        flags = ("repeated_slice",) if repeated else ()
        return Group(slices=tuple(kept), repeated=tuple(repeated), flags=flags)

    def _at_gaps(self, group: Group) -> list[Group]:
        places = self._places(list(group.slices))
        if len(places) < 2 or len(places) < len(group.slices):
            return [group]
        spacing = measure([self.height[place[0]] for place in places])
        if spacing.kind != "missing":
            return [group]
        cuts = [0, *(i + 1 for i in spacing.odd), len(places)]
        return [
            replace(
                group,
                slices=tuple(item for place in places[a:b] for item in place),
                repeated=group.repeated if a == 0 else (),
                flags=(*group.flags, SPLIT),
            )
            for a, b in pairwise(cuts)
        ]


def _when(item: Slice) -> tuple[str, int, str]:
    """Sortable time of acquisition; the acquisition's number where times are equal."""
    marks = item.plane.marks
    if not marks:
        return "", 0, ""
    number = marks[_ACQUISITION]
    return marks[_TIME], int(number) if number.isdigit() else 0, number
