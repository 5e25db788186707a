import polars as pl
import pytest

from medvlp.archive.columns import read_table
from medvlp.archive.intake import Intake
from medvlp.archive.options import Columns, IndexConfig
from medvlp.archive.pseudonyms import Pseudonyms
from medvlp.archive.reports import load_reports
from medvlp.errors import ArchiveError, ConfigError

CSV = """AccNo;StudyUID;Befund
0001;1.2.1;Herz vergrößert.
0002;1.2.2;Frei.
0002;1.2.2;Frei.
0003;;Eins.
0003;;Zwei.
0004;;
0005;;Nie verlangt.
;;Ohne Schlüssel.
"""
COLUMNS = Columns(accession="AccNo", study_uid="StudyUID", text="Befund")


def intake_for(root, **config):
    return Intake(root, IndexConfig(**config), Pseudonyms(bytes(32)), "cxr")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_table_of_any_encoding(root, encoding):
    (root / "ris.csv").write_bytes(CSV.encode(encoding))
    intake = intake_for(root, reports="ris.csv", columns=COLUMNS)
    reports = load_reports(intake)
    assert list(intake.files()) == []
    assert reports.find(accession="0001") == "Herz vergrößert."
    assert reports.find(accession="none", study_uid="1.2.1") == "Herz vergrößert."
    assert reports.find(accession=" 0002 ") == "Frei."  # told twice in the same words
    assert reports.find(accession="1") is None  # leading zeros count
    assert reports.find(accession="0003") is None
    assert reports.find(accession="0004") is None
    assert reports.find(study_uid="0001") is None  # not an accession number
    assert reports.find() is None
    tables, _, info, _ = intake.finish()
    assert sorted(row["code"] for row in tables["rejects"]) == [
        "empty_report", "no_key", "pair_conflict", "pair_conflict",
    ]  # fmt: skip
    assert all(row["stage"] == "row" for row in tables["rejects"])
    assert info["counts"] == {"found": 1, "accepted": 1, "quarantined": 0, "ignored": 0}
    assert info["notes"] == {"reports_without_study": 1}


def test_a_folder_with_one_text_a_study(root):
    texts = root / "texts" / "2021"
    texts.mkdir(parents=True)
    (texts / "A1.txt").write_text("Clear.", encoding="utf-8-sig")
    (texts / "1.2.7.txt").write_bytes("Größe 3 cm.".encode("latin-1"))
    (texts / "A2.txt").write_text("  \n")
    (texts / "A9.txt").write_text("Nobody asks.")
    (texts / "A3.txt").write_text("One.")
    (root / "texts" / "A3.txt").write_text("Two.")
    (root / "image.dcm").write_bytes(b"x")
    intake = intake_for(root, reports="texts")
    reports = load_reports(intake)
    assert [path.name for path in intake.files()] == ["image.dcm"]
    assert reports.find(accession="A1", study_uid="1.2.0") == "Clear."
    assert reports.find(accession="", study_uid="1.2.7") == "Größe 3 cm."
    assert reports.find(accession="A3") is None
    intake.accept(list(intake.files()), kind="dicom", patient="1")
    tables, _, info, _ = intake.finish()
    assert info["counts"] == {"found": 7, "accepted": 3, "quarantined": 4, "ignored": 0}
    assert sorted((row["stage"], row["code"]) for row in tables["rejects"]) == [
        ("join", "pair_conflict"),
        ("join", "pair_conflict"),
        ("join", "report_without_study"),
        ("read", "empty_report"),
    ]


def test_reports_outside_the_archive_are_counted(root, tmp_path):
    (tmp_path / "ris.csv").write_text("accession,text\nA1,Clear.\n")
    intake = intake_for(root, reports=str(tmp_path / "ris.csv"))
    assert load_reports(intake).find(accession="A1") == "Clear."
    assert intake.finish()[2]["counts"]["found"] == 1


def test_no_reports_option_means_none(root):
    assert load_reports(intake_for(root)) is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text="Bericht"), "no column 'Bericht' .columns there: AccNo, StudyUID, Befund."),
        (Columns(), "no column 'text'"),
        (Columns(text="Befund"), "no column accession or study_uid"),
    ],
)
def test_missing_columns_name_those_that_are_there(root, columns, message):
    (root / "ris.csv").write_text(CSV)
    with pytest.raises(ConfigError, match=message):
        load_reports(intake_for(root, reports="ris.csv", columns=columns))


def test_parquet_numbers_are_read_as_text(tmp_path):
    pl.DataFrame({"accession": [7], "text": ["Clear."]}).write_parquet(tmp_path / "r.parquet")
    intake = intake_for(tmp_path, reports="r.parquet")
    assert load_reports(intake).find(accession="7") == "Clear."


def test_commas_and_line_ends_inside_quotes(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n"x, y","line\nline"\n')
    assert read_table(tmp_path / "t.csv").rows() == [("x, y", "line\nline")]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_what_is_no_table_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_table(tmp_path / name)
