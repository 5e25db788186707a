"""Patients drawn with replacement, and patients left out: statistics over both.

Shape letters: P patients, R draws, G groups of the jackknife.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medvlp.data.randomness import generator
from medvlp.evaluate.metrics.statistics import Floats, Statistic, divide
from medvlp.progress import track

K = TypeVar("K", bound=Hashable)
Weights = NDArray[np.float32]

BLOCK = 64
"""Draws computed at once: enough to fill the vector units, few enough to stay in the cache."""

INVERTED = 1024
"""Draws that tell how an estimate varies about a supposed truth."""

GROUPS = 200
"""Groups of patients that the jackknife leaves out, one after the other, of more patients."""


@dataclass(frozen=True, eq=False)
class Spread:
    """A statistic's estimate and its values over the draws, NaN where undefined."""

    value: float
    draws_R: Floats
    jackknife_G: Floats = field(default_factory=lambda: np.empty(0))
    """Its values without each patient, or without each of `GROUPS` groups of patients."""

    support: float = 0
    """How many patients it rests on; an interval needs two."""

    proportion: bool = False
    """Whether it lies between 0 and 1 by nature."""

    inverted: bool = False
    """Whether the draws are of the truth itself, which may lie away from the estimate."""

    @property
    def undefined(self) -> int:
        """Draws in which the statistic is undefined, such as those without a positive."""
        return int(np.isnan(self.draws_R).sum())


def mean_spread(members: Sequence[Spread]) -> Spread:
    """The macro mean: in each draw, the mean over the members that the draw defines.

    Its support is the harmonic mean of that of the members that are defined, as variances of means
    are proportional to 1/n; at least two where any of them rests on two.
    """
    supports = [m.support for m in members if not np.isnan(m.value)]
    support = min(2.0, max(supports, default=0.0))
    if supports:
        support = max(support, len(supports) / sum(1 / max(n, 1e-9) for n in supports))
    return Spread(
        float(_mean_defined([np.array([m.value]) for m in members])[0]),
        _mean_defined([m.draws_R for m in members]),
        _mean_defined([m.jackknife_G for m in members]),
        support,
        all(m.proportion for m in members),
        all(m.inverted for m in members),
    )


def _mean_defined(rows: Sequence[Floats]) -> Floats:
    stacked = np.stack(rows)
    defined = ~np.isnan(stacked)
    return divide(np.where(defined, stacked, 0).sum(axis=0), defined.sum(axis=0))


def combined(spreads: Sequence[Spread], way: Callable[[Floats], Floats]) -> Spread:
    """What `way` makes of several spreads, draw by draw: a difference, a range, a rank.

    Args:
        spreads: M of them, of the same bootstrap.
        way: (M,R) values to (R,) values.
    """
    return Spread(
        float(way(np.array([[s.value] for s in spreads]))[0]),
        way(np.stack([s.draws_R for s in spreads])),
        way(np.stack([s.jackknife_G for s in spreads])),
        min(s.support for s in spreads),
        inverted=any(s.inverted for s in spreads),
    )


def draw_weights(patients: int, block: int, draws: int, seed: int) -> Weights:
    """(P, draws) how often each patient is drawn, with replacement, as many as there are.

    Args:
        patients: P.
        block: Which block of draws; blocks are independent and repeat exactly.
        draws: Columns wanted.
        seed: The protocol's bootstrap seed.
    """
    rng = generator(seed, block, "patients", "bootstrap")
    chosen = rng.integers(patients, size=(draws, patients))
    flat = chosen + patients * np.arange(draws)[:, None]
    counts = np.bincount(flat.ravel(), minlength=draws * patients).reshape(draws, patients)
    return np.ascontiguousarray(counts.T, dtype=np.float32)


def left_out(patients: int, seed: int) -> Iterator[Weights]:
    """Blocks of weights (P,BLOCK), at most `GROUPS` columns in all, each without some patients.

    One patient a column, up to `GROUPS` patients. Of more, each column leaves out a random group
    of them. An acceleration then comes out the same, but for noise: over groups, sums of cubes
    and of squares of influences have the expectation that they have over patients.
    """
    groups = min(patients, GROUPS)
    shuffled = generator(seed, 0, "patients", "jackknife").permutation(patients)
    group_P = np.empty(patients, dtype=np.int64)
    group_P[shuffled] = np.arange(patients) % groups
    for start in range(0, groups, BLOCK):
        column = np.arange(start, min(start + BLOCK, groups))
        yield (group_P[:, None] != column).astype(np.float32)


def bootstrap(
    statistics: Mapping[K, Statistic], patients: int, draws: int, seed: int
) -> dict[K, Spread]:
    """Estimate each statistic and recompute it over draws of patients with replacement.

    All statistics see the same draws, so differences between models are paired. Blocks of draws
    run on several threads: the matrix products release the lock. The estimate itself is computed
    in double precision, draws in single.

    Args:
        statistics: By any key.
        patients: P, the number of clusters.
        draws: How many times patients are drawn; 0 gives estimates alone.
        seed: Of the draws.
    """
    starts = range(0, draws, BLOCK)

    def values(weight_PR: Floats) -> list[Floats]:
        return [statistic(weight_PR) for statistic in statistics.values()]

    def block(start: int) -> list[Floats]:
        return values(draw_weights(patients, start // BLOCK, min(BLOCK, draws - start), seed))

    value = values(np.ones((patients, 1)))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts = list(track(pool.map(block, starts), "bootstrap", total=len(starts)))
        without = list(pool.map(values, left_out(patients, seed))) if draws else []
    found = {}
    for i, (key, statistic) in enumerate(statistics.items()):
        drawn_R = _joined(part[i] for part in parts)
        invert = getattr(statistic, "inverted", None) if draws else None
        found[key] = Spread(
            float(value[i][0]),
            drawn_R if invert is None else invert(drawn_R, _first(patients, draws, seed)),
            _joined(part[i] for part in without),
            getattr(statistic, "support", patients),
            getattr(statistic, "proportion", False),
            invert is not None,
        )
    return found


def _first(patients: int, draws: int, seed: int) -> Iterator[Weights]:
    """The weights of the first `INVERTED` draws, block by block."""
    for start in range(0, min(draws, INVERTED), BLOCK):
        yield draw_weights(patients, start // BLOCK, min(BLOCK, draws - start), seed)


def _joined(parts: Iterator[Floats]) -> Floats:
    return np.concatenate([np.empty(0), *parts])
