"""FHIR DiagnosticReports: their words, what they belong to, their versions, bad JSON."""

import base64
import json

import pytest
from joined import Joined, keys, told

from medvlp.archive.verdict import Ignore, Reject


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


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


@pytest.mark.parametrize("content", ["[]", '{"name": "BIDS"}', "3", '"x"', "null"])
def test_json_that_is_no_report_is_left_alone(root, content):
    (root / "r.json").write_text(content)
    with pytest.raises(Ignore):
        told(root / "r.json")
