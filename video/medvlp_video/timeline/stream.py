"""The causal stream: one frame in, and out comes what phase it is, as far as that can be known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from medvlp.config import STRICT
from medvlp.data.prompts import PromptSet
from medvlp.errors import InputError
from medvlp.models.bundle import Bundle
from medvlp_video.preprocess import ClipPreprocess
from medvlp_video.timeline.blank import Gate, Inside
from medvlp_video.timeline.clips import CausalBorder, clips_for
from medvlp_video.timeline.smooth import ForwardFilter, MinimumDuration

Seconds = Annotated[float, Field(gt=0)]
State = Literal["seen", "blanked", "damaged"]
STATES: tuple[State, ...] = ("seen", "blanked", "damaged")


@checked(frozen=True, kw_only=True, config=STRICT)
class StreamConfig:
    """How a stream is watched."""

    window_s: Seconds
    """A clip is the frames of the last so many seconds."""

    smooth: Literal["hmm", "none"] = "hmm"
    """``hmm``: a forward filter over phases; ``none``: every clip for itself."""

    dwell_s: Seconds = 60.0
    """For ``hmm``: mean seconds between changes of phase."""

    least_s: Annotated[float, Field(ge=0)] = 5.0
    """No segment is shorter; a change is told that much late. 0 switches it off."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is known at one moment."""

    time_s: float
    state: State
    """``seen``; ``blanked``: outside the body, or the rule failed; ``damaged``: no frame."""

    probability_L: NDArray[np.float32] | None
    """Of the clip that ends here; None unless `state` is ``seen``."""

    label: int | None
    """Place of its best label."""

    smoothed: int | None
    """The steady label that holds; None before any frame was seen."""

    confidence: float
    """Probability of `smoothed`: under ``hmm`` given all that was seen, else that of the clip; 0
    where there is none."""


class PhaseStream:
    """Feed it frames in the order of time; what it says of one depends on none after it.

    A recording read frame by frame, a camera, and each window embedded by itself
    (`Bundle.embed_stored` of the frames of the last `window_s` seconds) give the same scores.
    Memory does not grow with the stream.

    Args:
        bundle: A bundle of the video domain with a clip contract.
        prompts: An exclusive prompt set.
        config: How the stream is watched.
        inside: Tells frames inside the body; others are blanked: not encoded, and not shown.

    Raises:
        InputError: Another domain's bundle, or labels that do not exclude each other.
    """

    def __init__(
        self,
        bundle: Bundle,
        prompts: PromptSet,
        config: StreamConfig,
        inside: Inside | None = None,
    ) -> None:
        preprocess = bundle.preprocess
        if not isinstance(preprocess, ClipPreprocess):
            raise InputError(
                f"the bundle of the domain {bundle.info.domain} takes no clips of video",
                remedy="name a bundle that was trained on video",
            )
        if prompts.mode != "exclusive":
            raise InputError(
                "the prompts are independent of each other, but one phase holds at a time",
                remedy="write mode: exclusive in the prompt file",
            )
        self.names = prompts.names
        self.config = config
        self.gate = Gate(inside)
        self._bundle, self._prompts, self._preprocess = bundle, prompts, preprocess
        self._border = CausalBorder(preprocess)
        self._clips = clips_for(bundle, config.window_s)
        self._filter = ForwardFilter(len(self.names), config.dwell_s, config.window_s)
        self._steady = MinimumDuration(config.least_s)
        self._smoothed: int | None = None
        self._last_s = -np.inf

    def push(self, frame_HWC: NDArray[np.uint8] | None, time_s: float) -> Moment:
        """The moment at which a frame appears.

        Args:
            frame_HWC: RGB; None for one that could not be read.
            time_s: Its presentation time in seconds, later than the frame before.

        Raises:
            ValueError: The time is not later, or the frame is of another size.
        """
        if time_s <= self._last_s:
            raise ValueError(f"a frame at {time_s} s after one at {self._last_s} s")
        self._last_s = time_s
        state: State = "damaged"
        if frame_HWC is not None:
            state = "seen" if self.gate.passes(frame_HWC) else "blanked"
        if frame_HWC is None or state == "blanked":
            return self._told(state, None, time_s)
        box = self._border.box(frame_HWC, time_s)
        self._clips.add(self._preprocess.fitted(frame_HWC[None], box)[0], time_s)
        clip_E = self._clips.embedding(time_s)
        assert clip_E is not None
        scores = self._bundle.score(clip_E[None], self._prompts)
        return self._told(state, scores.probability_NL[0], time_s)

    def _told(
        self, state: State, probability_L: NDArray[np.float32] | None, time_s: float
    ) -> Moment:
        belief_L: NDArray[np.floating] | None = probability_L
        if self.config.smooth == "hmm":
            belief_L = self._filter.update(probability_L, time_s)
        if probability_L is not None and belief_L is not None:
            self._smoothed = self._steady.update(int(np.argmax(belief_L)), time_s)
        known = belief_L is not None and self._smoothed is not None
        return Moment(
            time_s=time_s,
            state=state,
            probability_L=probability_L,
            label=None if probability_L is None else int(np.argmax(probability_L)),
            smoothed=self._smoothed,
            confidence=float(belief_L[self._smoothed]) if known else 0.0,  # type: ignore[index]
        )
