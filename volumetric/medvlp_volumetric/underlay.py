"""CT volumes beneath maps: Hounsfield units, a window to see them in, and where voxels lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvlp.archive.pictures import is_picture
from medvlp.archive.series.geometry import Volume
from medvlp.data.placement import Placement
from medvlp.data.underlay import Underlay
from medvlp_volumetric.arrays import is_array
from medvlp_volumetric.told import Told
from medvlp_volumetric.view import SOFT_HU, WIDE_HU

_LUNG_HU = (-900.0, -700.0)
_LEAST_LUNG = 0.04
"""Share of voxels at lung's density from which a volume is shown in the wide window: chests have
0.1 or more; abdomens, with what the couch and the skin's edges add, some 0.03."""
_ENDS = (1, 99)
"""Percentiles that become black and white where values are no Hounsfield units."""


def underlay_of(
    paths: Sequence[Path], flags: Sequence[str], volume: Volume, placement: Placement
) -> Underlay | None:
    """What a map of a volume is laid over.

    Args:
        paths: The volume's files.
        flags: The sample's.
        volume: In the orientation it is read in.
        placement: Of it on the stored grid.

    Returns:
        None for arrays and stacks of pictures of which no table tells where their voxels lie.
    """
    placeless = all(is_array(path) or is_picture(path) for path in paths)
    if placeless and Told.of(flags).affine is None:
        return None
    return Underlay(
        values_DHW=np.clip(np.rint(volume.hu_DHW), -32768, 32767).astype(np.int16),
        affine=volume.affine,
        placement=placement,
        window=_window(volume),
    )


def _window(volume: Volume) -> tuple[float, float]:
    """Wide where there is lung to be seen, else that of soft tissue."""
    if volume.units != "HU":
        low, high = np.percentile(volume.hu_DHW, _ENDS)
        return float(low), float(max(high, low + 1))
    low, high = _LUNG_HU
    lung = np.count_nonzero((volume.hu_DHW > low) & (volume.hu_DHW < high))
    return WIDE_HU if lung >= _LEAST_LUNG * volume.hu_DHW.size else SOFT_HU
