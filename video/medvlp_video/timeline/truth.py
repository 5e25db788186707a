"""What is true when, by the user's table or a manifest, and how a timeline compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.verdict import Reject
from medvlp.data.label_vectors import LabelVectors, intervals_of
from medvlp.data.manifest import Manifest
from medvlp.errors import InputError
from medvlp.evaluate.cases import check_labels
from medvlp.evaluate.metrics.estimate import metric_rows
from medvlp.evaluate.metrics.phases import phase_measures
from medvlp_video.spans import seconds_of
from medvlp_video.timeline.track import Segment, Track

COLUMNS = ("name", "start_s", "end_s")
METRICS = ("accuracy", "f1_macro", "edit_score", "segment_f1_10", "segment_f1_25", "segment_f1_50")

_NONE = -1


class Truth:
    """Intervals of the prompts' labels.

    Args:
        names: The labels.
        label_I: Place of each interval's label.
        start_I: Seconds.
        end_I: Seconds, not themselves within.
    """

    def __init__(
        self,
        names: Sequence[str],
        label_I: NDArray[np.int64],
        start_I: NDArray[np.float64],
        end_I: NDArray[np.float64],
    ) -> None:
        self.names = tuple(names)
        self._label_I, self._start_I, self._end_I = label_I, start_I, end_I

    def at(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """(M,) the label whose interval covers each moment; -1 where none or several do."""
        covered_ML = np.zeros((len(times_s), len(self.names)), np.bool_)
        for label, start_s, end_s in zip(self._label_I, self._start_I, self._end_I, strict=True):
            covered_ML[:, label] |= (start_s <= times_s) & (times_s < end_s)
        return np.where(covered_ML.sum(axis=1) == 1, covered_ML.argmax(axis=1), _NONE)

    def segments(self) -> list[Segment]:
        """The intervals in the order of time."""
        return [
            Segment(
                name=self.names[label],
                label=label,
                start_s=float(self._start_I[i]),
                end_s=float(self._end_I[i]),
                confidence=1.0,
            )
            for i in np.argsort(self._start_I, kind="stable").tolist()
            for label in [int(self._label_I[i])]
        ]


def truth_from_table(path: Path, names: Sequence[str]) -> Truth:
    """Intervals from a table with the columns `COLUMNS`; times in seconds or h:mm:ss.

    Raises:
        ArchiveError: The table cannot be read.
        ConfigError: A name that is none of `names`.
        InputError: A column is missing, or a row is no interval.
    """
    table = open_table(path)
    missing = [column for column in COLUMNS if column not in table.frame.columns]
    if missing or table.refused:
        what = f"no column {', '.join(missing)}" if missing else f"row {min(table.refused)} is torn"
        raise InputError(f"--truth: {what}", remedy=f"write a CSV with {', '.join(COLUMNS)}")
    rows = table.frame.select(pl.col(c).cast(pl.String) for c in COLUMNS).rows()
    check_labels([str(name) for name, _, _ in rows], names, "--truth", "the prompt file")
    spans = [_span(number, *row[1:]) for number, row in enumerate(rows, 1)]
    return Truth(
        names,
        np.array([names.index(name) for name, _, _ in rows], np.int64),
        np.array([start for start, _ in spans], np.float64),
        np.array([end for _, end in spans], np.float64),
    )


def _span(number: int, start: str | None, end: str | None) -> tuple[float, float]:
    try:
        start_s, end_s = seconds_of(start), seconds_of(end)
    except Reject:
        start_s = end_s = None
    if start_s is None or end_s is None or not 0 <= start_s < end_s:
        raise InputError(
            f"--truth: row {number} is no interval: {start} to {end}",
            remedy="give start_s and end_s in seconds or h:mm:ss, the end after the start",
        )
    return start_s, end_s


def truth_from_manifest(manifest: Manifest, sample: str, names: Sequence[str]) -> Truth | None:
    """The sample's timed regions called as one of `names`; None if it has none."""
    own = intervals_of(manifest).filter(pl.col("sample") == sample, pl.col("name").is_in(names))
    if own.is_empty():
        return None
    label_I, start_I, end_I = LabelVectors(manifest, names).intervals[sample]
    return Truth(names, label_I.astype(np.int64), start_I, end_I)


def judged(track: Track, truth: Truth) -> dict[str, dict[str, float | int | None]]:
    """Metrics of the clips' own labels and of the smoothed ones: {"clips": ..., "smoothed": ...}.

    The metrics of `medvlp.evaluate.metrics.phases`, over the moments that were seen and of which
    exactly one label is true; `moments` counts them. Of one recording there is no interval.
    """
    true_M = truth.at(track.times_s)
    kept_M = track.among("seen") & (true_M != _NONE)
    return {
        word: _measured(truth.names, track.times_s[kept_M], true_M[kept_M], called_M[kept_M])
        for word, called_M in (("clips", track.labels), ("smoothed", track.smoothed))
    }


def _measured(
    names: Sequence[str],
    time_M: NDArray[np.float64],
    true_M: NDArray[np.int64],
    called_M: NDArray[np.int64],
) -> dict[str, float | int | None]:
    if not len(time_M):
        return {"moments": 0, **dict.fromkeys(METRICS)}
    told = {"model": "timeline", "protocol": "timeline", "sample": "0", "patient": "0"}
    rows = pl.concat(
        pl.DataFrame({"time_s": time_M, "label": true_M == i, "score": called_M == i}).select(
            *(pl.lit(value).alias(key) for key, value in told.items()),
            "time_s",
            pl.col("label").cast(pl.Int8),
            pl.col("score").cast(pl.Float64),
            name=pl.lit(name),
            seed=pl.lit(0, pl.Int64),
            control=pl.lit(value=False),
        )
        for i, name in enumerate(names)
    )
    found = metric_rows(
        rows, lambda _, __: phase_measures, domain="video", draws=0, confidence=0.95, seed=0
    )
    values = {row.metric: row.value for row in found if row.name == "all"}
    return {"moments": len(time_M), **{metric: values[metric] for metric in METRICS}}
