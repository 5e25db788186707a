"""A sample's labels as a vector, and those of a moment in a recording."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.data.manifest import Manifest
from medvlp.data.preprocess import Span


def intervals_of(manifest: Manifest) -> pl.DataFrame:
    """The rows of `regions` that are spans of time."""
    return manifest.regions.filter(pl.col("kind") == "interval")


class LabelVectors:
    """Label vectors: sample-wide values, and inside a span those of the intervals.

    What no interval claims is absent where intervals would tell: a name that some interval of the
    manifest has, or of whose family (``phase:``) the recording has others. Other names keep the
    sample-wide value.
    """

    def __init__(self, manifest: Manifest, names: Sequence[str]) -> None:
        self.column = {name: i for i, name in enumerate(names)}
        self.values: dict[str, list[tuple[int, float]]] = {}
        self.intervals: dict[str, NDArray[np.float64]] = {}
        """Sample -> (3,I) column, start and end in seconds of its intervals."""

        self.told: dict[str, NDArray[np.bool_]] = {}
        """Sample -> (L,) whether its intervals tell of a name."""

        if not names:
            return
        for row in manifest.labels.iter_rows(named=True):
            if row["name"] in self.column and row["value"] is not None:
                entry = (self.column[row["name"]], row["value"])
                self.values.setdefault(row["sample"], []).append(entry)
        timed: dict[str, list[tuple[float, float, float]]] = {}
        families: dict[str, set[str]] = {}
        intervals = intervals_of(manifest)
        for row in intervals.iter_rows(named=True):
            spans = timed.setdefault(row["sample"], [])
            families.setdefault(row["sample"], set()).add(_family(row["name"]))
            if row["name"] in self.column:
                start, end = row["geometry"][:2]
                spans.append((self.column[row["name"]], start, end))
        drawn = set(intervals["name"])
        self.told = {
            sample: np.array([name in drawn or _family(name) in known for name in names])
            for sample, known in families.items()
        }
        # A recording may have thousands of intervals, and is asked about thousands of moments.
        self.intervals = {
            sample: np.array(spans, np.float64).reshape(-1, 3).T for sample, spans in timed.items()
        }

    def of(self, sample: str, span: Span | None) -> NDArray[np.float32]:
        """The label vector (L,) of a sample, or of the moment in the middle of `span`."""
        labels_L = np.full(len(self.column), np.nan, dtype=np.float32)
        for column, value in self.values.get(sample, ()):
            labels_L[column] = value
        if span is not None and sample in self.intervals:
            middle = (span[0] + span[1]) / 2
            column_I, start_I, end_I = self.intervals[sample]
            labels_L[self.told[sample]] = 0.0
            labels_L[column_I[(start_I <= middle) & (middle < end_I)].astype(int)] = 1.0
        return labels_L


def _family(name: str) -> str:
    """``phase:`` of ``phase:clipping``; a name without one is its own."""
    first, colon, _ = name.partition(":")
    return first + colon
