"""Which earlier image of the same patient an image can be compared with.

Earlier is told by the shifted dates, which keep a patient's intervals, and within a day, or where
there are no dates, by the source's own count of the patient's studies (`study_order`). Studies that
neither tells apart are not earlier than each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import polars as pl

from medvlp.data.manifest import Manifest
from medvlp.data.views import SIDES

Moment = tuple[str, int | None]
"""Date, blank where none of the patient's moments that are compared has one, and count."""

Row = Mapping[str, Any]


def priors(manifest: Manifest, *, counted: bool = True) -> dict[str, str]:
    """Sample -> the sample of the same view in the latest earlier study of the same patient.

    The same view means frontal with frontal and lateral with lateral; among the images of the
    earlier study, one of the very same word (PA with PA) is preferred, then the first by id. A
    sample whose view is unknown, or that has nothing before it, is not among the keys. A study
    takes the place of its earliest date. Studies with a date are compared among themselves, and
    those without one among themselves.

    Args:
        manifest: Samples of all splits; a patient's lie in one of them.
        counted: Whether `study_order` counts. A source's count is its own word: CheXpert numbers
            studies without saying that the numbers follow time.
    """
    columns = ("sample", "patient", "study", "study_order", "acquired", "view")
    rows = manifest.samples.select(*columns).filter(pl.col("view").is_in(list(SIDES)))
    ordered = rows.sort("patient", "sample").to_dicts()
    found: dict[str, str] = {}
    for _, group in groupby(ordered, key=lambda row: str(row["patient"])):
        own = list(group)
        moments = _moments(own, counted=counted)
        for row in own:
            earlier = _latest_before(row, own, moments)
            if earlier is not None:
                found[row["sample"]] = earlier["sample"]
    return found


def _moments(rows: Iterable[Row], *, counted: bool) -> dict[str, Moment]:
    """Study -> when it was."""
    moments: dict[str, Moment] = {}
    for row in rows:
        order = row["study_order"] if counted else None
        date, known = row["acquired"] or "", moments.get(row["study"])
        if known is not None:
            date = min(filter(None, (date, known[0])), default="")
            order = min((n for n in (order, known[1]) if n is not None), default=None)
        moments[row["study"]] = (date, order)
    return moments


def _latest_before(row: Row, rows: Iterable[Row], moments: Mapping[str, Moment]) -> Row | None:
    now, side = moments[row["study"]], SIDES[row["view"]]
    best: Row | None = None
    for other in rows:
        if SIDES[other["view"]] != side or not _precedes(moments[other["study"]], now):
            continue
        if best is None or _is_better(other, best, row, moments):
            best = other
    return best


def _is_better(other: Row, best: Row, row: Row, moments: Mapping[str, Moment]) -> bool:
    """Whether `other` is a better prior than `best`; both come in the order of their ids."""
    if _precedes(moments[best["study"]], moments[other["study"]]):
        return True
    same_study = best["study"] == other["study"]
    return bool(same_study and other["view"] == row["view"] != best["view"])


def _precedes(earlier: Moment, later: Moment) -> bool:
    """Whether one moment is known to lie before another."""
    (date, order), (other_date, other_order) = earlier, later
    if bool(date) != bool(other_date):
        return False
    if date != other_date:
        return date < other_date
    return order is not None and other_order is not None and order < other_order
