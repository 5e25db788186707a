"""Moments of recordings that answer a sentence: from scores of windows to spans, and recall.

How scores become spans (`propose`), the same for every model and control:

1. A query's scores over the windows of one recording are cut at several levels between the least
   and the largest. Every longest run of windows at or above a level is a span, from the start of
   its first window to the end of its last.
2. A span of n windows is worth ``sum(score − mean) / (sd · sqrt(n))``, the scan statistic of a
   shifted mean (Kulldorff 1997, doi:10.1080/03610929708831995), where mean and sd are over
   the query's windows in all recordings that are searched. So short peaks and long plateaus
   compete on one scale.
3. From the best on, a span that overlaps a better one of its recording by more than half (temporal
   intersection over union) is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure

Floats = NDArray[np.floating]

LEVELS = (0.25, 0.5, 0.75, 0.9)
"""Where scores are cut, from the least (0) to the largest (1)."""

OVERLAP = 0.5
"""Temporal intersection over union above which two spans are one answer."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A span of a recording."""

    recording: str
    start_s: float
    end_s: float
    value: float = 0.0
    """Higher is surer."""


def tiou(a: Moment, b: Moment) -> float:
    """Temporal intersection over union; 0 for spans of different recordings.

    >>> tiou(Moment(recording="r", start_s=0, end_s=4), Moment(recording="r", start_s=2, end_s=6))
    0.3333333333333333
    """
    common = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    if a.recording != b.recording or common <= 0:
        return 0.0
    return common / (max(a.end_s, b.end_s) - min(a.start_s, b.start_s))


def spans_of(
    recording: str, score_W: Floats, start_W: Floats, end_W: Floats, mean: float, sd: float
) -> list[Moment]:
    """The spans of one recording, by steps 1 and 2 of the rule.

    Args:
        recording: Its name.
        score_W: A query's score of each window, in the order of time.
        start_W: Start of each window in seconds.
        end_W: End of each window in seconds.
        mean: Of the query's scores where it searches.
        sd: Their standard deviation; 0 makes all spans worth nothing.
    """
    low, high = float(score_W.min()), float(score_W.max())
    runs = {
        run for level in LEVELS for run in _runs(score_W >= low + level * (high - low))
    }  # fmt: skip
    total = np.append(0.0, np.cumsum(score_W - mean))
    return [
        Moment(
            recording=recording,
            start_s=float(start_W[a]),
            end_s=float(end_W[b - 1]),
            value=float((total[b] - total[a]) / (sd * np.sqrt(b - a))) if sd > 0 else 0.0,
        )
        for a, b in sorted(runs)
    ]


def _runs(above_W: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(above_W.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def propose(spans: Sequence[Moment], count: int, overlap: float = OVERLAP) -> list[Moment]:
    """The best `count` spans, without those that repeat a better one (step 3 of the rule).

    Args:
        spans: Of all recordings searched.
        count: How many.
        overlap: Above which a span repeats a better one; 0 leaves spans that share no moment.
    """
    kept: list[Moment] = []
    for span in sorted(spans, key=lambda s: (-s.value, s.recording, s.start_s, s.end_s)):
        if len(kept) == count:
            break
        if all(tiou(span, better) <= overlap for better in kept):
            kept.append(span)
    return kept


def first_hit(answers: Sequence[Moment], true: Sequence[Moment], overlap: float) -> float:
    """1 / rank of the first answer that overlaps a true moment by `overlap`; 0 if none does."""
    for rank, answer in enumerate(answers, 1):
        if any(tiou(answer, moment) >= overlap for moment in true):
            return 1 / rank
    return 0.0


def moment_measures(k: Sequence[int]) -> Measures:
    """Recall at k of each kind of search and overlap: a query counts if a first answer hits."""

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        found: list[Measure] = []
        for (label,), part in rows.group_by("name", maintain_order=True):
            patient, reciprocal = part["cluster"].to_numpy(), part["score"].to_numpy()
            for depth in k:
                hits = (reciprocal >= 1 / depth - 1e-9) * 1.0
                found.append(
                    mean_measure(f"recall_at_{depth}", str(label), hits, patient, clusters)
                )
        return found

    return measures
