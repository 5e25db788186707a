"""Which items a step draws: a function of the seed and the step's number alone.

A run therefore goes on after any stop without saved state, and any number of ranks sees the same
global batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from medvlp.data.mix import ONE_STREAM, MixConfig
from medvlp.data.randomness import generator
from medvlp.errors import ConfigError

Index = tuple[int, int]
"""(epoch, item); items of several streams are numbered on from one to the next."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What holds from optimiser step `start` on, by stream."""

    start: int
    ratios: tuple[int, ...]
    """Steps of a cycle, or, `together`, whether at all."""

    sizes: tuple[int, ...]
    """Items of a global batch."""

    together: bool = False
    """Every step draws from every stream; otherwise each step from one."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A part of a global batch: batch number `place` of a stream's `epoch`."""

    stream: int
    size: int
    epoch: int
    place: int


@dataclass(frozen=True)
class _Progress:
    """A stream at the start of a stage: `batches` of `size` after the start of `epoch`."""

    epoch: int
    batches: int
    size: int


class Plan:
    """What every batch of a run draws.

    Each stream has epochs of its own; an epoch's remainder is left out, so that a batch never
    holds an item twice, and where a stage changes a stream's share of a batch, a new epoch begins.

    Args:
        names: The streams.
        counts: Items of each.
        stages: By ascending start; the first starts at 0.
        seed: The run's seed.
        order: Order of the streams within a cycle, see `MixConfig.order`.
        accumulate: Batches of an optimiser step; all of them draw from the same streams.

    Raises:
        ConfigError: A stream has fewer items than a batch takes.
    """

    def __init__(
        self,
        names: Sequence[str],
        counts: Sequence[int],
        stages: Sequence[Stage],
        *,
        seed: int,
        order: str = "shuffled",
        accumulate: int = 1,
    ) -> None:
        self.names = tuple(names)
        self.counts = tuple(counts)
        self.stages = tuple(stages)
        self.seed = seed
        self.order = order
        self.accumulate = accumulate
        for stage in self.stages:
            self._check(stage)
        self._cycle: tuple[tuple[int, int], NDArray[np.int64]] | None = None
        self._progress = self._starts()

    def draws(self, batch: int) -> list[Draw]:
        """The parts of global batch `batch`, counted from the run's start."""
        step, micro = divmod(batch, self.accumulate)
        s = max(s for s, stage in enumerate(self.stages) if stage.start <= step)
        since = step - self.stages[s].start
        before = self._before(s, since)
        return [self._draw(s, k, before[k] * self.accumulate + micro) for k in self._at(s, since)]

    def _draw(self, s: int, k: int, number: int) -> Draw:
        """Batch `number` that stage `s` takes from stream `k`."""
        at = self._progress[s][k]
        epochs, place = divmod(at.batches + number, self.counts[k] // at.size)
        return Draw(stream=k, size=at.size, epoch=at.epoch + epochs, place=place)

    def _at(self, s: int, since: int) -> list[int]:
        """The streams of the stage's step number `since`."""
        stage = self.stages[s]
        if stage.together:
            return [k for k, ratio in enumerate(stage.ratios) if ratio]
        cycle, place = divmod(since, sum(stage.ratios))
        return [int(self._streams(s, cycle)[place])]

    def _before(self, s: int, since: int) -> list[int]:
        """How many of the stage's first `since` steps drew from each stream."""
        stage = self.stages[s]
        if stage.together:
            return [since if ratio else 0 for ratio in stage.ratios]
        cycle, place = divmod(since, sum(stage.ratios))
        begun = np.bincount(self._streams(s, cycle)[:place], minlength=len(stage.ratios))
        return [cycle * ratio + int(n) for ratio, n in zip(stage.ratios, begun, strict=True)]

    def _streams(self, s: int, cycle: int) -> NDArray[np.int64]:
        """The stream of each step of a cycle."""
        if self._cycle is None or self._cycle[0] != (s, cycle):
            ratios = self.stages[s].ratios
            streams = np.repeat(np.arange(len(ratios)), ratios)
            if self.order == "shuffled":
                rng = generator(self.seed, cycle, f"stage {s}", "streams")
                streams = streams[rng.permutation(len(streams))]
            self._cycle = ((s, cycle), streams)
        return self._cycle[1]

    def _starts(self) -> list[list[_Progress]]:
        starts = [[_Progress(0, 0, size) for size in self.stages[0].sizes]]
        for s, (stage, following) in enumerate(itertools.pairwise(self.stages)):
            taken = self._before(s, following.start - stage.start)
            starts.append(
                [
                    self._advance(k, starts[s][k], taken[k] * self.accumulate, size)
                    for k, size in enumerate(following.sizes)
                ]
            )
        return starts

    def _advance(self, k: int, at: _Progress, batches: int, size: int) -> _Progress:
        done = at.batches + batches
        if size == at.size:
            return _Progress(at.epoch, done, size)
        begun = -(-done // max(1, self.counts[k] // max(1, at.size)))
        return _Progress(at.epoch + begun, 0, size)

    def _check(self, stage: Stage) -> None:
        for name, count, ratio, size in zip(
            self.names, self.counts, stage.ratios, stage.sizes, strict=True
        ):
            if ratio and count < size:
                of = "" if name == ONE_STREAM else f" of stream {name}"
                raise ConfigError(
                    f"data.batch_size={size} exceeds the {count} items of the split{of}",
                    remedy="lower data.batch_size or the stream's share of it, or add data",
                )


def training_plan(
    mix: MixConfig | None,
    counts: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    accumulate: int = 1,
) -> Plan:
    """The plan of a run over the streams of `mix`, or over all data as one stream."""
    if mix is None:
        alone = Stage(start=0, ratios=(1,), sizes=(batch_size,))
        return Plan((ONE_STREAM,), counts, [alone], seed=seed, accumulate=accumulate)
    stages = [
        Stage(
            start=start,
            ratios=tuple(ratios.values()),
            sizes=tuple(mix.sizes(ratios, batch_size).values()),
            together=mix.by == "sample",
        )
        for start, ratios in mix.ratios()
    ]
    return Plan(
        tuple(mix.streams), counts, stages, seed=seed, order=mix.order, accumulate=accumulate
    )


class StepSampler(Sampler[list[Index]]):
    """The whole training as one stream of batches; each is dealt to the ranks by stride.

    Args:
        plan: What each batch draws.
        start: The first batch to give, when a run resumes.
        total: Batches of the whole run; the sampler's length, whatever `start` is.
        rank: This process.
        world: Processes.

    Raises:
        ConfigError: A batch that the ranks cannot share evenly.
    """

    def __init__(
        self, plan: Plan, *, total: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        for size in [size for stage in plan.stages for size in stage.sizes]:
            if size % world:
                raise ConfigError(
                    f"data.batch_size={size} is no multiple of the {world} processes",
                    remedy="choose a multiple, for each stream's share of a batch, too",
                )
        self.plan = plan
        self.start = start
        self.total = total
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[list[Index]]:
        first = np.cumsum([0, *self.plan.counts])
        orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        for batch in range(self.start, self.total):
            indices: list[Index] = []
            for draw in self.plan.draws(batch):
                if orders.get(draw.stream, (None,))[0] != draw.epoch:
                    orders[draw.stream] = draw.epoch, self._order(draw)
                begin = draw.place * draw.size
                chosen = orders[draw.stream][1][begin : begin + draw.size]
                indices += [(draw.epoch, int(first[draw.stream] + i)) for i in chosen]
            yield indices[self.rank :: self.world]

    def _order(self, draw: Draw) -> NDArray[np.int64]:
        rng = generator(self.plan.seed, draw.epoch, self.plan.names[draw.stream], "order")
        return rng.permutation(self.plan.counts[draw.stream])
