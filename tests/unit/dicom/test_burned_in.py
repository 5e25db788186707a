import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from medvlp.archive.dicom.burned_in import burned_in_flags
from medvlp.archive.dicom.files import read_header
from medvlp.archive.options import IndexConfig
from medvlp.archive.verdict import Reject


@pytest.mark.parametrize(
    ("elements", "tag"),
    [
        ({"BurnedInAnnotation": "YES"}, "(0028,0301)"),
        ({"BurnedInAnnotation": "UNKNOWN"}, "(0028,0301)"),
        *(
            ({"Modality": m, "BurnedInAnnotation": "NO"}, "(0008,0060)")
            for m in ("US", "ES", "XC", "OT", "HC", "FD", "SC", "GM")
        ),
        *(({"ConversionType": c}, "(0008,0064)") for c in ("WSD", "DF", "SI", "DI", "DV")),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "(0008,0008)"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "(0008,0008)"),
        ({"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "(0008,0008)"),
    ],
)
def test_pictures_of_a_risk_class_are_held_until_allowed(dicom, elements, tag):
    header = read_header(dicom(**elements))
    with pytest.raises(Reject) as caught:
        burned_in_flags(header, IndexConfig().burned_in)
    assert (caught.value.code, caught.value.message) == ("burned_in_risk", tag)
    assert burned_in_flags(header, "allow") == ("burned_in_allowed",)


def test_safe_classes_pass_and_say_whether_they_stated_it(dicom):
    assert burned_in_flags(read_header(dicom(BurnedInAnnotation="NO")), "hold") == ()
    assert burned_in_flags(read_header(dicom()), "hold") == ("burned_in_unstated",)
