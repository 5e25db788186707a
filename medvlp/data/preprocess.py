"""The preprocessing contract between files and tensors, which a bundle carries and checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medvlp.config import plain
from medvlp.digest import digest_plain

Span = tuple[float, float]
"""Start and end in seconds."""


class Preprocess(Protocol):
    """Files to model input, in two steps: `read` is deterministic and cached, `tensor` is cheap."""

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

    def tensor(self, stored: NDArray[Any], rng: np.random.Generator | None = None) -> Tensor:
        """The stored array as the float32 model input; augmented if `rng` is given."""

    def picture(self, stored: NDArray[Any], at: float = 0.5) -> NDArray[np.uint8]:
        """A view for people, (H,W,3): the image, or the slice or frame at the fraction `at`."""


def contract_digest(config: Any) -> str:
    """The digest of a preprocessing contract; two models agree on their input if it is equal."""
    return digest_plain({"contract": type(config).__name__, "values": plain(config)})
