"""Metrics of cells: one kind and level of a change, against the same answers without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure
from medvlp.evaluate.metrics.statistics import Auroc, Floats, Ratio, Statistic
from medvlp.evaluate.robustness.sentences import SCORE

Cell = tuple[str, str]
"""(kind, level)."""


class MacroAuroc:
    """The mean AUROC over labels; labels without both classes in a draw are left out of it."""

    def __init__(self, rows: pl.DataFrame, clusters: int) -> None:
        self.members = [
            Auroc(
                part["score"].to_numpy(),
                part["label"].to_numpy() == 1,
                part["cluster"].to_numpy(),
                clusters,
            )
            for _, part in rows.group_by("asked", maintain_order=True)
            if part["label"].n_unique() == 2
        ]

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) means; NaN where no label has both classes."""
        empty = np.full((1, weight_PR.shape[1]), np.nan)
        return _mean([empty[0], *(member(weight_PR) for member in self.members)])


class Kept:
    """What is left above chance: (mean AUROC of the cells − ½) / (clean AUROC − ½), in [0,1].

    Undefined where the clean AUROC is not above one half: who knows nothing has nothing to lose.
    """

    def __init__(self, cells: Sequence[Statistic], clean: Statistic) -> None:
        self.cells, self.clean = cells, clean

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) shares."""
        changed_R = _mean([cell(weight_PR) for cell in self.cells])
        kept_R: Floats = np.clip(_over(changed_R - 0.5, self.clean(weight_PR) - 0.5), 0, 1)
        return kept_R


class Relative:
    """AUROC of the cells, their mean, over the clean AUROC: relative performance, not clipped."""

    def __init__(self, cells: Sequence[Statistic], clean: Statistic) -> None:
        self.cells, self.clean = cells, clean

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) ratios."""
        return _over(_mean([cell(weight_PR) for cell in self.cells]), self.clean(weight_PR))


def _over(above_R: Floats, below_R: Floats) -> Floats:
    """Ratios; NaN where what is below is not positive."""
    ratio_R: Floats = np.full(np.shape(below_R), np.nan)
    np.divide(above_R, below_R, out=ratio_R, where=below_R > 0)
    return ratio_R


def _mean(rows: Sequence[Floats]) -> Floats:
    stacked = np.stack(rows)
    known = ~np.isnan(stacked)
    found = np.full(stacked.shape[1:], np.nan)
    np.divide(np.where(known, stacked, 0).sum(0), known.sum(0), out=found, where=known.any(0))
    return found


def split_names(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with columns `change`, `level` and `asked` from their names."""
    parts = pl.col("name").str.splitn("/", 3)
    return rows.with_columns(
        change=parts.struct.field("field_0"),
        level=parts.struct.field("field_1"),
        asked=parts.struct.field("field_2"),
    )


def by_cell(rows: pl.DataFrame) -> dict[Cell, pl.DataFrame]:
    """(kind, level) -> its rows, in the order in which they come."""
    groups = rows.group_by("change", "level", maintain_order=True)
    return {(str(change), str(level)): part for (change, level), part in groups}


def corruption_measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
    """AUROC of every kind and level, the mean of each kind, and what is kept of the clean one.

    In the manner of the mean corruption error (arXiv:1903.12261), but against one's own clean
    score instead of another model's.
    """
    parts = by_cell(split_names(rows))
    macro = {cell: MacroAuroc(part, clusters) for cell, part in parts.items()}
    clean = macro.pop(("clean", "0"))
    of_kind: dict[str, list[Cell]] = {}
    for cell in macro:
        of_kind.setdefault(cell[0], []).append(cell)
    count = len(parts["clean", "0"])
    changed = list(macro.values())
    found = [
        Measure(metric=SCORE, name="corruption", n=count, statistic=Kept(changed, clean)),
        Measure(metric="auroc_clean", name="all", n=count, statistic=clean),
        Measure(metric="auroc_relative", name="all", n=count, statistic=Relative(changed, clean)),
    ]
    for kind, cells in of_kind.items():
        kept = Kept([macro[cell] for cell in cells], clean)
        found.append(Measure(metric="auroc_kept", name=kind, n=count, statistic=kept))
    for (kind, level), statistic in macro.items():
        found.append(
            Measure(metric="auroc_changed", name=f"{kind}/{level}", n=count, statistic=statistic)
        )
    return found


def attack_measures(thresholds: Mapping[str, float], *, exclusive: bool) -> Measures:
    """Success of every attack, what stays right under it, and AUROC under it.

    A success is the clean share of right calls minus the attacked one (Co-Attack,
    arXiv:2206.09391). What stays right is the share of calls that were right and still are. The
    axis' score is its mean over attacks; noise that nobody aimed and defended rows have no part
    in it.

    Args:
        thresholds: Label -> probability from which it is called present; one half without one.
        exclusive: The highest score is the call, instead of a threshold.
    """

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        called = _called(split_names(rows), thresholds, exclusive)
        key = ["sample", "time_s", "asked"]
        clean = called.filter(pl.col("change") == "clean").select(*key, clean_right="right")
        parts = by_cell(called.join(clean, on=key, how="left", nulls_equal=True))
        found = [m for cell, part in parts.items() for m in _of_cell(cell, part, clusters)]
        attacks = [cell for cell in parts if _aimed(cell[0])]
        members = tuple(("still_right", "/".join(cell)) for cell in attacks)
        score = Measure(metric=SCORE, name="adversarial", n=len(clean), members=members)
        return [score, *found]

    return measures


def _aimed(change: str) -> bool:
    return change not in ("clean", "noise") and "+" not in change


def _called(rows: pl.DataFrame, thresholds: Mapping[str, float], exclusive: bool) -> pl.DataFrame:
    if exclusive:
        best = pl.col("score").max().over("change", "level", "sample", "time_s")
        call = pl.col("score") == best
    else:
        limit = pl.col("asked").replace_strict(
            dict(thresholds), default=0.5, return_dtype=pl.Float64
        )
        call = pl.col("score") >= limit
    return rows.with_columns(right=(call == (pl.col("label") == 1)).cast(pl.Float64))


def _of_cell(cell: Cell, part: pl.DataFrame, clusters: int) -> Iterator[Measure]:
    name, patient = "/".join(cell), part["cluster"].to_numpy()
    right, before = part["right"].to_numpy(), part["clean_right"].to_numpy()
    macro = MacroAuroc(part, clusters)
    yield mean_measure("accuracy_attacked", name, right, patient, clusters)
    yield Measure(metric="auroc_attacked", name=name, n=len(part), statistic=macro)
    if cell[0] != "clean":
        yield mean_measure("attack_success", name, before - right, patient, clusters)
        still = Ratio(right * before, before, patient, clusters)
        yield Measure(metric="still_right", name=name, n=len(part), statistic=still)
