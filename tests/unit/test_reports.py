import json
import zipfile

import polars as pl
import pytest
from joined import Joined, intake_for, keys, told

from medvlp.archive.options import Columns
from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.text.reports import load_reports
from medvlp.archive.verdict import Reject
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


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("cell", ["", "nan", "NaN", " None ", "<NA>"])
def test_a_report_that_a_program_wrote_as_none_is_listed(root, cell):
    (root / "ris.csv").write_text(f"AccessionNo,Befund\n0001,{cell}\n0002,None seen.\n")
    columns = {"accession": "AccessionNo", "text": "Befund"}
    claims = [{"accession": "0001"}, {"accession": "0002"}]
    found = Joined(root, claims, "ris.csv", columns=columns)
    assert found.texts == [None, "None seen."]
    assert found.codes == ["empty_report"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_table_of_any_encoding(root, encoding):
    (root / "ris.csv").write_bytes(CSV.encode(encoding))
    claims = [
        {"accession": "0001"},
        {"accession": None, "study_uid": "1.2.1"},
        {"accession": " 0002 "},  # told twice in the same words
        {"accession": "1"},  # leading zeros count
        {"accession": "0003"},
        {"accession": "0004"},
        {"study_uid": "0001"},  # not an accession number
        {},
    ]
    found = Joined(root, claims, "ris.csv", columns=COLUMNS)
    heart = "Herz vergrößert."
    assert found.texts == [heart, heart, "Frei.", None, None, None, None, None]
    assert found.codes == ["empty_report", "no_key", "pair_conflict", "pair_conflict"]
    assert found.stages == {"row"}
    assert "no_text" in found.flags[5]
    assert found.info["counts"] == {"found": 9, "accepted": 9, "quarantined": 0, "ignored": 0}
    assert found.info["notes"] == {"reports_without_study": 1}


def test_a_folder_with_one_text_a_study(root):
    texts = root / "texts" / "2021"
    texts.mkdir(parents=True)
    (texts / "A1.txt").write_text("Clear.", encoding="utf-8-sig")
    (texts / "1.2.7.txt").write_bytes("Größe 3 cm.".encode("latin-1"))
    (texts / "A2.txt").write_text("  \n")
    (texts / "A4.pdf").write_bytes(b"%PDF-1.4")
    (texts / "A9.txt").write_text("Nobody asks.")
    (texts / "A3.txt").write_text("One.")
    (root / "texts" / "A3.txt").write_text("Two.")
    claims = [
        {"accession": "A1", "study_uid": "1.2.0"},
        {"accession": "", "study_uid": "1.2.7"},
        {"accession": "A3"},
    ]
    found = Joined(root, claims, "texts")
    assert found.texts == ["Clear.", "Größe 3 cm.", None]
    assert found.info["counts"] == {"found": 10, "accepted": 5, "quarantined": 5, "ignored": 0}
    assert found.codes == [
        "empty_report", "pair_conflict", "pair_conflict", "report_format", "report_without_study",
    ]  # fmt: skip
    assert found.stages == {"read", "join"}


def test_one_text_file_is_one_report(root, tmp_path):
    (tmp_path / "A1.txt").write_text("Clear.")
    assert Joined(root, keys("A1"), tmp_path / "A1.txt").texts == ["Clear."]


def test_reports_outside_the_archive_are_counted(root, tmp_path):
    (tmp_path / "ris.csv").write_text("accession,text\nA1,Clear.\n")
    found = Joined(root, keys("A1"), tmp_path / "ris.csv")
    assert found.texts == ["Clear."]
    assert found.info["counts"]["found"] == 2


def test_damaged_and_packed_files_of_a_folder_are_set_aside(root, tmp_path):
    folder = tmp_path / "ris"
    folder.mkdir()
    (folder / "A1.txt").write_text("Clear.")
    (folder / "bad.csv").write_text('accession,text\nA2,"never closed\n')
    (folder / "bad.xlsx").write_bytes(b"PK\3\4 no workbook")
    (folder / "old.zip").write_bytes(b"PK\5\6" + bytes(18))
    found = Joined(root, keys("A1", "A2"), folder)
    assert found.texts == ["Clear.", None]
    assert found.codes == ["no_table", "no_table", "packed"]
    assert found.info["counts"]["found"] == 6
    # The only table is the user's to mend.
    with pytest.raises(ArchiveError, match=r"table bad\.csv"):
        load_reports(intake_for(root, reports=str(folder / "bad.csv")))


def test_no_reports_option_means_none(root):
    assert load_reports(intake_for(root)) is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text="Bericht"), "no column 'Bericht' .columns there: AccNo, StudyUID, Befund."),
        (Columns(), "no column 'text'"),
        (Columns(text="Befund"), "no column accession or study_uid"),
        (Columns(text="Befund", accession="AccNo", status="Stand"), "no column 'Stand'"),
    ],
)
def test_missing_columns_name_those_that_are_there(root, columns, message):
    (root / "ris.csv").write_text(CSV)
    with pytest.raises(ConfigError, match=message):
        load_reports(intake_for(root, reports="ris.csv", columns=columns))


def test_parquet_numbers_are_read_as_text(root):
    pl.DataFrame({"accession": [7], "text": ["Clear."]}).write_parquet(root / "r.parquet")
    assert Joined(root, keys("7"), "r.parquet").texts == ["Clear."]


XLSX = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/'
    'content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
    'relationships+xml"/><Default Extension="xml" ContentType="application/xml"/></Types>',
    "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
    'relationships"><Relationship Id="r" Type="http://schemas.openxmlformats.org/officeDocument/'
    '2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    ' xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>'
    '<sheet name="s" sheetId="1" r:id="r"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/'
    '2006/relationships"><Relationship Id="r" Type="http://schemas.openxmlformats.org/'
    'officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


def write_excel(path, rows):
    def cell(value, column, row):
        if isinstance(value, int):
            return f'<c r="{column}{row}"><v>{value}</v></c>'
        return f'<c r="{column}{row}" t="inlineStr"><is><t>{value}</t></is></c>'

    lines = (
        f'<row r="{i}">{"".join(cell(v, c, i) for c, v in zip("ABC", row, strict=False))}</row>'
        for i, row in enumerate(rows, start=1)
    )
    sheet = f"<sheetData>{''.join(lines)}</sheetData>"
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in XLSX.items():
            file.writestr(name, content)
        file.writestr("xl/worksheets/sheet1.xml", f'<worksheet xmlns="{space}">{sheet}</worksheet>')


def test_excel_numbers_are_read_as_text(root):
    rows = [["accession", "text"], ["0012", "Größe\n3 cm"], [1001, "Clear."]]
    write_excel(root / "r.xlsx", rows)
    assert Joined(root, keys("0012", "1001"), "r.xlsx").texts == ["Größe\n3 cm", "Clear."]


def test_an_excel_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "r.xlsx", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/worksheets/sheet1.xml", b"\0" * (32 << 20))
    with pytest.raises(ArchiveError, match="cannot be read"):
        open_table(tmp_path / "r.xlsx")


def test_commas_and_line_ends_inside_quotes(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n"x, y","line\nline"\n')
    assert open_table(tmp_path / "t.csv").frame.rows() == [("x, y", "line\nline")]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.xlsx"])
def test_what_is_no_table_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ArchiveError, match="cannot be read"):
        open_table(tmp_path / name)


A, B = {"accession": "A", "study_uid": "1.1"}, {"accession": "B", "study_uid": "1.2"}


@pytest.mark.parametrize(
    ("rows", "claims", "texts", "conflicts"),
    [
        # The accession number of one study, the UID of another.
        (["A,1.2,,x"], [A, B], [None, None], 1),
        (["A,1.2,,x"], [A], [None], 1),
        (["A,1.1,,x", "B,1.2,,y"], [A, B], ["x", "y"], 0),
        # One accession number over two studies: the report names one of them.
        (["A,1.1,,x"], [A, {**A, "study_uid": "1.9"}], ["x", None], 0),
        # Two studies whose headers were stripped, each half of what the report says.
        (
            ["A,1.1,,x"],
            [{"accession": "A", "patient": "p1"}, {"study_uid": "1.1", "patient": "p2"}],
            [None, None],
            1,
        ),
        # Another patient's report.
        (["A,1.1,p2,x"], [{**A, "patient": "p1"}], [None], 1),
        (["A,1.1,p1,x"], [{**A, "patient": "p1"}], ["x"], 0),
        (["A,,p1,x"], [{**A, "patient": "p1"}, {**B, "accession": "A", "patient": "p2"}],
         ["x", None], 0),
        # Two reports on one study that say different things, and the same twice.
        (["A,,,x", ",1.1,,y"], [A], [None], 2),
        (["A,,,x", ",1.1,,x"], [A], ["x"], 0),
    ],
)  # fmt: skip
def test_conflicts_are_joined_to_nothing(root, rows, claims, texts, conflicts):
    (root / "r.csv").write_text("\n".join(["accession,study_uid,patient,text", *rows]))
    for order in (claims, claims[::-1]):
        found = Joined(root, order, "r.csv")
        expected = texts if order is claims else texts[::-1]
        assert found.texts == expected
        assert found.codes.count("pair_conflict") == conflicts


@pytest.mark.parametrize(
    ("rows", "text", "flags"),
    [
        (["preliminary,,,old", "final,,,new"], "new", []),
        (["P,,,old"], "old", ["preliminary_report"]),
        (["final,,,old", "corrected,,,new"], "new", []),
        (["entered-in-error,,,wrong", "F,,,right"], "right", []),
        (["final,,,wrong", "entered-in-error,,,wrong"], None, ["no_text"]),
        (["final,1,,old", "final,2,,new"], "new", []),
        (["final,10,,new", "final,9,,old"], "new", []),
        (["final,,2020-01-02,new", "final,,2020-01-01,old"], "new", []),
        (["final,,20200102103000,new", "final,,01.01.2020 23:00,old"], "new", []),
        (["final,1,,one", "final,1,,two"], None, ["no_text"]),
        (["final,,01/02/2020,one", "final,,02/01/2020,two"], None, ["no_text"]),
        (["corrected,,,one", "corrected,,,two"], None, ["no_text"]),
        (["amended,1,,new", "final,2,,newer"], "newer", []),
        (["final,,,base", "addendum,,,more"], "base\n\nADDENDUM:\nmore", []),
        (["addendum,2,,last", "addendum,1,,more", "final,,,base"],
         "base\n\nADDENDUM:\nmore\n\nADDENDUM:\nlast", []),
        (["final,,,base", "addendum,,,Addendum: more"], "base\n\nAddendum: more", []),
        (["final,,,base", "appended,,,base and more"], "base and more", []),
        (["inpatient,,,text"], "text", ["unknown_report_status"]),
        (["registered,,,nothing yet"], None, ["no_text"]),
    ],
)  # fmt: skip
def test_which_version_counts(root, rows, text, flags):
    head = "accession,stand,version,issued,text"
    for order in (rows, rows[::-1]):
        (root / "r.csv").write_text("\n".join([head, *(f"A,{row}" for row in order)]))
        found = Joined(root, keys("A"), "r.csv", columns=Columns(status="stand"))
        assert found.texts == [text]
        assert found.flags == [flags]


def test_an_addendum_is_a_section_under_headings_of_any_language(root):
    (root / "de.yaml").write_text("findings: [Befund]")
    (root / "r.csv").write_text("accession,status,text\nA,,Befund: frei\nA,addendum,doch nicht\n")
    intake = intake_for(root, reports="r.csv", headings=str(root / "de.yaml"))
    index = load_reports(intake)
    sample = intake.accept([root / "x.dcm"], kind="dicom", patient="p", sha256="0" * 64)
    index.attach(sample, accession="A")
    rows = intake.finish()[0]["texts"]
    assert [r["source"] for r in rows if r["level"] == "section"] == ["findings", "addendum"]


def test_a_superseded_file_is_set_aside(root):
    (root / "r").mkdir()
    report = {"resourceType": "DiagnosticReport", "id": "r", "identifier": [{"value": "A"}]}
    for name, status in (("1", "preliminary"), ("2", "final")):
        content = {**report, "status": status, "conclusion": status, "issued": f"2020-01-0{name}"}
        (root / "r" / f"{name}.json").write_text(json.dumps(content))
    found = Joined(root, keys("A"), "r")
    assert found.texts == ["CONCLUSION:\nfinal"]
    assert found.codes == ["superseded_report"]
    assert found.info["notes"] == {"superseded_reports": 1}


def test_a_file_without_a_report_is_the_users_mistake(root):
    (root / "r.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no report"):
        load_reports(intake_for(root, reports="r.json"))


OPEN_I = (
    '<eCitation><uId id="CXR7"/><MedlineCitation><Article><Abstract>'
    '<AbstractText Label="FINDINGS">Clear.</AbstractText>'
    '<AbstractText Label="IMPRESSION"/></Abstract></Article></MedlineCitation></eCitation>'
)


def test_open_i_files_go_by_their_id(root):
    (root / "x.xml").write_text(OPEN_I)
    assert Joined(root, keys("CXR7"), told(root / "x.xml")).texts == ["FINDINGS: Clear."]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + OPEN_I.encode(), "xml_doctype"),
        (f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x>{OPEN_I}'.encode("utf-16"),
         "xml_doctype"),
        (b"<a>" * 100_000, "depth"),
        (OPEN_I.encode()[:-3], "xml_syntax"),
        (b"<a/>", "not_open_i"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "xml_syntax"),
    ],
)  # fmt: skip
def test_bad_xml_is_refused(root, content, code):
    (root / "x.xml").write_bytes(content)
    with pytest.raises(Reject) as refused:
        told(root / "x.xml")
    assert refused.value.code == code
