"""A table of others' predictions as rows (key, name, score), each cell accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from medvlp.archive.tables.tablefile import open_table
from medvlp.digest import digest_file
from medvlp.errors import InputError

KEYS = ("sample", "file")
"""Columns that say what a row is about: a manifest's sample id, or a source's file name."""

ABOUT = ("seed", "time_s")
"""Further columns that are no labels: which training, and the middle of a window in seconds."""

Scale = Literal["probability", "ranks"]


@dataclass(frozen=True, kw_only=True)
class Brought:
    """One model's predictions as its table has them."""

    model: str
    digest: str
    """SHA-256 of the file."""

    scale: Scale
    rows: pl.DataFrame
    """`row` (from 1, in the file), `key`, `seed`, `time_s` (whole ms, null if not given), `name`,
    `score` (null where the cell holds no finite number)."""


def read_brought(model: str, path: Path, scale: Scale) -> Brought:
    """Read a wide table (a column a label) or a long one (columns `name` and `score`).

    Args:
        model: The name that its rows get.
        path: CSV, Parquet or Excel, as `open_table` reads it.
        scale: Whether scores are probabilities, or numbers of which the order alone counts.

    Raises:
        ArchiveError: The file is no table.
        InputError: It has no column `sample` or `file`, or a row is broken.
    """
    if not path.is_file():
        raise InputError(f"{model}: its table of predictions does not exist", remedy="name a file")
    table = open_table(path)
    if table.refused:
        places = ", ".join(map(str, sorted(table.refused)[:5]))
        raise InputError(
            f"{model}: {len(table.refused)} rows have too few or too many cells (rows {places})",
            remedy="write the table again with one cell a column",
        )
    found = [name for name in KEYS if name in table.frame.columns]
    if len(found) != 1:
        raise InputError(
            f"{model}: its table must have either a column sample or a column file",
            remedy="name the column of the manifest's sample ids sample, that of file names file",
        )
    frame = table.frame.rename({found[0]: "key"}).with_columns(
        row=pl.int_range(1, pl.len() + 1), key=pl.col("key").cast(pl.String).str.strip_chars()
    )
    return Brought(
        model=model, digest=digest_file(path), scale=scale, rows=_long(_with_about(model, frame))
    )


def _with_about(model: str, frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with whole numbers in `seed` and `time_s`, which are null if there is no column."""
    given = [name for name in ABOUT if name in frame.columns]
    numbers = frame.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in given)
    if any(numbers[name].null_count() for name in given):
        raise InputError(f"{model}: a seed or time_s is no number", remedy="correct the table")
    null = [pl.lit(None, pl.Float64).alias(name) for name in ABOUT if name not in given]
    return numbers.with_columns(*null).with_columns(
        pl.col("seed").cast(pl.Int64), milliseconds("time_s")
    )


def milliseconds(column: str) -> pl.Expr:
    """Seconds as whole milliseconds, so that two programs' roundings meet."""
    return (pl.col(column) * 1000).round().cast(pl.Int64)


def _long(frame: pl.DataFrame) -> pl.DataFrame:
    about = ["row", "key", *ABOUT]
    if not {"name", "score"} <= set(frame.columns):
        labels = [name for name in frame.columns if name not in about]
        wide = frame.select(*about, pl.col(labels).cast(pl.String))
        frame = wide.unpivot(labels, index=about, variable_name="name", value_name="score")
    number = pl.col("score").cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    return frame.select(
        *about,
        pl.col("name").cast(pl.String).str.strip_chars(),
        score=pl.when(number.is_finite()).then(number),
    )
