"""The preprocessing contract between files and tensors, which a bundle carries and checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvlp.config import plain
from medvlp.data.placement import Placed, Region
from medvlp.data.underlay import Underlay
from medvlp.digest import digest_plain
from medvlp.errors import ConfigError

Span = tuple[float, float]
"""Start and end in seconds."""


def windows(duration_s: float, window_s: float, stride_s: float) -> Iterator[Span]:
    """Windows of a recording, all of `window_s` if it is that long; the last ends with it."""
    if duration_s <= 0:
        return
    for i in range(max(0, math.ceil((duration_s - window_s) / stride_s - 1e-9)) + 1):
        start = max(0.0, min(i * stride_s, duration_s - window_s))
        yield (start, min(start + window_s, duration_s))


class Preprocess(Protocol):
    """Files to model input, in steps.

    `read` is deterministic and cached, `draw` draws an augmentation where the sample is read, and
    `tensor` computes whole batches on their device.
    """

    config: Any

    def read(
        self, paths: Sequence[Path], span: Span | None = None, flags: Sequence[str] = ()
    ) -> NDArray[Any]:
        """Decode one sample's files (one clip's span, for video) into the stored array.

        The stored array is what the cache holds: decoded, oriented, resampled to the model's
        size, in a compact type. `flags` are the sample's: they say how its files were read when
        they were taken in (a repaired CT series, one of several volumes in a file).
        """

    def from_array(
        self, array: NDArray[Any], spacing_mm: Sequence[float] | None = None
    ) -> NDArray[Any]:
        """A user's own decoded array as the stored array."""

    def regions(
        self, paths: Sequence[Path], flags: Sequence[str], regions: Sequence[Region]
    ) -> Placed:
        """A sample's regions on the grid of its stored array, by the very same geometry.

        Raises:
            InputError: Regions that do not fit the image, or samples that can have none.
        """

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """One sample's augmentation as K numbers, all of its randomness among them."""

    def tensor(self, stored: Tensor, drawn_BK: Tensor | None = None) -> Tensor:
        """A batch of stored arrays as the float32 model input, on the same device.

        A sample's values never depend on the batch that it is in.

        Args:
            stored: (B,...), in the stored type, as `stack_arrays` gives it.
            drawn_BK: What `draw` gave for each sample, on the CPU; None leaves them as they are.
        """

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """A view for people, (H,W,3): the image, or the slice or frame at the fraction `at`."""


@runtime_checkable
class ReadsInPlace(Preprocess, Protocol):
    """A contract whose images lie in the patient, so that maps can be laid over their own voxels.

    `medvlp.data.underlay` says how.
    """

    def read_in_place(
        self, paths: Sequence[Path], flags: Sequence[str] = ()
    ) -> tuple[NDArray[Any], Underlay | None]:
        """`read`, and from the same decoding the volume itself.

        None in its place where the files do not say where in the patient the image lies.
        """


class Mirrors(Preprocess, Protocol):
    """A contract that can mirror: see `medvlp.data.mirror` for what else has to change."""

    def mirrored(self, drawn_K: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same augmentation of the mirror image."""


class MovesRegions(Preprocess, Protocol):
    """A contract of arrays of one shape whose augmentation moves what is drawn on them."""

    def moved(self, drawn: NDArray[np.uint16], drawn_K: NDArray[np.float64]) -> NDArray[np.uint16]:
        """A map on the stored grid as an augmentation moves the image; 0 comes in."""


def mirror_share(config: Any) -> float:
    """The share of training samples that a contract wants mirrored; what it builds `Mirrors`."""
    return float(getattr(getattr(config, "augment", None), "mirror", 0))


def absent_slice(config: Any) -> int | None:
    """The stored value of slices that are not there; None of contracts with arrays of one shape.

    A contract whose arrays differ in their first axis names the value in ``ABSENT``. In its model
    input, (B,C,D,H,W), such slices are NaN, and the last channel holds no image but the place of
    each slice in mm, so that no order or number of slices has to be known. Image towers that take
    this say so in ``TAKES_ABSENT``.
    """
    found: int | None = getattr(type(config), "ABSENT", None)
    return found


def check_one_shape(config: Any, what: str) -> None:
    """See that a contract's arrays all have one shape.

    Raises:
        ConfigError: They differ in depth, and `what` cannot be done with such.
    """
    if absent_slice(config) is not None:
        raise ConfigError(
            f"{what}: preprocess.kind={config.kind} gives volumes of different depth",
            remedy="use a model that was trained with a contract of one shape",
        )


def stack_arrays(arrays: Sequence[Tensor], absent: int | None) -> Tensor:
    """Stored arrays as one, (B,...).

    Args:
        arrays: Of one shape; where `absent` is given, the first axis may differ.
        absent: What shorter ones are filled up with at the end.
    """
    if absent is None:
        return torch.stack(list(arrays))
    depth = max(len(array) for array in arrays)
    stacked = arrays[0].new_full((len(arrays), depth, *arrays[0].shape[1:]), absent)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return stacked


def model_input(
    preprocess: Preprocess,
    arrays: Sequence[NDArray[Any]],
    device: torch.device | str = "cpu",
    rngs: Sequence[np.random.Generator] | None = None,
) -> Tensor:
    """Stored arrays as the model input, (B,...) float32 on `device`.

    Args:
        preprocess: The contract's preprocessing.
        arrays: The stored arrays.
        device: Where the input is computed and stays.
        rngs: A generator for each sample, which is then augmented.
    """
    drawn = None if rngs is None else np.stack([preprocess.draw(rng) for rng in rngs])
    tensors = [torch.from_numpy(np.require(a, requirements=("C", "W"))) for a in arrays]
    stored = stack_arrays(tensors, absent_slice(preprocess.config)).to(device)
    return preprocess.tensor(stored, None if drawn is None else torch.from_numpy(drawn))


def contract_digest(config: Any) -> str:
    """The digest of a preprocessing contract; two models agree on their input if it is equal.

    Fields that a class lists in `LATER`, with their defaults, came after the first bundles were
    written: at the default they count for nothing, so that older digests hold.
    """
    return digest_plain({"contract": type(config).__name__, "values": _told(config)})


def _told(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = plain(config)
    later = getattr(type(config), "LATER", {})
    for name in list(values):
        inner = getattr(config, name)
        if name in later and inner == later[name]:
            del values[name]
        elif dataclasses.is_dataclass(inner):
            values[name] = _told(inner)
    return values
