"""Titles and abstracts of recordings, from a table of the user's."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from medvlp.archive.tables.tablefile import open_table
from medvlp.errors import ArchiveError
from medvlp_video.narration.speech import cleaned
from medvlp_video.narration.tree import Row, Titles

SOURCE = "titles"
"""What the list of what was refused calls this table."""


def read_titles(path: Path | None) -> tuple[dict[str, Titles], list[Row]]:
    """Recording -> its title and abstract, and the rows that could not be used.

    Args:
        path: A CSV, Parquet or Excel table of ``video``, ``title`` and ``abstract``; one of the
            last two may be missing.

    Raises:
        ArchiveError: It cannot be read, or lacks a column.
    """
    if path is None:
        return {}, []
    table = open_table(path)
    columns = set(table.frame.columns)
    if "video" not in columns or not columns & {"title", "abstract"}:
        raise ArchiveError(
            "the table of titles has no column video, or neither title nor abstract",
            remedy="give it columns of these names",
        )
    found: dict[str, Titles] = {}
    refused: list[Row] = []
    frame = table.frame.select(pl.col(n).cast(pl.String) for n in table.frame.columns)
    for number, cells in enumerate(frame.iter_rows(named=True), 1):
        video = (cells["video"] or "").strip()
        told = Titles(
            title=cleaned(cells.get("title") or ""), abstract=cleaned(cells.get("abstract") or "")
        )
        code = table.refused.get(number) or _fault(video, told, found)
        if code:
            refused.append(
                {"source": SOURCE, "file": None, "row": number, "code": code, "message": ""}
            )
        else:
            found[video] = told
    return found, refused


def _fault(video: str, told: Titles, found: dict[str, Titles]) -> str | None:
    if not video or not (told.title or told.abstract):
        return "blank"
    return "duplicate_row" if video in found else None
