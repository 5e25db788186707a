"""The windows behind a table of predictions: one line a window, one column a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PLACE = ("sample", "time_s", "cluster")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """W windows in the order of recording and time, and L labels in the order of their names."""

    names: tuple[str, ...]
    label_WL: Floats
    """1 present, 0 absent, NaN where the table has no row."""

    score_WL: Floats
    video_W: Ints
    """Which recording a window is of, counted from 0."""

    patient_V: Ints
    """Each recording's cluster."""

    time_W: Floats
    """Seconds; 0 where a sample has no time."""

    def clusters(self) -> Ints:
        """(W,) each window's cluster."""
        own: Ints = self.patient_V[self.video_W]
        return own

    def where(self, keep_W: NDArray[np.bool_]) -> Windows:
        """Some of the windows; recordings keep their numbers."""
        return Windows(
            names=self.names,
            label_WL=self.label_WL[keep_W],
            score_WL=self.score_WL[keep_W],
            video_W=self.video_W[keep_W],
            patient_V=self.patient_V,
            time_W=self.time_W[keep_W],
        )


def windows_of(rows: pl.DataFrame) -> Windows:
    """The windows of one model.

    Args:
        rows: Rows of `PREDICTIONS` with a `cluster` column.
    """
    names = sorted(rows["name"].unique())
    places = rows.select(_PLACE).unique().sort("sample", "time_s")
    # Joined on null times as well: a single picture is a window without a time.
    numbered = rows.join(
        places.with_row_index("window"), on=_PLACE, how="left", nulls_equal=True
    ).with_columns(column=pl.col("name").replace_strict(names, np.arange(len(names))))
    window_R, column_R = numbered["window"].to_numpy(), numbered["column"].to_numpy()
    video = places["sample"].rle_id()
    first = places.group_by("sample", maintain_order=True).agg(pl.col("cluster").first())
    return Windows(
        names=tuple(names),
        label_WL=_table(numbered["label"], window_R, column_R, (len(places), len(names))),
        score_WL=_table(numbered["score"], window_R, column_R, (len(places), len(names))),
        video_W=video.to_numpy().astype(np.int64),
        patient_V=first["cluster"].to_numpy().astype(np.int64),
        time_W=places["time_s"].fill_null(0.0).to_numpy().astype(np.float64),
    )


def _table(values: pl.Series, row_R: Any, column_R: Any, shape: tuple[int, int]) -> Floats:
    table = np.full(shape, np.nan)
    table[row_R, column_R] = values.to_numpy()
    return table
