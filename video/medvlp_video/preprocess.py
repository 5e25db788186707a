"""The video contract: a span of a recording becomes a fixed number of square frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from medvlp.archive.verdict import Reject
from medvlp.config import STRICT
from medvlp.data.placement import Placed, Region
from medvlp.data.preprocess import Span
from medvlp.errors import InputError
from medvlp_video.border import Box, picture_box
from medvlp_video.read import open_reader

Side = Annotated[int, Field(ge=16, le=2048)]
"""Pixels."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClipPreprocessConfig:
    """Which frames of a span are read, and what becomes of each."""

    LATER: ClassVar[Mapping[str, Any]] = {"resize_to": None, "interpolation": "bilinear"}

    kind: Literal["clip"] = "clip"
    frames: Annotated[int, Field(ge=1, le=1024)] = 8
    size: Side = 224
    """Side of the square frame in pixels."""

    fit: Literal["letterbox", "center-crop", "squash"] = "letterbox"
    """``letterbox`` keeps the whole picture and pads with black; ``center-crop`` fills the
    square and loses the long side's ends; ``squash`` stretches the picture to the square."""

    resize_to: tuple[Side, Side] | None = None
    """With ``center-crop``: rows and columns to which the picture is stretched before its middle,
    (size, size), is cut out."""

    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Both with antialiasing."""

    border: Literal["keep", "cut"] = "cut"
    """``cut`` first removes the black border that a recorder put around the picture."""

    sampling: Literal["uniform", "center"] = "uniform"
    """``uniform``: the middle of each of `frames` equal parts of the span; ``center``: around
    the span's middle, `stride_s` apart."""

    stride_s: Annotated[float, Field(gt=0)] = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Of red, green and blue in 0 to 1; a pixel x becomes (x - mean) / std."""

    least_crop: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Augmentation: the smallest part of the area that a random crop keeps."""

    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Augmentation: brightness, contrast and colour change by up to this fraction."""

    def __post_init__(self) -> None:
        if self.resize_to is None:
            return
        if self.fit != "center-crop":
            raise ValueError(f"resize_to belongs to fit center-crop, not to {self.fit}")
        if min(self.resize_to) < self.size:
            raise ValueError(f"resize_to {self.resize_to} is below size {self.size}")

    @property
    def channels(self) -> int:
        """C of the tensor."""
        return 3

    def build(self) -> ClipPreprocess:
        """The preprocessing that keeps this contract."""
        return ClipPreprocess(self)


class View(NamedTuple):
    """One drawn augmentation: a square of the frame in pixels, and factors about 1."""

    side: int
    y: int
    x: int
    bright: float
    contrast: float
    red: float
    green: float
    blue: float


def apply_views(clip_BFCHW: Tensor, view_BK: Tensor) -> Tensor:
    """Crop, enlarge and colour clips in [0,1].

    Args:
        clip_BFCHW: The clips.
        view_BK: Each clip's `View`, on the CPU.
    """
    cropped = torch.empty_like(clip_BFCHW)
    size = clip_BFCHW.shape[-2:]
    for b, row in enumerate(view_BK[:, :3].int().tolist()):
        side, y, x = row
        part = clip_BFCHW[b][..., y : y + side, x : x + side]
        cropped[b] = F.interpolate(part, size, mode="bilinear", align_corners=False)
    bright, contrast = (view_BK[:, k].to(cropped).view(-1, 1, 1, 1, 1) for k in (3, 4))
    colour_BC = 1 + (view_BK[:, 5:].to(cropped) - 1) / 2
    centre = cropped.mean((1, 2, 3, 4), keepdim=True)
    gain = bright * colour_BC.view(-1, 1, 3, 1, 1)
    return (((cropped - centre) * contrast + centre) * gain).clamp_(0, 1)


class ClipPreprocess:
    """Video files to (F,3,H,W), by `ClipPreprocessConfig`."""

    moments = "the last frame whose presentation time is not after the moment"

    def __init__(self, config: ClipPreprocessConfig) -> None:
        self.config = config

    def read(
        self, paths: Sequence[Path], span: Span | None = None, flags: Sequence[str] = ()
    ) -> NDArray[np.uint8]:
        """(F,size,size,3) frames of `span`, or of the whole recording.

        Frames come from the timestamp reader, whichever reader the file earned, so that the
        stored array never depends on what is installed, or from a proxy. A black border is that of
        the recording where a proxy knows it, else that of the clip.

        Raises:
            Reject: The files cannot be decoded, or the span begins after the end.
        """
        reader = open_reader(paths)
        start_s, end_s = span or (float(reader.times[0]), reader.duration_s)
        if start_s >= reader.duration_s:
            raise Reject("span_outside", "the span begins after the recording's end")
        times_F = self.times((start_s, min(end_s, reader.duration_s)))
        return self.fitted(reader.frames_at(times_F), reader.border)

    def reader(self, indexed: str) -> str:
        """What reads files that were indexed with the reader `indexed`."""
        return "pyav" if indexed == "decord" else indexed

    def times(self, span: Span) -> NDArray[np.float64]:
        """(F,) seconds at which frames are taken from `span`."""
        count = self.config.frames
        start_s, end_s = span
        if self.config.sampling == "uniform":
            return start_s + (np.arange(count) + 0.5) * (end_s - start_s) / count
        middle_s = (start_s + end_s) / 2
        return np.asarray(middle_s + (np.arange(count) - (count - 1) / 2) * self.config.stride_s)

    def from_array(
        self,
        array: NDArray[np.generic],
        spacing_mm: Sequence[float] | None = None,
    ) -> NDArray[np.uint8]:
        """The stored array of decoded frames (F,H,W,3), or of one picture (H,W,3), in uint8.

        Frames are taken evenly from those given.

        Raises:
            InputError: Another shape or type.
        """
        frames = array[None] if array.ndim == 3 else array
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise InputError(
                f"array of shape {array.shape} and type {array.dtype} is no video",
                remedy="give uint8 RGB frames of shape (frames, rows, columns, 3)",
            )
        place_F = (np.arange(self.config.frames) + 0.5) * len(frames) / self.config.frames
        return self.fitted(np.asarray(frames[place_F.astype(int)], np.uint8))

    def regions(
        self, paths: Sequence[Path], flags: Sequence[str], regions: Sequence[Region]
    ) -> Placed:
        """Refused.

        Raises:
            InputError: Always: a recording's regions lie at moments, not on a whole clip.
        """
        raise InputError(
            "regions of a recording do not lie on a clip's grid",
            remedy="evaluate regions on X-rays or CT volumes",
        )

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """A `View`."""
        size, reach = self.config.size, self.config.jitter
        side = max(1, round(size * float(rng.uniform(self.config.least_crop, 1.0)) ** 0.5))
        y, x = rng.integers(0, size - side + 1, 2).tolist()
        return np.array(View(side, y, x, *rng.uniform(1 - reach, 1 + reach, 5).tolist()))

    def tensor(self, stored: Tensor, drawn_BK: Tensor | None = None) -> Tensor:
        """(B,F,3,size,size) float32; by `drawn_BK` cropped and coloured, all frames alike.

        Nothing is flipped: left and right mean something in an operation.
        """
        clip_BFCHW = stored.permute(0, 1, 4, 2, 3).to(torch.float32) / 255
        if drawn_BK is not None:
            clip_BFCHW = apply_views(clip_BFCHW, drawn_BK)
        mean_C11, std_C11 = (
            torch.tensor(values).to(clip_BFCHW).view(3, 1, 1)
            for values in (self.config.mean, self.config.std)
        )
        return (clip_BFCHW - mean_C11) / std_C11

    def picture(self, stored: NDArray[np.uint8], at: float = 0.5) -> NDArray[np.uint8]:
        """The frame (H,W,3) at the fraction `at` of the clip."""
        frame_HWC: NDArray[np.uint8] = stored[min(int(at * len(stored)), len(stored) - 1)]
        return frame_HWC

    def fitted(
        self, frames_FHWC: NDArray[np.uint8], border: Box | None = None
    ) -> NDArray[np.uint8]:
        """(F,size,size,3) frames by the contract's fit.

        Args:
            frames_FHWC: RGB frames.
            border: The picture within the recorder's border, where it is known already; by default
                it is found in these frames. Of use where the contract cuts borders.
        """
        height, width = frames_FHWC.shape[1:3]
        box = (0, 0, width, height)
        if self.config.border == "cut":
            box = border or picture_box(frames_FHWC)
        if self.config.fit == "center-crop" and self.config.resize_to is None:
            box = _middle_square(box)
        inner = self._inner(box)
        size = self.config.size
        out_FHWC = np.zeros((len(frames_FHWC), size, size, 3), np.uint8)
        for out_HWC, frame_HWC in zip(out_FHWC, frames_FHWC, strict=True):
            image = Image.fromarray(frame_HWC).resize(inner, self._resample, box=box)
            _lay_in_middle(out_HWC, np.asarray(image))
        return out_FHWC

    def _inner(self, box: Box) -> tuple[int, int]:
        """Columns and rows that the picture in `box` is brought to."""
        size = self.config.size
        if self.config.fit == "squash":
            return size, size
        if self.config.resize_to is not None:
            rows, columns = self.config.resize_to
            return columns, rows
        width, height = box[2] - box[0], box[3] - box[1]
        scale = size / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def _resample(self) -> Image.Resampling:
        bicubic = self.config.interpolation == "bicubic"
        return Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR


def _lay_in_middle(out_HWC: NDArray[np.uint8], image_HWC: NDArray[np.uint8]) -> None:
    """Write a picture over the middle of another; what stands out on a side is cut off there."""
    places = []
    for there, here in zip(out_HWC.shape[:2], image_HWC.shape[:2], strict=True):
        side = min(there, here)
        first, from_first = (there - side) // 2, (here - side) // 2
        places.append((slice(first, first + side), slice(from_first, from_first + side)))
    (y, from_y), (x, from_x) = places
    out_HWC[y, x] = image_HWC[from_y, from_x]


def _middle_square(box: Box) -> Box:
    x0, y0, x1, y1 = box
    side = min(x1 - x0, y1 - y0)
    x, y = x0 + (x1 - x0 - side) // 2, y0 + (y1 - y0 - side) // 2
    return x, y, x + side, y + side
