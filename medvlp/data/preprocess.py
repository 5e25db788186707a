"""The preprocessing contract between files and tensors, which a bundle carries and checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvlp.config import plain
from medvlp.data.placement import Placed, Region
from medvlp.digest import digest_plain

Span = tuple[float, float]
"""Start and end in seconds."""


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
            stored: (B,...), in the stored type.
            drawn_BK: What `draw` gave for each sample, on the CPU; None leaves them as they are.
        """

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """A view for people, (H,W,3): the image, or the slice or frame at the fraction `at`."""


def model_input(
    preprocess: Preprocess,
    arrays: Sequence[NDArray[Any]],
    device: torch.device | str = "cpu",
    rngs: Sequence[np.random.Generator] | None = None,
) -> Tensor:
    """Stored arrays of one shape as the model input, (B,...) float32 on `device`.

    Args:
        preprocess: The contract's preprocessing.
        arrays: The stored arrays.
        device: Where the input is computed and stays.
        rngs: A generator for each sample, which is then augmented.
    """
    drawn = None if rngs is None else np.stack([preprocess.draw(rng) for rng in rngs])
    stored = torch.from_numpy(np.stack(arrays)).to(device)
    return preprocess.tensor(stored, None if drawn is None else torch.from_numpy(drawn))


def contract_digest(config: Any) -> str:
    """The digest of a preprocessing contract; two models agree on their input if it is equal.

    Fields that a contract's class lists in `LATER`, with their defaults, came after the first
    bundles were written: at the default they count for nothing, so that older digests hold.
    """
    values = plain(config)
    later = getattr(type(config), "LATER", {})
    values = {k: v for k, v in values.items() if k not in later or v != later[k]}
    return digest_plain({"contract": type(config).__name__, "values": values})
