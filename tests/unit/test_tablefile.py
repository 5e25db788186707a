"""Tables in which cells would move, be cut or be guessed, in readers that are less strict."""

import csv
import gzip

import openpyxl
import polars as pl
import pytest

from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.text.plaintext import LARGEST_TEXT
from medvlp.errors import ArchiveError

HEADER = "accession,text,date\n"


def table(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_table(tmp_path / name)


def workbook(path, *sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"S{number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_rows_that_are_too_long_or_too_short_are_refused_alone(tmp_path):
    text = HEADER + "A1,Clear.,2020\nA2,Effusion, left.,2020\nA3,Cut\nA4,Well.,2021\n"
    found = table(tmp_path, text)
    assert found.refused == {2: "ragged_row", 3: "ragged_row"}
    assert found.frame.rows()[0] == ("A1", "Clear.", "2020")
    assert found.frame.rows()[3] == ("A4", "Well.", "2021")
    assert found.frame.rows()[1:3] == [(None, None, None)] * 2


def test_an_empty_cell_too_many_is_no_harm(tmp_path):
    found = table(tmp_path, HEADER + "A1,Clear.,2020,\nA2,,2020,,\n\n")
    assert found.refused == {}
    assert found.frame.rows() == [("A1", "Clear.", "2020"), ("A2", None, "2020")]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_what_is_quoted_stays_together(tmp_path, separator):
    cells = ['say "no"', f"a{separator}b", "two\nlines"]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([["a", "b", "c"], cells])
    assert open_table(tmp_path / "t.csv").frame.rows() == [tuple(cells)]


def test_a_long_report_is_read_and_an_endless_cell_is_not(tmp_path):
    long = "word " * 40_000
    found = table(tmp_path, f"{HEADER}A1,{long},x\nA2,{'y' * (LARGEST_TEXT + 1)},x\n")
    assert found.refused == {2: "cell_too_large"}
    assert found.frame["text"][0] == long
    assert csv.field_size_limit() == 131072


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEADER + 'A1,"never closed,2020\nA2,x,y\n', "a quote is not closed"),
        (HEADER + 'A1,"said "no" again",2020\n', "a quote is not closed"),
        ("a,b,a\n1,2,3\n", "several columns called a"),
        ("a,b\n1,\x002\n", "text_binary"),
        (b"PK\3\4" + bytes(99), "text_binary"),
        ("", "cannot be read"),
        ("\n\n", "cannot be read"),
    ],
)
def test_tables_that_cannot_be_read_without_guessing(tmp_path, text, why):
    with pytest.raises(ArchiveError, match=why) as error:
        table(tmp_path, text)
    assert not {"never", "said"} & set(str(error.value).split())


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8-sig"])
def test_encodings_of_spreadsheet_programs(tmp_path, encoding):
    found = table(tmp_path, "Nummer;Befund\n007;Größe 3 cm\n".encode(encoding))
    assert found.frame.rows() == [("007", "Größe 3 cm")]


def test_a_workbook(tmp_path):
    rows = [["a", "b"], ["007", 7], [None, 1.5], ["x", 12345678901]]
    found = open_table(workbook(tmp_path / "t.xlsx", rows, []))
    assert found.frame.columns == ["a", "b"]
    assert found.frame.rows() == [("007", "7"), (None, "1.5"), ("x", "12345678901")]


def test_workbooks_that_leave_a_choice_or_are_none(tmp_path):
    with pytest.raises(ArchiveError, match="2 sheets"):
        open_table(workbook(tmp_path / "t.xlsx", [["a"], [1]], [["b"], [2]]))
    with pytest.raises(ArchiveError, match="several columns"):
        open_table(workbook(tmp_path / "u.xlsx", [["a", "a"], [1, 2]]))
    for name, data in {
        "v.xlsx": b"",
        "w.xlsx": b"a,b\n1,2\n",
        "x.xlsx": b"PK\3\4" + bytes(50),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ArchiveError, match="cannot be read"):
            open_table(tmp_path / name)


def test_a_workbook_that_grows_beyond_measure(tmp_path):
    import zipfile

    path = workbook(tmp_path / "t.xlsx", [["a"], [1]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/media/zeros.bin", bytes(1 << 27))
    with pytest.raises(ArchiveError, match="archive_ratio"):
        open_table(path)


def test_parquet_keeps_its_types(tmp_path):
    pl.DataFrame({"n": [1, 2]}).write_parquet(tmp_path / "t.parquet")
    assert open_table(tmp_path / "t.parquet").frame.rows() == [(1,), (2,)]
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(ArchiveError, match="cannot be read"):
        open_table(tmp_path / "t.parquet")


def test_a_compressed_csv_is_read_and_a_damaged_one_refused(tmp_path):
    path = tmp_path / "t.csv.gz"
    whole = gzip.compress(b"a,b\n1,x\n")
    path.write_bytes(whole)
    assert open_table(path).frame.rows() == [("1", "x")]
    path.write_bytes(whole[:-9])
    with pytest.raises(ArchiveError, match=r"t\.csv\.gz cannot be read \(inflate\)"):
        open_table(path)
