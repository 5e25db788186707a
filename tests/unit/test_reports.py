import base64
import json
import zipfile
from pathlib import Path

import polars as pl
import pytest

from medvlp.archive.intake import Intake
from medvlp.archive.options import Columns, IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.tables.tablefile import open_table
from medvlp.archive.text.report_files import read_report_file
from medvlp.archive.text.reports import ReportIndex, load_reports
from medvlp.archive.verdict import Ignore, Reject
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
    return Intake(root, IndexConfig(**config, workers=1), Pseudonyms(bytes(32)), "cxr")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


class Joined:
    """What becomes of claims, one dummy image each, on an option's reports or on documents."""

    def __init__(self, root, claims, reports, **config):
        for i in range(len(claims)):
            (root / f"image{i:02d}.dcm").write_bytes(b"image %d" % i)
        named = isinstance(reports, str | Path)
        intake = intake_for(root, reports=str(reports) if named else None, **config)
        index = load_reports(intake) if named else ReportIndex(intake)
        for number, document in enumerate([] if named else reports, start=1):
            index.add(document, root / "r", number)
        images = sorted(p for p in intake.files() if p.name.startswith("image"))
        samples = []
        for path, claim in zip(images, claims, strict=True):
            samples.append(intake.accept([path], kind="dicom", patient=claim.get("patient", "p")))
            index.attach(samples[-1], **claim)
        tables, _, self.info, _ = intake.finish()
        texts = {r["sample"]: r["text"] for r in tables["texts"] if r["level"] == "report"}
        self.texts = [texts.get(sample) for sample in samples]
        flags = {r["sample"]: r["flags"] for r in tables["samples"]}
        self.flags = [flags[sample] for sample in samples]
        self.codes = sorted(row["code"] for row in tables["rejects"])
        self.stages = {row["stage"] for row in tables["rejects"]}


def told(path):
    """The documents in a file, read in this process."""
    return read_report_file((path,)).documents


def keys(*accessions):
    return [{"accession": accession} for accession in accessions]


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


ACSN = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}


def attachment(text, kind="text/plain", encoding="utf-8"):
    return {"contentType": kind, "data": base64.b64encode(text.encode(encoding)).decode()}


def fhir(**fields):
    return {"resourceType": "DiagnosticReport", "status": "final", **fields}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"presentedForm": [attachment("Größe: 3 cm\r\nEnde")]}, "Größe: 3 cm\nEnde"),
        ({"presentedForm": [attachment("Größe", "text/plain; charset=iso-8859-1", "latin-1")]},
         "Größe"),
        ({"presentedForm": [attachment("<p>a &amp; b<br/>c</p><script>x</script>", "text/html")]},
         "a & b\nc"),
        ({"presentedForm": [{"contentType": "application/pdf", "data": "JVBERi0="}],
          "conclusion": "c"}, "CONCLUSION:\nc"),
        ({"text": {"div": "<div><h1>FINDINGS</h1><p>Clear   lungs</p></div>"},
          "conclusion": "Normal."}, "FINDINGS\n\nClear lungs\n\nCONCLUSION:\nNormal."),
        ({"text": {"div": "<div>All of it. Normal.</div>"}, "conclusion": "normal."},
         "All of it. Normal."),
    ],
)  # fmt: skip
def test_the_words_of_a_fhir_report(root, fields, text):
    (root / "r.json").write_text(json.dumps(fhir(identifier=[{"value": "A"}], **fields)))
    assert [document.text for document in told(root / "r.json")] == [text]


@pytest.mark.parametrize(
    ("fields", "claim", "joined"),
    [
        ({"basedOn": [{"identifier": {"value": "A"}}]}, {"accession": "A"}, True),
        ({"basedOn": [{"reference": "ServiceRequest/o"}]}, {"accession": "A"}, True),
        ({"identifier": [{"type": ACSN, "value": "A"}]}, {"accession": "A"}, True),
        ({"identifier": [{"type": {"coding": [{"code": "PLAC"}]}, "value": "A"}]},
         {"accession": "A"}, None),
        ({"imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2"}}]},
         {"study_uid": "1.2", "accession": "A"}, True),
        ({"imagingStudy": [{"reference": "urn:uuid:s"}]}, {"study_uid": "1.2"}, True),
        ({"study": [{"reference": "#inside"}]}, {"study_uid": "1.3"}, True),
        ({"identifier": [{"type": ACSN, "value": "A"}], "imagingStudy": [{"reference": "#inside"}]},
         {"accession": "A", "study_uid": "1.2"}, False),
        ({"identifier": [{"value": "A"}], "subject": {"reference": "Patient/p"}},
         {"accession": "A", "patient": "MRN1"}, True),
        ({"identifier": [{"value": "A"}], "subject": {"reference": "Patient/p"}},
         {"accession": "A", "patient": "MRN2"}, False),
    ],
)  # fmt: skip
def test_what_a_fhir_report_belongs_to(root, fields, claim, joined):
    inside = {"resourceType": "ImagingStudy", "id": "inside", "identifier": [
        {"system": "urn:dicom:uid", "value": "urn:oid:1.3"}]}  # fmt: skip
    entries = [
        {"resource": fhir(conclusion="Doe has a cold.", contained=[inside], **fields)},
        {"resource": {"resourceType": "ServiceRequest", "id": "o", "identifier": [
            {"type": ACSN, "value": "A"}]}},
        {"fullUrl": "urn:uuid:s", "resource": {"resourceType": "ImagingStudy", "identifier": [
            {"system": "urn:dicom:uid", "value": "urn:oid:1.2"}]}},
        {"resource": {"resourceType": "Patient", "id": "p", "name": [
            {"family": "Doe", "given": ["Jane"]}], "identifier": [{"value": "MRN1"}]}},
    ]  # fmt: skip
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    (root / "bundle.json").write_text(json.dumps(bundle))
    found = Joined(root, [claim], told(root / "bundle.json"))
    name = "___" if "subject" in fields else "Doe"
    assert found.texts == [f"CONCLUSION:\n{name} has a cold." if joined else None]
    assert ("pair_conflict" in found.codes) == (joined is False)


def test_fhir_one_resource_a_line(root):
    lines = [
        json.dumps(fhir(id="1", identifier=[{"value": "A"}], conclusion="one")),
        "{broken",
        json.dumps({"resourceType": "Patient"}),
        "",
        json.dumps(fhir(id="2", identifier=[{"value": "B"}], conclusion=" ")),
        json.dumps(fhir(id="3", identifier=[{"value": "C"}], conclusion="three")),
    ]
    (root / "r.ndjson").write_text("\n".join(lines))
    found = Joined(root, keys("A", "B", "C"), "r.ndjson")
    assert found.texts == ["CONCLUSION:\none", None, "CONCLUSION:\nthree"]
    assert found.codes == ["bad_json", "empty_report"]
    assert found.stages == {"row"}


def test_versions_of_one_fhir_report(root):
    def version(status, issued, words, name="r"):
        identifier = [{"value": "A"}]
        return fhir(id=name, status=status, issued=issued, conclusion=words, identifier=identifier)

    first = version("final", "2020-01-01T10:00:00Z", "first")
    other = version("final", "2020-01-03T10:00:00Z", "other", "s")
    cases = [
        ([first, version("final", "2020-01-01T10:00:00+01:00", "earlier")], "first"),
        ([first, version("appended", "2020-01-02T10:00:00Z", "first and more")], "first and more"),
        ([first, version("entered-in-error", "2020-01-02T10:00:00Z", "")], None),
        ([first, version("entered-in-error", "2020-01-02T10:00:00Z", "", "s")], "first"),
        ([first, other], None),  # two reports, not two versions
        ([first, {**other, "status": "amended"}], "other"),
    ]
    for resources, words in cases:
        (root / "r.json").write_text(json.dumps(resources))
        found = Joined(root, keys("A"), told(root / "r.json"))
        assert found.texts == [f"CONCLUSION:\n{words}" if words else None]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("[" * 100_000, "depth"),
        ('{"a":' * 65 + "1" + "}" * 65, "depth"),
        ("{", "bad_json"),
        ('{"resourceType": "DiagnosticReport", "id": "\\ud800"}', "text_encoding"),
        ('{"resourceType": "DiagnosticReport", "identifier": [{"value": "A"}]}', "empty_report"),
        (json.dumps(fhir(presentedForm=[{"contentType": "text/plain", "data": "#"}])),
         "bad_json"),
        (json.dumps(fhir(conclusion="x" * (1 << 20))), "text_too_large"),
    ],
)  # fmt: skip
def test_bad_json_is_refused(root, content, code):
    (root / "r.json").write_text(content)
    with pytest.raises(Reject) as refused:
        told(root / "r.json")
    assert refused.value.code == code


def test_a_report_without_a_key_is_listed(root):
    (root / "r.json").write_text(json.dumps(fhir(conclusion="x")))
    assert Joined(root, keys("A"), "r.json").codes == ["no_key"]


def test_a_file_without_a_report_is_the_users_mistake(root):
    (root / "r.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no report"):
        load_reports(intake_for(root, reports="r.json"))


@pytest.mark.parametrize("content", ["[]", '{"name": "BIDS"}', "3", '"x"', "null"])
def test_json_that_is_no_report_is_left_alone(root, content):
    (root / "r.json").write_text(content)
    with pytest.raises(Ignore):
        told(root / "r.json")


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
