import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    XRayRadiationDoseSRStorage,
)

from medvlp.archive.text.report_files import read_report_file
from medvlp.archive.verdict import Ignore, Reject


def code(meaning, value="1", scheme="DCM"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def item(kind, name, relationship="CONTAINS", children=(), **values):
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = relationship, kind
    if name:
        ds.ConceptNameCodeSequence = code(name)
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    if children:
        ds.ContentSequence = list(children)
    return ds


def text(name, words, **more):
    return item("TEXT", name, TextValue=words, **more)


def number(name, value, unit):
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = code("unit", unit, "UCUM")
    return item("NUM", name, MeasuredValueSequence=[measured])


def report(*children, storage=BasicTextSRStorage, **values):
    ds = item("CONTAINER", "Diagnostic Imaging Report", children=children)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = storage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.9"
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.Modality = "SR"
    ds.StudyInstanceUID, ds.AccessionNumber = "1.2.3", "A1"
    ds.PatientID, ds.PatientName = "MRN1", "Doe^Jane"
    ds.ContentDate, ds.ContentTime = "20200102", "103000"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "VERIFIED"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.fixture
def told(tmp_path):
    def read(ds):
        path = tmp_path / "report.dcm"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        return read_report_file((path,)).documents[0]

    return read


def test_the_tree_in_reading_order(told):
    ds = report(
        item("CODE", "Language", "HAS CONCEPT MOD", ConceptCodeSequence=code("English")),
        item("PNAME", "Person Observer Name", "HAS OBS CONTEXT", PersonName="Roe^Richard"),
        item("CONTAINER", "Findings", children=[
            text("Finding", "Größe unverändert."),
            item("CONTAINER", "Right lung", children=[
                item("CODE", "Finding", ConceptCodeSequence=code("Nodule"), children=[
                    number("Diameter", "3.5", "cm"), number("Count", "2", "{nodules}")]),
                item("IMAGE", "Source"),
            ]),
        ]),
        item("CONTAINER", "Conclusions", children=[text("Conclusion", "One nodule.")]),
        text("Recommendation", "Follow-up."),
    )  # fmt: skip
    document = told(ds)
    assert document.text.split("\n") == [
        "",
        "Findings:",
        "Größe unverändert.",
        "",
        "Right lung:",
        "Finding: Nodule",
        "Diameter: 3.5 cm",
        "Count: 2",
        "",
        "Conclusions:",
        "One nodule.",
        "Recommendation: Follow-up.",
    ]
    assert (document.accessions, document.study_uids) == (("A1",), ("1.2.3",))
    assert document.patients == ("MRN1",)
    assert {"Doe", "Jane", "Roe", "Richard", "MRN1"} <= set(document.identifiers)
    assert document.issued == 1577961000
    assert (document.status, document.report, document.replaces) == ("final", "1.2.3.9", ())


def test_requests_name_further_studies(told):
    request = Dataset()
    request.AccessionNumber, request.StudyInstanceUID = "A2", "1.2.4"
    document = told(report(text("Finding", "x"), ReferencedRequestSequence=[request]))
    assert (document.accessions, document.study_uids) == (("A1", "A2"), ("1.2.3", "1.2.4"))


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"CompletionFlag": "PARTIAL"}, "preliminary"),
        ({"VerificationFlag": "UNVERIFIED"}, "preliminary"),
        ({"PreliminaryFlag": "PRELIMINARY"}, "preliminary"),
        ({"PreliminaryFlag": "FINAL"}, "final"),
    ],
)
def test_status(told, values, status):
    assert told(report(text("Finding", "x"), storage=EnhancedSRStorage, **values)).status == status


def test_predecessors_are_replaced(told):
    one, series, study = Dataset(), Dataset(), Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = BasicTextSRStorage, "1.2.3.8"
    series.ReferencedSOPSequence, series.SeriesInstanceUID = [one], "1.2.3.1"
    study.ReferencedSeriesSequence, study.StudyInstanceUID = [series], "1.2.3"
    document = told(report(text("Finding", "x"), PredecessorDocumentsSequence=[study]))
    assert document.replaces == ("1.2.3.8",)


@pytest.mark.parametrize(
    "ds",
    [
        report(text("Finding", "x"), storage=XRayRadiationDoseSRStorage),
        report(number("Diameter", "3", "mm")),
        report(),
    ],
)
def test_what_tells_nothing_in_words_is_no_report(told, ds):
    with pytest.raises(Ignore, match="not_a_report"):
        told(ds)


def nested(levels):
    tree = text("Finding", "x")
    for _ in range(levels):
        tree = item("CONTAINER", "Findings", children=[tree])
    return tree


@pytest.mark.parametrize(
    ("children", "refused"),
    [
        ([nested(70)], "depth"),
        ([text("Finding", "x" * 600_000), text("Finding", "x" * 600_000)], "text_too_large"),
        ([text("Finding", " "), item("CODE", "Finding")], None),
        ([text("Finding", "clear"), text("Finding", "a\0b" * 9)], "text_encoding"),
    ],
)
def test_bad_trees_are_refused(told, children, refused):
    with pytest.raises(Reject if refused else Ignore, match=refused):
        told(report(*children))
