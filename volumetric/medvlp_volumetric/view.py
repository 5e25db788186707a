"""How a CT volume is shown by `medvlp inspect`: contact sheet, cross sections, HU histogram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.pictures import read_grey
from medvlp.archive.series.geometry import Volume
from medvlp.archive.view import Curve, Picture, View, fit, picture, tile, to_bytes
from medvlp_volumetric.nifti import is_nifti, refuse_not_hu
from medvlp_volumetric.read import one_picture, read_ct
from medvlp_volumetric.values import probe_volume

_COLUMNS = 6
_SLICES = 24
_SIDE = 150
WIDE_HU = (-1000.0, 600.0)
"""A window in which lung, soft tissue and bone are all seen."""
SOFT_HU = (-160.0, 240.0)
_HISTOGRAM_HU = (-1200, 2000)
_BIN_HU = 25


def view(paths: Sequence[Path], *, flags: Sequence[str] = ()) -> View:
    """A volume, turned to the canonical orientation but not resampled, or a picture of a slice.

    Raises:
        Reject: The files make no sound volume of HU.
        Ignore: They hold no volume, or a mask.
    """
    if one_picture(paths):
        return _single(paths[0])
    stored = read_ct(paths, flags)
    if is_nifti(paths[0]) and not flags:
        # A doubt that some voxels leave is settled as indexing settles it.
        refuse_not_hu(probe_volume(stored).flags)
    volume = stored.canonical()
    depth_mm, row_mm, column_mm = volume.spacing_mm
    depth, rows, columns = volume.hu_DHW.shape
    facts = (
        ("size", f"{depth} slices, {rows} rows, {columns} columns"),
        ("spacing", f"{depth_mm:.3f} x {row_mm:.3f} x {column_mm:.3f} mm"),
        ("extent", f"{depth * depth_mm:.0f} x {rows * row_mm:.0f} x {columns * column_mm:.0f} mm"),
        ("stored axes (columns, rows, slices)", f"towards {', '.join(_ways(stored))}"),
        ("values", f"{float(volume.hu_DHW.min()):.0f} to {float(volume.hu_DHW.max()):.0f} HU"),
    )
    return View(
        facts=facts,
        flags=volume.flags,
        pictures=(_sheet(volume), _section(volume, 1, "coronal"), _section(volume, 2, "sagittal")),
        curves=(_histogram(volume.hu_DHW),),
    )


def _single(path: Path) -> View:
    found = read_grey(path)
    low, high = float(found.values.min()), float(found.values.max())
    shown = fit(to_bytes(found.values, low, max(high, low + 1)), 2 * _SIDE, (1.0, 1.0))
    rows, columns = found.values.shape
    return View(
        facts=(
            ("size", f"one slice, {rows} rows, {columns} columns"),
            ("values", f"{low:.0f} to {high:.0f} grey levels"),
        ),
        flags=found.flags,
        pictures=(picture(shown, f"{low:.0f} to {high:.0f} grey levels"),),
        curves=(),
    )


def _ways(volume: Volume) -> list[str]:
    names = {"L": "left", "R": "right", "A": "front", "P": "back", "S": "head", "I": "feet"}
    return [names[code] for code in volume.axcodes]


def _sheet(volume: Volume) -> Picture:
    chosen = np.unique(np.linspace(0, len(volume.hu_DHW) - 1, _SLICES).round().astype(int))
    slices = [
        fit(to_bytes(volume.hu_DHW[i], *WIDE_HU), _SIDE, volume.spacing_mm[1:])
        for i in reversed(chosen)
    ]
    caption = (
        f"{len(slices)} of {len(volume.hu_DHW)} slices from head to feet, "
        f"{WIDE_HU[0]:.0f} to {WIDE_HU[1]:.0f} HU; the patient's left is on the right"
    )
    return picture(tile(slices, min(_COLUMNS, len(slices))), caption)


def _section(volume: Volume, axis: int, name: str) -> Picture:
    """The middle plane across `axis`, head up."""
    plane = np.take(volume.hu_DHW, volume.hu_DHW.shape[axis] // 2, axis=axis)[::-1]
    wide_mm = volume.spacing_mm[3 - axis]
    shown = fit(to_bytes(plane, *SOFT_HU), 2 * _SIDE, (volume.spacing_mm[0], wide_mm))
    return picture(shown, f"middle {name} plane, {SOFT_HU[0]:.0f} to {SOFT_HU[1]:.0f} HU")


def _histogram(hu_DHW: NDArray[np.float32]) -> Curve:
    low, high = _HISTOGRAM_HU
    counts, edges = np.histogram(np.clip(hu_DHW, low, high), bins=(high - low) // _BIN_HU)
    return Curve(
        caption="HU histogram",
        x_name="HU",
        y_name="voxels",
        x=tuple(float(x) for x in edges[:-1]),
        y=tuple(float(n) for n in counts),
    )
