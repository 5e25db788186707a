import datetime as dt
import math

import pytest

from medvlp.archive.dicom.files import may_be_dicom, read_header
from medvlp.archive.verdict import Ignore, Reject


def test_a_header_is_typed_and_its_identifiers_are_kept_apart(dicom):
    header = read_header(dicom(ViewPosition="AP SUPINE", Laterality="L", Manufacturer="M"))
    assert (header.modality, header.rows, header.columns, header.frames) == ("CT", 6, 5, 1)
    assert header.planes[0].spacing == (0.5, 0.75)
    assert header.acquired == dt.date(2020, 2, 29)
    assert header.age_years == 45
    assert (header.view, header.laterality, header.scanner) == ("AP", "L", "M")
    assert {"Canary^Nightingale", "ACC7", "20200229"} <= set(header.known)


@pytest.mark.parametrize(
    ("stated", "view"),
    [
        ("PA", "PA"),
        ("LL", "LATERAL"),
        ("LATERAL", "LATERAL"),
        ("RAO", "OBLIQUE"),
        ("AP LLD", "AP"),
        ("XTABLE LATERAL", "LATERAL"),
        ("ODD", ""),
        (None, ""),
    ],
)
def test_views_are_few_words(dicom, stated, view):
    assert read_header(dicom(ViewPosition=stated)).view == view


def test_stripped_identifiers_and_modality_are_tolerated(dicom):
    path = dicom(
        Modality=None, StudyInstanceUID="", SeriesInstanceUID=None, PatientID=None, StudyDate=""
    )
    header = read_header(path)
    assert header.modality == "CT"  # from the storage class
    assert (header.study, header.series, header.patient, header.acquired) == ("", "", "", None)
    bare = {"Modality": None, "SOPClassUID": ""}
    concluded = read_header(dicom("b.dcm", **bare))
    assert concluded.modality == "CT"  # placed in the patient, air at -1024
    assert "modality_inferred" in concluded.flags
    assert read_header(dicom("c.dcm", EchoTime=90, **bare)).modality == "MR"
    assert read_header(dicom("d.dcm", ImagePositionPatient=None, **bare)).modality == ""


def test_age_falls_back_to_dates(dicom):
    header = read_header(dicom(PatientAge=None, PatientBirthDate="19600229"))
    assert header.age_years == pytest.approx(60, abs=0.01)
    assert read_header(dicom(PatientAge="006M", PatientBirthDate="")).age_years == 0.5


@pytest.mark.filterwarnings("ignore")  # writing bad values makes pydicom warn
@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"RescaleSlope": "NaN"}, "nonfinite_rescale"),
        ({"RescaleSlope": "Inf"}, "nonfinite_rescale"),
        ({"RescaleSlope": "1e308"}, "nonfinite_rescale"),
        ({"RescaleSlope": 0}, "zero_slope"),
        ({"RescaleSlope": ""}, "bad_number"),
        ({"StudyInstanceUID": "../../etc/passwd"}, "bad_uid"),
        ({"SeriesInstanceUID": "1." * 102 + "1"}, "bad_uid"),
        ({"Rows": 0}, "bad_dims"),
        ({"NumberOfFrames": -1}, "bad_dims"),
        ({"BitsAllocated": 7}, "bad_bits"),
        ({"BitsStored": 20}, "bad_bits"),
        ({"HighBit": 9}, "high_bit"),
        ({"PixelRepresentation": 7}, "pixel_module"),
        ({"SamplesPerPixel": 2}, "pixel_module"),
        ({"PhotometricInterpretation": None}, "pixel_module"),
        ({"ImagePositionPatient": [0, 0]}, "vm"),
    ],
)
def test_a_field_that_decides_the_meaning_is_refused_by_code(dicom, elements, code):
    with pytest.raises(Reject) as verdict:
        read_header(dicom(**elements))
    assert verdict.value.code == code


def test_verdicts_never_quote_values(dicom):
    data = dicom().read_bytes().replace(b"-1024", b"1,CAN")
    path = dicom("b.dcm")
    path.write_bytes(data)
    with pytest.raises(Reject) as verdict:
        read_header(path)
    assert verdict.value.code == "bad_number"
    assert "CAN" not in f"{verdict.value}{verdict.value.__cause__}"
    assert verdict.value.message == "(0028,1052)"


def test_what_is_no_dicom_is_named_so(tmp_path):
    for name, data in (("a.dcm", b""), ("b.dcm", b"x" * 100), ("c.dcm", b"Dear colleague" * 40)):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(Reject, match="not_dicom"):
            read_header(path)
    with pytest.raises(Reject, match="unreadable"):
        read_header(tmp_path / "absent.dcm")


def test_a_header_cut_off_is_refused(dicom):
    path = dicom()
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"Canary") + 3])
    with pytest.raises(Reject, match="truncated_header"):
        read_header(path)


def test_sequences_nested_without_end_are_refused(dicom):
    path = dicom(pixel_bytes=None)
    item = b"\x40\x00\x75\xa0SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(path.read_bytes() + item * 20_000)
    with pytest.raises(Reject, match="depth"):
        read_header(path)


def test_files_without_an_image_are_set_aside(dicom):
    path = dicom(Rows=None, Columns=None, pixel_bytes=None, Modality="SR")
    with pytest.raises(Ignore, match="no_pixels"):
        read_header(path)


def test_names_that_promise_dicom(tmp_path):
    promising = ["a.dcm", "IM000001", "1.2.840.113", "B.DCM", "scan.ima"]
    assert all(may_be_dicom(tmp_path / name) for name in promising)
    assert not any(may_be_dicom(tmp_path / name) for name in ["a.txt", "a.csv", "a.png"])


def test_zero_frames_are_read_as_one_and_flagged(dicom):
    header = read_header(dicom(NumberOfFrames=0))
    assert header.frames == 1
    assert header.flags == ("zero_frames",)


def test_planes_of_a_classic_file_carry_the_rescale(dicom):
    plane = read_header(dicom(RescaleSlope="2.5", RescaleIntercept="-3")).planes[0]
    assert math.isclose(plane.slope, 2.5)
    assert plane.intercept == -3


def test_raw_detector_images_are_flagged(dicom):
    assert read_header(dicom(PresentationIntentType="FOR PROCESSING")).flags == ("for_processing",)
    assert read_header(dicom("b.dcm", PresentationIntentType="FOR PRESENTATION")).flags == ()
