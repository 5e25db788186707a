"""The last seconds of a stream as one clip in the joint space.

A tower that takes the mean over frames encodes each frame once: its features wait in a ring, and a
clip is their mean. Any other tower is given the whole clip again for every frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvlp.models.bundle import Bundle
from medvlp_video.border import Box, box_of, bright
from medvlp_video.encoders import FrameEncoder
from medvlp_video.preprocess import ClipPreprocess

Floats = NDArray[np.float32]

SLACK_S = 1e-6
"""Rounding allowance when a frame's age is compared with the window."""

SETTLE_S = 10.0
"""How long a stream is looked at for the border that its recorder put around the picture."""


class CausalBorder:
    """The picture inside a recorder's border, found from the frames up to now.

    A row or column belongs to the border as long as it has been black in every frame. After
    `SETTLE_S` seconds the border stands: a recorder does not change it, and a late bright frame
    must not change how the rest is seen.
    """

    def __init__(self, preprocess: ClipPreprocess) -> None:
        self._cut = preprocess.config.border == "cut"
        self._until_s: float | None = None
        self._bright_HW: NDArray[np.bool_] | None = None
        self._box: Box | None = None

    def box(self, frame_HWC: NDArray[np.uint8], time_s: float) -> Box:
        """Where the picture is, in a frame that may itself still move the border.

        Raises:
            ValueError: Frames of one stream differ in size.
        """
        height, width = frame_HWC.shape[:2]
        if self._bright_HW is None:
            self._bright_HW = np.zeros((height, width), np.bool_)
            self._until_s = time_s + SETTLE_S
        if self._bright_HW.shape != (height, width):
            raise ValueError(f"a frame of {(height, width)} after {self._bright_HW.shape}")
        if not self._cut:
            return 0, 0, width, height
        assert self._until_s is not None
        if self._box is None or time_s < self._until_s:
            self._bright_HW |= bright(frame_HWC[None])[0]
            self._box = box_of(self._bright_HW[None])
        return self._box


class Clips(ABC):
    """Frames of the last `window_s` seconds, and their clip's place in the joint space."""

    def __init__(self, bundle: Bundle, window_s: float) -> None:
        self.bundle = bundle
        self.window_s = window_s
        self._held: deque[tuple[float, NDArray[Any]]] = deque()

    def add(self, stored_HWC: NDArray[np.uint8], time_s: float) -> None:
        """Take in a frame as the contract stores it."""
        self._held.append((time_s, self._kept(stored_HWC)))

    def embedding(self, time_s: float) -> Floats | None:
        """(E,) unit vector of the clip that ends at `time_s`; None if no frame is left in it."""
        while self._held and self._held[0][0] <= time_s - self.window_s + SLACK_S:
            self._held.popleft()
        return self._embedded([kept for _, kept in self._held]) if self._held else None

    @abstractmethod
    def _kept(self, stored_HWC: NDArray[np.uint8]) -> NDArray[Any]:
        """What is kept of a frame."""

    @abstractmethod
    def _embedded(self, kept: Sequence[NDArray[Any]]) -> Floats:
        """(E,) of the clip of these frames."""


class MeanClips(Clips):
    """Clips of a tower that takes the mean over frames, each of which is encoded once."""

    def _kept(self, stored_HWC: NDArray[np.uint8]) -> NDArray[Any]:
        feature_D: Floats = self.bundle.features_stored([stored_HWC[None]])[0]
        return feature_D

    @torch.inference_mode()
    def _embedded(self, kept: Sequence[NDArray[Any]]) -> Floats:
        mean_D = np.stack(kept).mean(axis=0, dtype=np.float32)
        mean_BD = torch.from_numpy(mean_D[None]).to(self.bundle.device)
        embedded: Floats = self.bundle.model.embed_pooled(mean_BD)[0].cpu().numpy()
        return embedded


class WholeClips(Clips):
    """Clips of any other tower: as many frames as the contract wants, encoded together."""

    def _kept(self, stored_HWC: NDArray[np.uint8]) -> NDArray[Any]:
        return stored_HWC

    def _embedded(self, kept: Sequence[NDArray[Any]]) -> Floats:
        place_F = evenly(self.bundle.preprocess.config.frames, len(kept))
        embedded: Floats = self.bundle.embed_stored([np.stack([kept[i] for i in place_F])])[0]
        return embedded


def evenly(count: int, given: int) -> NDArray[np.int64]:
    """(count,) the frames in the middle of `count` equal parts of `given` frames.

    >>> evenly(4, 8).tolist(), evenly(4, 2).tolist()
    ([1, 3, 5, 7], [0, 0, 1, 1])
    """
    return ((np.arange(count) + 0.5) * given / count).astype(np.int64)


def clips_for(bundle: Bundle, window_s: float) -> Clips:
    """The cheapest clips that the bundle's tower allows."""
    tower = bundle.model.image
    model = bundle.model.config
    mean = isinstance(tower, FrameEncoder) and tower.pool is None
    if mean and model.image_mean == "features" and not model.project_patches_first:
        return MeanClips(bundle, window_s)
    return WholeClips(bundle, window_s)
