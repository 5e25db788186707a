"""Values by keyword: strict numbers, no mojibake, wrong types put right or refused."""

import struct

import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from medvlp.archive.dicom.frames import frames_of, joined
from medvlp.archive.dicom.streams import rle_length
from medvlp.archive.dicom.values import Fields
from medvlp.archive.verdict import Reject


def fields(**elements: tuple[str, bytes]) -> Fields:
    raw = {}
    for keyword, (vr, value) in elements.items():
        tag = BaseTag(tag_for_keyword(keyword))
        raw[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return Fields(Dataset(raw))


@pytest.mark.parametrize(
    ("value", "numbers"),
    [(b"1", (1.0,)), (b" -.5 ", (-0.5,)), (b"1e2\\+3.", (100.0, 3.0)), (b"\0", None), (b"", None)],
)
def test_decimal_strings(value, numbers):
    assert fields(PixelSpacing=("DS", value)).numbers("PixelSpacing") == numbers


@pytest.mark.parametrize("value", [b"1,5", b"1_0", b"0x1", b"one", b"1\\", b"1 2", b"\xb2", b"--1"])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(Reject, match="bad_number"):
        fields(PixelSpacing=("DS", value)).numbers("PixelSpacing")


def test_a_wrong_type_is_read_by_what_it_holds_and_flagged():
    signed = fields(Rows=("SS", struct.pack("<h", -1)))
    assert signed.integer("Rows", None, "x") == 65535
    long = fields(Rows=("UL", struct.pack("<I", 70000)))
    assert long.integer("Rows", None, "x") == 70000
    assert "wrong_vr" in signed.flags
    assert "wrong_vr" in long.flags
    right = fields(Rows=("US", struct.pack("<H", 512)))
    assert right.integer("Rows", None, "x") == 512
    assert not right.flags


def test_text_is_decoded_or_unknown():
    utf8 = {"SpecificCharacterSet": ("CS", b"ISO_IR 192")}
    assert fields(**utf8, PatientID=("LO", "Ä1 ".encode())).text("PatientID") == "Ä1"
    broken = fields(**utf8, PatientID=("LO", b"\xc4\x31"))
    assert broken.text("PatientID") == ""
    assert "charset" in broken.flags
    ascii_only = fields(SpecificCharacterSet=("CS", b"ISO_IR 999"), PatientID=("LO", b"A1"))
    assert ascii_only.text("PatientID") == "A1"


def test_frames_come_from_offsets_or_from_the_fragments_themselves():
    parts = [b"\xff\xd8aa", b"bb", b"\xff\xd8cc", b"dd"]
    value = joined(parts)
    jpeg = "1.2.840.10008.1.2.4.50"
    whole, flags = frames_of(value, 1, jpeg)
    assert (whole, flags) == ([b"".join(parts)], ())
    two, flags = frames_of(value, 2, jpeg)
    assert (two, flags) == ([b"\xff\xd8aabb", b"\xff\xd8ccdd"], ())
    four, flags = frames_of(value, 4, jpeg, (0, 1, 2, 3))
    assert (four, flags) == (parts, ("offset_table",))
    with pytest.raises(Reject, match="fragment_count"):
        frames_of(value, 3, jpeg)
    with pytest.raises(Reject, match="fragment_count"):
        frames_of(value, 5, jpeg)


@pytest.mark.parametrize(
    ("segment", "length"),
    [(b"\x02abc", 3), (b"\xfea", 3), (b"\x80\x00a", 1), (b"\x05ab", 2), (b"\xfe", 0), (b"", 0)],
)
def test_the_length_of_a_packed_segment_is_counted_as_the_standard_unpacks_it(segment, length):
    assert rle_length(segment, 100) == length
