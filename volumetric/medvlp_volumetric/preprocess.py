"""The preprocessing contract of CT volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.archive.series.geometry import Volume
from medvlp.config import STRICT
from medvlp.data.placement import Placed, Placement, Region, place
from medvlp.data.preprocess import Span
from medvlp.data.underlay import Underlay
from medvlp.errors import InputError
from medvlp_volumetric.body import body_centre
from medvlp_volumetric.masks import read_mask
from medvlp_volumetric.read import read_ct
from medvlp_volumetric.resampling import about, middle, onto_grid
from medvlp_volumetric.underlay import underlay_of

Length = Annotated[int, Ge(1)]
Millimetres = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Window = tuple[float, float]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CtAugmentConfig:
    """Small changes of position and of the HU scale; no flips, which would swap left and right."""

    shift: tuple[NotNegative, NotNegative, NotNegative] = (2.0, 4.0, 4.0)
    """Largest shift along D, H and W in stored voxels."""
    scale_hu: NotNegative = 0.03
    """Largest change of the HU scale, as a fraction."""
    offset_hu: NotNegative = 20.0
    noise_hu: NotNegative = 20.0
    """Largest standard deviation of added noise."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CtPreprocessConfig:
    """From a CT series or NIfTI file to a (C,D,H,W) tensor, canonical: head, back, left."""

    LATER: ClassVar[Mapping[str, Any]] = {
        "centre": "volume",
        "scale_to": (-1.0, 1.0),
        "clip": "last",
        "antialias": True,
        "pad": "air",
        "stretch": False,
    }

    kind: Literal["ct"] = "ct"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] = (3.0, 3.0, 3.0)
    """Along D, H and W; has no effect with ``fit: resize``."""
    shape: tuple[Length, Length, Length] = (64, 96, 96)
    """D, H and W of the model input."""
    window_hu: Window = (-1000.0, 1000.0)
    """HU that become -1 and 1; what lies outside is clipped."""
    more_windows_hu: tuple[Window, ...] = ()
    """Further windows, one more channel each."""
    fit: Literal["crop_pad", "resize"] = "crop_pad"
    """``crop_pad``: resample to `spacing_mm`, then crop or pad about the centre with air;
    ``resize``: stretch the whole volume to `shape`."""
    centre: Literal["volume", "body"] = "volume"
    """What ``crop_pad`` puts into the middle: the volume's own, or that of the box around the body
    (`medvlp_volumetric.body`), which may lie off centre in a large field of view. Then, too, no
    more is cut off and filled than must be; without a body, the volume's own."""
    scale_to: Window = (-1.0, 1.0)
    """What the ends of a window become in the model's input, if others trained it so."""
    clip: Literal["first", "last"] = "last"
    """Whether HU beyond all windows are clipped before the volume is resampled, or after."""
    antialias: bool = True
    """Average an axis over whole voxels where it shrinks by two or more."""
    pad: Literal["air", "least"] = "air"
    """What padding fills in: the least HU of the windows, or the volume's own least within them."""
    stretch: bool = False
    """A volume's least and largest values become the ends of the one window before it is resampled:
    for models of pictures, which know no HU."""
    augment: CtAugmentConfig = CtAugmentConfig()

    def __post_init__(self) -> None:
        check_windows((*self.windows, self.scale_to))
        if self.stretch and self.more_windows_hu:
            raise ValueError("stretch: a volume that is stretched has one window")
        if self.fit == "resize" and self.centre != "volume":
            raise ValueError("centre: body needs fit: crop_pad; resize shows the whole volume")

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows in the order of the channels."""
        return (self.window_hu, *self.more_windows_hu)

    @property
    def channels(self) -> int:
        """Channels of the model input."""
        return len(self.windows)

    def build(self) -> CtPreprocess:
        """The preprocessing that this contract describes."""
        return CtPreprocess(self)


def check_windows(windows: Sequence[Window]) -> None:
    """See that every window has a width.

    Raises:
        ValueError: One has none.
    """
    for low, high in windows:
        if low >= high:
            raise ValueError(f"window ({low}, {high}): the first must be smaller")


class Change(NamedTuple):
    """One drawn augmentation; `noise_seed` makes the noise field part of it."""

    shift_d: int
    shift_h: int
    shift_w: int
    scale: float
    offset_hu: float
    noise_hu: float
    noise_seed: int


def draw_change(config: CtAugmentConfig, rng: np.random.Generator) -> Change:
    """Draw an augmentation; applying it is `apply_changes`' part."""
    d, h, w = (round(float(rng.uniform(-limit, limit))) for limit in config.shift)
    return Change(
        shift_d=d,
        shift_h=h,
        shift_w=w,
        scale=1 + float(rng.uniform(-config.scale_hu, config.scale_hu)),
        offset_hu=float(rng.uniform(-config.offset_hu, config.offset_hu)),
        noise_hu=float(rng.uniform(0, config.noise_hu)),
        noise_seed=int(rng.integers(2**31)),
    )


def apply_changes(hu_BDHW: Tensor, change_BK: Tensor, fill: float) -> Tensor:
    """Shift by whole voxels (air comes in), then jitter and add noise.

    The noise is the device's own: the same seed gives another field on a GPU than on a CPU.

    Args:
        hu_BDHW: The volumes.
        change_BK: Each volume's `Change`, on the CPU.
        fill: HU of what comes in.
    """
    moved_BDHW = torch.full_like(hu_BDHW, fill)
    source = torch.Generator(hu_BDHW.device)
    for hu, moved, row in zip(hu_BDHW, moved_BDHW, change_BK.tolist(), strict=True):
        change = Change(*row)
        shift = (int(change.shift_d), int(change.shift_h), int(change.shift_w))
        old, new = _overlap(shift, hu.shape)
        moved[new] = hu[old]
        moved.mul_(change.scale).add_(change.offset_hu)
        if change.noise_hu > 0:
            source.manual_seed(int(change.noise_seed))
            moved.add_(torch.empty_like(moved).normal_(generator=source), alpha=change.noise_hu)
    return moved_BDHW


def _overlap(shift: Sequence[int], shape: Sequence[int]) -> tuple[tuple[slice, ...], ...]:
    """Which part of a volume stays in view when it is shifted, before and after."""
    pairs = list(zip(shape, shift, strict=True))
    return (
        tuple(slice(max(0, -s), max(0, n - max(0, s))) for n, s in pairs),
        tuple(slice(max(0, s), max(0, n - max(0, -s))) for n, s in pairs),
    )


def volume_of(hu_DHW: NDArray[np.float32], spacing_mm: Sequence[float]) -> Volume:
    """A user's own array as a volume in canonical order: head, back, left.

    Raises:
        InputError: Another shape, or values that are not finite.
    """
    if hu_DHW.ndim != 3 or hu_DHW.size == 0 or not np.isfinite(hu_DHW).all():
        raise InputError(
            f"a CT array is (D,H,W) with finite HU, got shape {hu_DHW.shape}",
            remedy="pass one volume at a time",
        )
    d, h, w = spacing_mm
    # Towards the head, the back and the left, in right-anterior-superior coordinates.
    affine = np.array([[0, 0, -w, 0], [0, -h, 0, 0], [d, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    return Volume(hu_DHW=hu_DHW, affine=affine)


def resampled_shape(volume: Volume, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """How many voxels of a spacing the extent of a volume holds along each axis, at least one."""
    return tuple(
        max(1, round(n * have / want))
        for n, have, want in zip(volume.hu_DHW.shape, volume.spacing_mm, spacing_mm, strict=True)
    )


def placement_of(
    volume: Volume, resampled: Sequence[int], shape: Sequence[int], start: Sequence[int]
) -> Placement:
    """How a volume, in the orientation it is read in, lies on a grid.

    Args:
        volume: As it is read.
        resampled: The shape to which its canonical array is resampled.
        shape: That of the window of it which is kept.
        start: Where this begins, as for `resampling.onto_grid`.
    """
    axes, flipped = volume.turned()
    scale, offset = [], []
    for axis, flip, to, at in zip(axes, flipped, resampled, start, strict=True):
        factor = to / volume.hu_DHW.shape[axis]
        scale.append(-factor if flip else factor)
        offset.append(float(to - at if flip else -at))
    return Placement(
        native=volume.hu_DHW.shape,
        grid=tuple(shape),
        axes=axes,
        scale=tuple(scale),
        offset=tuple(offset),
    )


def windowed(hu_BDHW: Tensor, windows: Sequence[Window], to: Window = (-1.0, 1.0)) -> Tensor:
    """(B,C,D,H,W), one channel a window, whose ends become those of `to`."""
    least, largest = to
    channels = [
        (hu_BDHW - low) * ((largest - least) / (high - low)) + least for low, high in windows
    ]
    return torch.stack(channels, dim=1).clamp_(least, largest)


def grey_slice(stored: NDArray[Any], window: Window, at: float) -> NDArray[np.uint8]:
    """The axial slice at the fraction `at` from the feet, (H,W,3); left is on the right."""
    low, high = window
    index = min(len(stored) - 1, max(0, round(at * (len(stored) - 1))))
    grey = np.clip((stored[index].astype(np.float32) - low) / (high - low), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


class CtPreprocess:
    """CT files to model input; the stored array is int16 HU of the contract's shape."""

    def __init__(self, config: CtPreprocessConfig) -> None:
        self.config = config
        self._air = min(low for low, _ in config.windows)
        self._bright = max(high for _, high in config.windows)

    def read(
        self, paths: Sequence[Path], span: Span | None = None, flags: Sequence[str] = ()
    ) -> NDArray[np.int16]:
        """Read one series or NIfTI file onto the model's grid; `span` has no meaning here.

        A series that was repaired when it was taken in is repaired again, as `flags` say.

        Raises:
            Reject: The files make no sound volume of HU.
            Ignore: They hold no volume, or a mask.
        """
        return self._store(read_ct(paths, flags, any_scale=self.config.stretch))

    def read_in_place(
        self, paths: Sequence[Path], flags: Sequence[str] = ()
    ) -> tuple[NDArray[np.int16], Underlay | None]:
        """`read`, and the volume itself; None in its place where its files tell no place.

        Raises:
            Reject: The files make no sound volume of HU.
            Ignore: They hold no volume, or a mask.
        """
        volume = read_ct(paths, flags, any_scale=self.config.stretch)
        return self._store(volume), underlay_of(paths, flags, volume, self.placement(volume))

    def from_array(
        self, array: NDArray[Any], spacing_mm: Sequence[float] | None = None
    ) -> NDArray[np.int16]:
        """HU of (D,H,W), in canonical order (head, back, left), as the stored array.

        Args:
            array: The volume.
            spacing_mm: Along D, H and W; without it, the contract's spacing is assumed.

        Raises:
            InputError: Another shape, or values that are not finite.
        """
        hu_DHW = np.asarray(array, dtype=np.float32)
        spacing = self.config.spacing_mm if spacing_mm is None else spacing_mm
        return self._store(volume_of(hu_DHW, spacing))

    def _store(self, volume: Volume) -> NDArray[np.int16]:
        canonical = volume.canonical()
        hu_DHW, config = canonical.hu_DHW, self.config
        if config.stretch:
            hu_DHW = self._stretched(hu_DHW)
        if config.clip == "first":
            hu_DHW = np.clip(hu_DHW, self._air, self._bright)
        resampled, start = self._window(canonical)
        fill = self._air if config.pad == "air" else max(self._air, float(hu_DHW.min()))
        return onto_grid(hu_DHW, resampled, config.shape, start, fill, antialias=config.antialias)

    def _stretched(self, hu_DHW: NDArray[np.float32]) -> NDArray[np.float32]:
        (low, high), least = self.config.window_hu, hu_DHW.min()
        share = (hu_DHW - least) / max(float(hu_DHW.max() - least), 1e-6)
        return np.asarray(low + share * (high - low), dtype=np.float32)

    def _window(self, canonical: Volume) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What a volume is resampled to, and where the stored array begins in this."""
        shape = self.config.shape
        if self.config.fit == "resize":
            return shape, (0, 0, 0)
        resampled = resampled_shape(canonical, self.config.spacing_mm)
        centre = body_centre(canonical) if self.config.centre == "body" else None
        if centre is None:
            return resampled, middle(resampled, shape)
        return resampled, about(centre, resampled, shape)

    def regions(
        self, paths: Sequence[Path], flags: Sequence[str], regions: Sequence[Region]
    ) -> Placed:
        """Boxes and masks (volumes on the series' own voxels) on the stored grid.

        Raises:
            Reject: The files make no sound volume of HU.
            Ignore: They hold no volume, or a mask.
            InputError: A region does not fit the volume.
        """
        volume = read_ct(paths, flags, any_scale=self.config.stretch)
        drawn = partial(read_mask, volume=volume, flags=flags)
        return place(self.placement(volume), regions, drawn)

    def placement(self, volume: Volume) -> Placement:
        """How a volume, in the orientation it is read in, lies on the stored grid."""
        resampled, start = self._window(volume.canonical())
        return placement_of(volume, resampled, self.config.shape, start)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """A `Change`."""
        return np.array(draw_change(self.config.augment, rng))

    def moved(self, drawn: NDArray[np.uint16], drawn_K: NDArray[np.float64]) -> NDArray[np.uint16]:
        """A map on the stored grid, shifted as a `Change` shifts the volume."""
        change = Change(*drawn_K)
        shift = (int(change.shift_d), int(change.shift_h), int(change.shift_w))
        old, new = _overlap(shift, drawn.shape)
        moved = np.zeros_like(drawn)
        moved[new] = drawn[old]
        return moved

    def tensor(self, stored: Tensor, drawn_BK: Tensor | None = None) -> Tensor:
        """(B,C,D,H,W) float32 within `scale_to`, one channel a window; augmented by `drawn_BK`."""
        hu_BDHW = stored.to(torch.float32)
        if drawn_BK is not None:
            hu_BDHW = apply_changes(hu_BDHW, drawn_BK, self._air)
        return windowed(hu_BDHW, self.config.windows, self.config.scale_to)

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """The axial slice at the fraction `at` from the feet, first window, (H,W,3).

        The patient's left is on the viewer's right.
        """
        return grey_slice(stored, self.config.window_hu, at)
