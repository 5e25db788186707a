"""The table of a timeline: one row a moment, written while the recording is watched."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from medvlp_video.timeline.stream import Moment

NAME = "timeline.csv"
COLUMNS = ("time_s", "state", "label", "confidence", "smoothed", "smoothed_confidence")
"""Then a column for each label: its probability by the clip that ends here. `label` and
`confidence` are that clip's best; cells of moments without a clip are blank."""


class RowFile:
    """``timeline.csv`` in a folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._file = (folder / NAME).open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow([*COLUMNS, *names])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, moment: Moment) -> None:
        """Write a moment."""
        shown = [""] * len(self._names)
        label = confidence = ""
        if moment.probability_L is not None and moment.label is not None:
            shown = [f"{p:.6f}" for p in moment.probability_L.tolist()]
            label, confidence = self._names[moment.label], shown[moment.label]
        smoothed = "" if moment.smoothed is None else self._names[moment.smoothed]
        sure = f"{moment.confidence:.6f}" if smoothed else ""
        self._writer.writerow(
            [f"{moment.time_s:.3f}", moment.state, label, confidence, smoothed, sure, *shown]
        )
