"""Several streams of data in one run: levels of text, sources, sizes, mixed by ratio.

The surgical methods draw clip, phase and video pairs in turn (HecVL, arXiv:2405.10075); the 3D
ones mix paired scans with scans that have no report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.text_policy import TextPolicy

Ratio = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]

ONE_STREAM = "items"
"""The stream of a run that mixes nothing."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StreamConfig:
    """One of the streams of a run; what it does not say is as `data` and `preprocess` have it."""

    ratio: Ratio = 1
    """Its part in a cycle: of the steps, or of a batch's samples. 0 leaves it out until the
    mix's schedule brings it in."""

    manifests: tuple[Path, ...] | None = None
    """Some of ``data.manifests``."""

    texts: TextPolicy | None = None
    subset: str | None = None
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Samples of a step that is drawn from this stream."""

    preprocess: dict[str, Any] = Field(default_factory=dict)
    """Keys of the preprocessing contract that differ, such as ``{frames: 16}`` for longer spans or
    ``{size: 128}`` for the first part of a curriculum. The bundle carries the contract without
    them."""

    objectives: tuple[str, ...] | None = None
    """The objectives that this stream's samples count for, by kind (``clip``; a second one of a
    kind is ``clip_2``); all of them if not given."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RatioChange:
    """Other ratios from a step on."""

    step: Annotated[int, Field(gt=0)]
    """The first optimiser step (from 0) to which they apply."""

    ratios: dict[str, Ratio]
    """By stream; streams that are not named keep theirs."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MixConfig:
    """Named streams and the order in which steps draw from them."""

    streams: Annotated[dict[Name, StreamConfig], Field(min_length=1)]
    by: Literal["step", "sample"] = "step"
    """``step``: each step's batch comes from one stream, and of every cycle of as many steps as the
    ratios' sum each stream has exactly its part. ``sample``: each batch holds samples of every
    stream in these ratios."""

    order: Literal["shuffled", "blocks"] = "shuffled"
    """Within a cycle of steps: drawn anew for each, or all steps of the first stream, then all of
    the second, and so on."""

    schedule: tuple[RatioChange, ...] = ()
    """Later ratios, by ascending step."""

    def ratios(self) -> list[tuple[int, dict[str, int]]]:
        """Each first step with the ratios of all streams from there on."""
        current = {name: stream.ratio for name, stream in self.streams.items()}
        stages = [(0, current)]
        for change in self.schedule:
            current = current | dict(change.ratios)
            stages.append((change.step, current))
        return stages

    def sizes(self, ratios: Mapping[str, int], batch_size: int) -> dict[str, int]:
        """How many samples of a stream a batch holds that draws from it."""
        if self.by == "step":
            return {n: s.batch_size or batch_size for n, s in self.streams.items()}
        total = sum(ratios.values())
        return {name: batch_size * ratio // total for name, ratio in ratios.items()}

    def faults(self, manifests: Sequence[Path], batch_size: int) -> Iterator[str]:
        """What cannot be, in words."""
        steps = [change.step for change in self.schedule]
        if steps != sorted(set(steps)):
            yield f"mix.schedule: steps {steps} do not ascend"
        for name, stream in self.streams.items():
            yield from self._stream_faults(name, stream, manifests)
        for step, ratios in self.ratios():
            yield from self._ratio_faults(f"mix from step {step}", ratios, batch_size)

    def _stream_faults(
        self, name: str, stream: StreamConfig, manifests: Sequence[Path]
    ) -> Iterator[str]:
        where = f"mix.streams.{name}"
        if name == "loss":
            yield f"{where}: the name belongs to metrics.csv's valid_loss"
        if unknown := [str(m) for m in stream.manifests or () if m not in manifests]:
            yield f"{where}: {', '.join(unknown)} not among data.manifests"
        if self.by == "sample" and stream.batch_size:
            yield f"{where}: batch_size belongs to mix.by=step; here the ratio decides"
        if self.by == "sample" and stream.preprocess:
            yield f"{where}: preprocess belongs to mix.by=step; a batch has one shape"

    def _ratio_faults(
        self, where: str, ratios: Mapping[str, int], batch_size: int
    ) -> Iterator[str]:
        if unknown := set(ratios) - set(self.streams):
            yield f"{where}: no stream {', '.join(sorted(unknown))} in {', '.join(self.streams)}"
        total = sum(ratios.values())
        if not total:
            yield f"{where}: every ratio is 0"
        elif self.by == "sample":
            shares = {name: batch_size * ratio / total for name, ratio in ratios.items()}
            if broken := [f"{n} {share:.2f}" for n, share in shares.items() if share % 1]:
                yield f"{where}: of batch_size={batch_size} the ratios give {', '.join(broken)}"
