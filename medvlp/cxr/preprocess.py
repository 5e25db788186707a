"""The preprocessing contract of chest X-rays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from medvlp.config import STRICT
from medvlp.cxr.read import read_xray
from medvlp.data.placement import Placed, Placement, Region, place
from medvlp.data.preprocess import Span
from medvlp.errors import InputError

_FULL = 65535  # of the stored uint16
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CxrAugmentConfig:
    """Small changes of pose and exposure, and mirror images if asked for."""

    LATER: ClassVar[Mapping[str, Any]] = {"mirror": 0}

    shift: Fraction = 0.05
    """Largest shift along each axis, as a fraction of the image."""
    scale: Fraction = 0.1
    """Largest change of size, as a fraction."""
    rotation_deg: Annotated[float, Ge(0), Le(45)] = 5.0
    contrast: Fraction = 0.2
    """Largest change of contrast, as a fraction, about the middle grey."""
    brightness: Fraction = 0.1
    """Largest change of brightness, as a fraction of the full range."""
    mirror: Fraction = 0
    """Share of a run's training samples that are mirrored, image and all that names a side
    together (`medvlp.data.mirror`); needs ``data.sides``. Samples of which something cannot change
    sides, such as a right-sided aortic arch or a lateral view, stay as they are. Nothing else
    mirrors: not evaluation, not fine-tuning. Letters of lead are mirrored with the image."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CxrPreprocessConfig:
    """From an X-ray file to a (1,size,size) tensor, or (3,size,size) with three means and stds."""

    LATER: ClassVar[Mapping[str, Any]] = {"resize_to": None, "interpolation": "bilinear"}

    kind: Literal["cxr"] = "cxr"
    size: Annotated[int, Ge(16)] = 224
    percentiles: tuple[Annotated[float, Ge(0)], Annotated[float, Le(100)]] = (0.5, 99.5)
    """Grey values at these percentiles become black and white; (0, 100) are least and largest."""
    resize: Literal["letterbox", "squash", "shortest"] = "letterbox"
    """``letterbox`` keeps the proportions and pads with black; ``squash`` fills the square;
    ``shortest`` keeps the proportions and cuts off what stands out over the square."""
    resize_to: Annotated[int, Ge(16)] | None = None
    """Side to which `resize` brings the image before its middle, (size,size), is cut out; `size`
    if None."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Both with antialiasing."""
    mean: float | tuple[float, float, float] = 0.5
    std: Positive | tuple[Positive, Positive, Positive] = 0.25
    """Mean and standard deviation, of greys in [0,1], that become 0 and 1; three of each make
    three channels."""
    augment: CxrAugmentConfig = CxrAugmentConfig()

    def __post_init__(self) -> None:
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles: the first must be smaller than the second")
        if isinstance(self.mean, tuple) != isinstance(self.std, tuple):
            raise ValueError("mean and std: give one number each, or three each")
        if self.resize_to is not None and self.resize_to < self.size:
            raise ValueError(f"resize_to {self.resize_to} is below size {self.size}")

    @property
    def channels(self) -> int:
        """Channels of the model input."""
        return 3 if isinstance(self.mean, tuple) else 1

    def build(self) -> CxrPreprocess:
        """The preprocessing that this contract describes."""
        return CxrPreprocess(self)


class Pose(NamedTuple):
    """One drawn augmentation."""

    shift_x: float
    shift_y: float
    scale: float
    rotation_rad: float
    contrast: float
    brightness: float
    mirror: float = 0
    """1 for the mirror image, which is then moved and turned."""


def draw_pose(config: CxrAugmentConfig, rng: np.random.Generator) -> Pose:
    """Draw an augmentation; applying it is `apply_poses`' part."""

    def within(limit: float) -> float:
        return float(rng.uniform(-limit, limit))

    return Pose(
        shift_x=within(config.shift),
        shift_y=within(config.shift),
        scale=1 + within(config.scale),
        rotation_rad=math.radians(within(config.rotation_deg)),
        contrast=1 + within(config.contrast),
        brightness=within(config.brightness),
    )


def apply_poses(grey_B1HW: Tensor, pose_BK: Tensor) -> Tensor:
    """Move, turn and re-expose greys in [0,1]; what comes into view from outside is black.

    Args:
        grey_B1HW: The images.
        pose_BK: Each image's `Pose`, on the CPU.
    """
    x, y, scale, rotation_rad, *exposure, mirror = pose_BK.unbind(1)
    cos, sin = rotation_rad.cos() / scale, rotation_rad.sin() / scale
    # Maps output to input coordinates in [-1,1], whose full width is 2.
    theta_B23 = torch.stack([cos, -sin, -2 * x, sin, cos, -2 * y], 1).view(-1, 2, 3)
    theta_B23[:, 0] *= 1 - 2 * mirror[:, None]
    grid = F.affine_grid(theta_B23.to(grey_B1HW), list(grey_B1HW.shape), align_corners=False)
    moved = F.grid_sample(grey_B1HW, grid, align_corners=False)
    contrast, brightness = (value.to(grey_B1HW).view(-1, 1, 1, 1) for value in exposure)
    return ((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


def _read_mask(paths: Sequence[Path]) -> NDArray[np.float32]:
    (path,) = paths
    return read_xray(path)


class CxrPreprocess:
    """X-ray files to model input; the stored array is uint16 (size,size)."""

    def __init__(self, config: CxrPreprocessConfig) -> None:
        self.config = config

    def read(
        self, paths: Sequence[Path], span: Span | None = None, flags: Sequence[str] = ()
    ) -> NDArray[np.uint16]:
        """Decode one X-ray and scale it to the stored array; `span` has no meaning here.

        Raises:
            Reject: The file is bad.
            Ignore: A DICOM file without an image.
        """
        (path,) = paths
        return self._store(read_xray(path, flags))

    def from_array(
        self, array: NDArray[Any], spacing_mm: Sequence[float] | None = None
    ) -> NDArray[np.uint16]:
        """A decoded (H,W) or (H,W,3) image, bright bone, as the stored array.

        Raises:
            InputError: Another shape, or values that are not finite.
        """
        values = np.asarray(array, dtype=np.float32)
        if values.ndim == 3 and values.shape[2] == 3:
            values = values @ np.array(_GREY_WEIGHTS, dtype=np.float32)
        if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
            raise InputError(
                f"an X-ray array is (H,W) or (H,W,3) with finite values, got {array.shape}",
                remedy="pass one image at a time",
            )
        return self._store(values)

    def _store(self, values_HW: NDArray[np.float32]) -> NDArray[np.uint16]:
        low, high = np.percentile(values_HW, self.config.percentiles)
        span = max(float(high - low), 1e-12)
        grey = torch.from_numpy(np.clip((values_HW - np.float32(low)) / np.float32(span), 0, 1))
        fitted = self._fitted(*values_HW.shape)
        small = F.interpolate(
            grey[None, None],
            fitted,
            mode=self.config.interpolation,
            antialias=True,
            align_corners=False,
        )[0, 0]
        size = self.config.size
        stored = np.zeros((size, size), dtype=np.uint16)
        scaled = (small.clamp(0, 1) * _FULL).round().numpy().astype(np.uint16)
        (top, left), (height, width) = self._offset(fitted), fitted
        shown = scaled[max(0, -top) : size - top, max(0, -left) : size - left]
        rows, columns = slice(max(0, top), top + height), slice(max(0, left), left + width)
        stored[rows, columns] = shown
        return stored

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        size = self.config.resize_to or self.config.size
        if self.config.resize == "squash":
            return size, size
        longest = self.config.resize == "letterbox"
        scale = size / (max(height, width) if longest else min(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _offset(self, fitted: tuple[int, int]) -> tuple[int, int]:
        """Where the fitted image's first row and column lie; below 0 where it is cut."""
        size = self.config.size
        top, left = (
            (size - side) // 2 if side <= size else -((side - size) // 2) for side in fitted
        )
        return top, left

    def regions(
        self, paths: Sequence[Path], flags: Sequence[str], regions: Sequence[Region]
    ) -> Placed:
        """Boxes and masks (pictures of the X-ray's own rows and columns) on the stored grid.

        Raises:
            Reject: A file is bad.
            InputError: A region does not fit the X-ray.
        """
        (path,) = paths
        return place(self.placement(read_xray(path, flags).shape), regions, _read_mask)

    def placement(self, shape: tuple[int, ...]) -> Placement:
        """How an X-ray of `shape` (H,W) lies on the stored grid."""
        fitted = self._fitted(*shape)
        size = self.config.size
        return Placement(
            native=shape,
            grid=(size, size),
            axes=(0, 1),
            scale=(fitted[0] / shape[0], fitted[1] / shape[1]),
            offset=self._offset(fitted),
        )

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """A `Pose`."""
        return np.array(draw_pose(self.config.augment, rng))

    def mirrored(self, drawn_K: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same `Pose` of the mirror image."""
        return np.array(Pose(*drawn_K)._replace(mirror=1.0))

    def tensor(self, stored: Tensor, drawn_BK: Tensor | None = None) -> Tensor:
        """(B,1,size,size) or (B,3,size,size) float32, standardised; augmented by `drawn_BK`."""
        grey_B1HW = stored.unsqueeze(1).to(torch.float32) / _FULL
        if drawn_BK is not None:
            grey_B1HW = apply_poses(grey_B1HW, drawn_BK)
        mean, std = self.config.mean, self.config.std
        if isinstance(mean, float) and isinstance(std, float):
            return (grey_B1HW - mean) / std
        mean_311, std_311 = (
            torch.tensor(values).to(grey_B1HW).view(3, 1, 1) for values in (mean, std)
        )
        return (grey_B1HW - mean_311) / std_311

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """The image as RGB, (size,size,3); `at` has no meaning here."""
        grey = (stored >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
