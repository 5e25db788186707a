"""The preprocessing contract of CT as slices: as many as a volume has, or a single picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.archive.pictures import read_grey
from medvlp.archive.series.geometry import Volume
from medvlp.config import STRICT
from medvlp.data.placement import Placed, Placement, Region, place
from medvlp.data.preprocess import Span
from medvlp.data.underlay import Underlay
from medvlp.errors import InputError
from medvlp_volumetric.masks import read_mask
from medvlp_volumetric.preprocess import (
    CtAugmentConfig,
    Length,
    Millimetres,
    Window,
    apply_changes,
    check_windows,
    draw_change,
    grey_slice,
    placement_of,
    resampled_shape,
    volume_of,
    windowed,
)
from medvlp_volumetric.read import one_picture, read_ct
from medvlp_volumetric.resampling import middle, onto_grid
from medvlp_volumetric.underlay import underlay_of


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CtSlicesConfig:
    """From a CT series, a NIfTI file or a picture of one slice to (C+1,D,H,W), as deep as it is.

    The last channel is each slice's place along D in mm, relative to the middle of the slices. In a
    batch, volumes of less depth are filled up with slices that are not there, NaN in all channels.
    """

    ABSENT: ClassVar[int] = -32768
    """HU of voxels of slices that are not there; no other voxel is stored as this."""

    kind: Literal["ct-slices"] = "ct-slices"
    spacing_mm: tuple[Millimetres, Millimetres] = (1.5, 1.5)
    """Along H and W; has no effect with ``fit: resize``, nor on pictures, which tell none."""
    size: tuple[Length, Length] = (224, 224)
    """H and W of a slice."""
    slice_mm: Millimetres = 5.0
    """Between neighbouring slices."""
    max_slices: Length = 256
    """What lies beyond so many is cut off at both ends of D."""
    window_hu: Window = (-1000.0, 1000.0)
    """HU that become -1 and 1; what lies outside is clipped. Of a picture, the darkest and the
    brightest grey."""
    more_windows_hu: tuple[Window, ...] = ()
    """Further windows, one more channel each."""
    fit: Literal["crop_pad", "resize"] = "crop_pad"
    """Of a slice, ``crop_pad``: resample to `spacing_mm`, then crop or pad about the centre with
    air; ``resize``: stretch it to `size`. Pictures always keep their proportions and fit in."""
    augment: CtAugmentConfig = CtAugmentConfig(shift=(0.0, 4.0, 4.0))
    """Its shift along D must be 0: slices have their places."""

    def __post_init__(self) -> None:
        check_windows(self.windows)
        if self.augment.shift[0]:
            raise ValueError(f"augment.shift {self.augment.shift}: the first, along D, must be 0")

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows in the order of the channels."""
        return (self.window_hu, *self.more_windows_hu)

    @property
    def channels(self) -> int:
        """Channels of the model input, the last of which holds places."""
        return len(self.windows) + 1

    def build(self) -> CtSlices:
        """The preprocessing that this contract describes."""
        return CtSlices(self)


class CtSlices:
    """CT files to model input; the stored array is int16 HU, (D,H,W) with a D of its own."""

    def __init__(self, config: CtSlicesConfig) -> None:
        self.config = config
        self._air = min(low for low, _ in config.windows)

    def read(
        self, paths: Sequence[Path], span: Span | None = None, flags: Sequence[str] = ()
    ) -> NDArray[np.int16]:
        """Read one series, NIfTI file or picture; `span` has no meaning here.

        A series that was repaired when it was taken in is repaired again, as `flags` say.

        Raises:
            Reject: The files make no sound volume of HU, or no picture.
            Ignore: They hold no volume, or a mask.
        """
        if one_picture(paths):
            return self._store_picture(read_grey(paths[0]).values)
        return self._store(read_ct(paths, flags))

    def read_in_place(
        self, paths: Sequence[Path], flags: Sequence[str] = ()
    ) -> tuple[NDArray[np.int16], Underlay | None]:
        """`read`, and the volume itself; None in its place where its files tell no place.

        Raises:
            Reject: The files make no sound volume of HU, or no picture.
            Ignore: They hold no volume, or a mask.
        """
        if one_picture(paths):
            return self.read(paths), None
        volume = read_ct(paths, flags)
        return self._store(volume), underlay_of(paths, flags, volume, self.placement(volume))

    def from_array(
        self, array: NDArray[Any], spacing_mm: Sequence[float] | None = None
    ) -> NDArray[np.int16]:
        """HU of (D,H,W), in canonical order (head, back, left), or of one slice (H,W).

        Args:
            array: The volume or slice.
            spacing_mm: Along D, H and W; without it, the contract's spacing is assumed.

        Raises:
            InputError: Another shape, or values that are not finite.
        """
        hu_DHW = np.asarray(array, dtype=np.float32)
        hu_DHW = hu_DHW[None] if hu_DHW.ndim == 2 else hu_DHW
        spacing = self._spacing_mm if spacing_mm is None else spacing_mm
        return self._store(volume_of(hu_DHW, spacing))

    @property
    def _spacing_mm(self) -> tuple[float, float, float]:
        return (self.config.slice_mm, *self.config.spacing_mm)

    def _store(self, volume: Volume) -> NDArray[np.int16]:
        canonical = volume.canonical()
        return self._onto_grid(canonical.hu_DHW, *self._shapes(canonical))

    def _onto_grid(
        self, hu_DHW: NDArray[np.float32], resampled: Sequence[int], shape: Sequence[int]
    ) -> NDArray[np.int16]:
        # Whole HU, never that of slices that are not there.
        lowest = self.config.ABSENT + 1
        return onto_grid(hu_DHW, resampled, shape, middle(resampled, shape), self._air, lowest)

    def _shapes(self, canonical: Volume) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What a volume is resampled to, and what this is cropped and padded to."""
        depth, height, width = resampled_shape(canonical, self._spacing_mm)
        if self.config.fit == "resize":
            height, width = self.config.size
        kept = min(depth, self.config.max_slices)
        return (depth, height, width), (kept, *self.config.size)

    def _store_picture(self, grey_HW: NDArray[np.float32]) -> NDArray[np.int16]:
        (low, high), darkest = self.config.window_hu, grey_HW.min()
        share = (grey_HW - darkest) / max(float(grey_HW.max() - darkest), 1e-12)
        hu_DHW = np.asarray(low + share * (high - low), dtype=np.float32)[None]
        return self._onto_grid(hu_DHW, (1, *self._fitted(grey_HW.shape)), (1, *self.config.size))

    def _fitted(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of a picture that fills the slice in one direction."""
        scale = min(m / n for n, m in zip(shape, self.config.size, strict=True))
        rows, columns = (max(1, round(n * scale)) for n in shape)
        return rows, columns

    def regions(
        self, paths: Sequence[Path], flags: Sequence[str], regions: Sequence[Region]
    ) -> Placed:
        """Boxes and masks (volumes on the series' own voxels) on the stored grid.

        Raises:
            Reject: The files make no sound volume of HU.
            Ignore: They hold no volume, or a mask.
            InputError: A region does not fit the volume, or lies in a picture.
        """
        if not one_picture(paths):
            volume = read_ct(paths, flags)
            drawn = partial(read_mask, volume=volume, flags=flags)
            return place(self.placement(volume), regions, drawn)
        if regions:
            raise InputError(
                "a region lies in a picture, and regions here are of volumes",
                remedy="leave the picture or its regions out",
            )
        placement = self._picture_placement(read_grey(paths[0]).values.shape)
        return place(placement, (), lambda files: read_grey(files[0]).values)

    def placement(self, volume: Volume) -> Placement:
        """How a volume, in the orientation it is read in, lies on the stored grid."""
        resampled, shape = self._shapes(volume.canonical())
        return placement_of(volume, resampled, shape, middle(resampled, shape))

    def _picture_placement(self, shape: tuple[int, ...]) -> Placement:
        fitted = self._fitted(shape)
        return Placement(
            native=(1, *shape),
            grid=(1, *self.config.size),
            axes=(0, 1, 2),
            scale=(1.0, *(m / n for n, m in zip(shape, fitted, strict=True))),
            offset=(0.0, *((n - m) // 2 for n, m in zip(self.config.size, fitted, strict=True))),
        )

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """A `Change`."""
        return np.array(draw_change(self.config.augment, rng))

    def tensor(self, stored: Tensor, drawn_BK: Tensor | None = None) -> Tensor:
        """(B,C+1,D,H,W) float32: one channel in [-1,1] a window, and places in mm.

        NaN where a slice is not there. `drawn_BK` augments the windows.
        """
        there_BD = stored[:, :, 0, 0] != self.config.ABSENT
        count_B = there_BD.sum(1)
        hu_BDHW = stored.to(torch.float32)
        if drawn_BK is not None:
            drawn = zip(hu_BDHW, torch.split(drawn_BK, 1), count_B.tolist(), strict=True)
            for hu_DHW, change_1K, count in drawn:
                # Of the slices that are there alone: noise follows from the shape, too.
                hu_DHW[:count] = apply_changes(hu_DHW[None, :count], change_1K, self._air)[0]
        order_D = torch.arange(stored.shape[1], device=stored.device)
        place_BD = (order_D - (count_B[:, None] - 1) / 2) * self.config.slice_mm
        place_B1DHW = place_BD[:, None, :, None, None].expand(-1, 1, -1, *stored.shape[2:])
        image = torch.cat([windowed(hu_BDHW, self.config.windows), place_B1DHW], 1)
        return image.masked_fill_(~there_BD[:, None, :, None, None], torch.nan)

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """The axial slice at the fraction `at` from the feet, first window, (H,W,3).

        The patient's left is on the viewer's right.
        """
        return grey_slice(stored, self.config.window_hu, at)
