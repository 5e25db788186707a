"""Tables that users bring, read so that no cell is moved, cut or guessed: CSV, Excel and Parquet.

CSV goes through the standard library, not through polars, because polars cuts rows that are too
long and fills up those that are too short, which takes words from one report to another.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fastexcel
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from medvlp.archive.containers import members
from medvlp.archive.inflate import GzipReader
from medvlp.archive.text.plaintext import LARGEST_TABLE, LARGEST_TEXT, decode
from medvlp.archive.verdict import Reject
from medvlp.errors import ArchiveError

_LARGEST_SHEET = 1 << 28
_LARGEST_PARQUET = 1 << 36
_MOST_ROWS = 100_000_000
_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class TableFile:
    """A table as it stands in its file; cells of CSV and Excel are text or None."""

    frame: pl.DataFrame
    refused: Mapping[int, str] = field(default_factory=dict)
    """Row number, from 1, -> code: ``ragged_row`` or ``cell_too_large``. Such rows stand in the
    frame without cells, so that the others keep their places."""


def open_table(path: Path) -> TableFile:
    """A CSV (any encoding of `decode`; comma, semicolon, tab or bar), Parquet or Excel table.

    A CSV may be compressed by gzip (``.csv.gz``).

    Raises:
        ArchiveError: The file is no table that can be read without guessing.
    """
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return TableFile(_parquet(path))
        rows = _excel(path) if path.suffix.lower() == ".xlsx" else _csv(path)
        return _table(path, rows)
    except Reject as verdict:
        raise _unreadable(path, f" ({verdict.code})") from None
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        raise _unreadable(path) from error


def table_text(path: Path) -> str:
    """The text of a table or list that the user or the data set brought.

    Raises:
        ArchiveError: It is no text.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = GzipReader(io.BytesIO(data), len(data)).read(LARGEST_TABLE)
        return decode(data).text
    except OSError as error:
        raise _unreadable(path) from error
    except Reject as verdict:
        raise _unreadable(path, f" ({verdict.code})") from None


def _unreadable(path: Path, why: str = "") -> ArchiveError:
    return ArchiveError(
        f"the table {path.name} cannot be read{why}",
        remedy="give a CSV file in UTF-8 with a header, a Parquet or an Excel file",
    )


def _parquet(path: Path) -> pl.DataFrame:
    told = pq.read_metadata(path)
    size = sum(told.row_group(i).total_byte_size for i in range(told.num_row_groups))
    if told.num_rows > _MOST_ROWS or size > _LARGEST_PARQUET:
        raise Reject("declared_exceeds_bytes")
    return pl.read_parquet(path)


def _excel(path: Path) -> Iterator[Sequence[str | None]]:
    """The rows of a workbook's one sheet that has any."""
    # Inflated once within bounds before a reader without any is let near it.
    for member in members(path, largest=_LARGEST_SHEET):
        if member.data is None:
            raise Reject("text_too_large")
    try:
        book = fastexcel.read_excel(path)
        sheets = [book.load_sheet(n, header_row=None, dtypes="string") for n in book.sheet_names]
    except fastexcel.FastExcelError:
        raise _unreadable(path) from None
    filled = [sheet for sheet in sheets if sheet.height]
    if len(filled) > 1:
        raise ArchiveError(
            f"the workbook {path.name} has {len(filled)} sheets with rows",
            remedy="save the sheet that is meant as a workbook of its own, or as CSV",
        )
    for sheet in filled:
        yield from sheet.to_polars().iter_rows()


def _csv(path: Path) -> Iterator[Sequence[str | None]]:
    text = table_text(path)
    head = text.lstrip("\n").partition("\n")[0]
    separator = max(_SEPARATORS, key=head.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    with _long_cells():
        try:
            yield from lines
        except csv.Error:
            raise ArchiveError(
                f"the table {path.name} cannot be read beyond line {lines.line_num}: a quote is "
                "not closed, or stands inside quotes",
                remedy="write a quote inside quotes twice",
            ) from None


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the reader take cells that are too long, so that their rows alone are refused."""
    before = csv.field_size_limit(1 << 31)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table(path: Path, rows: Iterable[Sequence[str | None]]) -> TableFile:
    filled = (row for row in rows if any(row))
    header = [(name or "").strip() for name in next(filled, ())]
    if not header:
        raise _unreadable(path)
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise ArchiveError(
            f"the table {path.name} has several columns called {', '.join(twice)}",
            remedy="give each column a name of its own",
        )
    names = [name or f"column_{place}" for place, name in enumerate(header, start=1)]
    refused: dict[int, str] = {}
    columns: list[list[str | None]] = [[] for _ in names]
    for number, row in enumerate(filled, start=1):
        code = _fault(row, len(names))
        if code:
            refused[number] = code
        cells = [None] * len(names) if code else row
        for column, cell in zip(columns, cells, strict=False):
            column.append(cell or None)
    data = {name: pl.Series(name, c, pl.String) for name, c in zip(names, columns, strict=True)}
    return TableFile(pl.DataFrame(data), refused)


def _fault(row: Sequence[str | None], width: int) -> str | None:
    if len(row) < width or any(row[width:]):
        return "ragged_row"
    if any(cell is not None and len(cell) > LARGEST_TEXT for cell in row):
        return "cell_too_large"
    return None
