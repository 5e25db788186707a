"""How an X-ray is shown by `medvlp inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvlp.archive.view import Curve, View, fit, picture, to_bytes
from medvlp.cxr.read import probe, read_xray

_SIDE = 512
_BINS = 64


def view(paths: Sequence[Path], *, flags: Sequence[str] = ()) -> View:
    """An X-ray as models see it: brighter where X-rays were stopped.

    Raises:
        Reject: The file is bad.
        Ignore: A DICOM file without an image.
    """
    (path,) = paths
    found = probe(paths)
    xray_HW = read_xray(path)
    low, high = (float(v) for v in np.percentile(xray_HW, (0.5, 99.5)))
    counts, edges = np.histogram(xray_HW, bins=_BINS)
    spacing = found.spacing_mm
    facts = [
        ("size", f"{xray_HW.shape[0]} rows, {xray_HW.shape[1]} columns"),
        ("pixel spacing", "unknown" if spacing is None else f"{spacing[0]:.3f} mm"),
        ("values", f"{float(xray_HW.min()):.0f} to {float(xray_HW.max()):.0f}"),
        ("modality", found.modality or "unknown"),
    ]
    return View(
        facts=tuple(facts),
        pictures=(picture(fit(to_bytes(xray_HW, low, high), _SIDE), "as models see it"),),
        curves=(
            Curve(
                caption="grey values",
                x_name="value",
                y_name="pixels",
                x=tuple(float(x) for x in edges[:-1]),
                y=tuple(float(n) for n in counts),
            ),
        ),
    )
