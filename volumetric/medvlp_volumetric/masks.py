"""Masks of volumes: where they lie on their volume's voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlp.archive.pictures import is_picture
from medvlp.archive.series.geometry import Volume
from medvlp.errors import InputError
from medvlp_volumetric.arrays import is_array
from medvlp_volumetric.grid import same_grid
from medvlp_volumetric.nifti import is_nifti, stated_affine
from medvlp_volumetric.read import read_volume
from medvlp_volumetric.told import Told, is_placeholder


def read_mask(
    paths: Sequence[Path], volume: Volume, flags: Sequence[str] = ()
) -> NDArray[np.float32]:
    """A mask's values in the axes of the volume that it belongs to.

    Args:
        paths: The mask's files.
        volume: In the orientation it is read in.
        flags: The volume's sample's.

    Raises:
        Reject: The files make no sound volume.
        InputError: The mask does not lie on the volume's voxels.
    """
    told = Told.of(flags).affine
    if told is not None and _tells_no_place(paths):
        mask = read_volume(paths, Told(affine=told).flags)
    else:
        mask = read_volume(paths)
    if not same_grid(
        mask.hu_DHW.shape[::-1], mask.affine_whd, volume.hu_DHW.shape[::-1], volume.affine_whd
    ):
        raise InputError(
            f"a mask of shape {mask.hu_DHW.shape} does not lie on the voxels of its volume "
            f"{volume.hu_DHW.shape}",
            remedy="resample the mask onto its volume, or leave it out",
        )
    axes, flipped = volume.turned()
    values_DHW = np.flip(
        mask.canonical().hu_DHW, tuple(k for k, flip in enumerate(flipped) if flip)
    )
    native: NDArray[np.float32] = values_DHW.transpose(np.argsort(axes))
    return native


def _tells_no_place(paths: Sequence[Path]) -> bool:
    """Whether files say as little of where they lie as those of a volume whose place is told.

    Programs that draw on a volume copy its header.
    """
    if not is_nifti(paths[0]):
        return all(is_array(path) or is_picture(path) for path in paths)
    stated = stated_affine(paths[0])
    return stated is None or is_placeholder(stated)
