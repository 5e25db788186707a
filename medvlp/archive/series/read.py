"""DICOM series to volumes: files in, one array with its affine and its history out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.dicom.files import read_header, read_planes
from medvlp.archive.dicom.header import Header
from medvlp.archive.dicom.part10 import NO_PREAMBLE
from medvlp.archive.series.geometry import Provenance, Volume
from medvlp.archive.series.grouping import Group, Slice, group_series
from medvlp.archive.series.hounsfield import OUTSIDE_HU, clamp_padding
from medvlp.archive.series.layout import Layout, lay_out
from medvlp.archive.series.policy import NO_REPAIR, Policy
from medvlp.archive.series.repair import fill_missing
from medvlp.archive.verdict import Ignore, Reject


def load(
    layout: Layout,
    policy: Policy = NO_REPAIR,
    look: Callable[[int, NDArray[np.float32]], None] | None = None,
) -> Volume:
    """Decode a layout's files, each once, each slice with its own rescale, and repair them.

    Args:
        layout: Of one volume.
        policy: Under which it was laid out.
        look: Is shown each slice, its place and its values as they are decoded.

    Raises:
        Reject: A file is bad.
    """
    hounsfield = layout.slices[0].header.modality == "CT"
    outside = OUTSIDE_HU if hounsfield else 0.0
    values_DHW = np.empty(layout.shape, dtype=np.float32)
    places: dict[Path, list[tuple[int, Slice]]] = defaultdict(list)
    for place, item in zip(layout.places, layout.slices, strict=True):
        places[item.header.path].append((place, item))
    clamped = False
    for path, slices in places.items():
        header = slices[0][1].header
        planes = read_planes(path, legacy=NO_PREAMBLE in header.flags, header=header)
        for place, item in slices:
            plane_HW = planes[item.frame]
            if look is not None:
                look(place, plane_HW)
            if hounsfield:
                clamped |= clamp_padding(plane_HW, padding_hu(item))
            moved = layout.shear.apply(plane_HW, place, outside) if layout.shear else plane_HW
            values_DHW[place] = moved
    fill_missing(values_DHW, layout.places)
    flags = (*layout.flags, *(("padding_clamped",) if clamped else ()))
    return Volume(
        hu_DHW=values_DHW,
        affine=layout.affine,
        units="HU" if hounsfield else "",
        flags=flags,
        provenance=_provenance(layout, flags, policy),
    )


def padding_hu(item: Slice) -> float | None:
    """What the header says padding is, rescaled."""
    stored = item.header.padding
    return None if stored is None else stored * item.plane.slope + item.plane.intercept


def _provenance(layout: Layout, flags: Sequence[str], policy: Policy) -> Provenance:
    number = {path: i for i, path in enumerate(layout.paths)}
    slices: list[tuple[int, int] | None] = [None] * layout.shape[0]
    for place, item in zip(layout.places, layout.slices, strict=True):
        slices[place] = number[item.header.path], item.frame
    return Provenance(
        reader="pydicom",
        files=layout.paths,
        slices=tuple(slices),
        steps=("rescaled", "sorted_by_position", *flags),
        policies=(("missing", policy.missing), ("tilt", policy.tilt)),
    )


def read_headers(paths: Iterable[Path], *, legacy: bool = False) -> list[Header]:
    """Headers of the image files among `paths`; files without an image are left out.

    Args:
        paths: The files.
        legacy: Whether files without preamble are taken.

    Raises:
        Reject: A file is bad.
    """
    headers = []
    for path in paths:
        try:
            headers.append(read_header(path, legacy=legacy))
        except Ignore:
            continue
    return headers


def choose(groups: Sequence[Group], part: int = 0) -> Group:
    """The one volume among the groups of some files; localizers and screen pictures are none.

    Args:
        groups: As `group_series` makes them.
        part: Which one, from 1; 0 where there must be only one.

    Raises:
        Reject: ``mixed_series``: there are several, or no such part.
        Ignore: ``no_pixels``: there is no image.
    """
    if not groups:
        raise Ignore("no_pixels")
    if part:
        if part > len(groups):
            raise Reject("mixed_series", f"{len(groups)} groups")
        return groups[part - 1]
    volumes = [g for g in groups if not g.header.localizer and not g.header.captured]
    if len(volumes) > 1:
        raise Reject("mixed_series", f"{len(volumes)} groups")
    group = (volumes or list(groups))[0]
    localizers = any(other.header.localizer for other in groups if other is not group)
    return replace(group, flags=(*group.flags, "localizer_removed")) if localizers else group


def read_series(
    paths: Sequence[Path], policy: Policy = NO_REPAIR, part: int = 0, *, legacy: bool = False
) -> Volume:
    """The one volume in `paths`, in its own orientation; localizers beside it are left out.

    Args:
        paths: Its files, in any order.
        policy: What is done about missing slices and a tilted gantry.
        part: Which volume, from 1, where the files hold several; see `policy.part_of`.
        legacy: Whether files without preamble are taken.

    Raises:
        Reject: A file is bad, the slices make no sound volume (codes as in `lay_out`), or there
            are several volumes (``mixed_series``).
        Ignore: There is no image, or only localizers.
    """
    group = choose(group_series(read_headers(paths, legacy=legacy), policy), part)
    return load(lay_out(group, policy), policy)
