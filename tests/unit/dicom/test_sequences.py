from contextlib import suppress

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from medvlp.archive.dicom.sequences import items_of
from medvlp.archive.dicom.values import Fields
from medvlp.archive.verdict import Reject

TAG = BaseTag(0x52009230)  # PerFrameFunctionalGroupsSequence


def inner(undefined, **elements):
    ds = Dataset()
    ds.is_undefined_length_sequence_item = undefined
    for name, value in elements.items():
        setattr(ds, name, value)
        ds[name].is_undefined_length = undefined and ds[name].VR == "SQ"
    return ds


def frame(k, undefined):
    position = inner(undefined, ImagePositionPatient=[1.5, -2, k])
    content = inner(undefined, DimensionIndexValues=[1, k], TemporalPositionIndex=k)
    deep = inner(undefined, PlanePositionSequence=[position], FrameContentSequence=[content])
    return inner(
        undefined,
        PlanePositionSequence=[position, position],
        FrameContentSequence=[],
        ReferencedImageSequence=[deep],
        FrameType=["ORIGINAL", "PRIMARY"],
        LongitudinalTemporalOffsetFromEvent=0.25,
    )


def sequence(frames, implicit, little):
    fp = DicomBytesIO()
    fp.is_implicit_VR, fp.is_little_endian = implicit, little
    element = pydicom.DataElement(TAG, "SQ", Sequence(frames))
    write_sequence(fp, element, ["iso8859"])
    data = fp.getvalue()
    return RawDataElement(TAG, None if implicit else "SQ", len(data), data, 0, implicit, little)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_items_are_those_that_pydicom_reads(undefined, implicit, little):
    frames = [frame(k, undefined) for k in range(3)]
    raw = sequence(frames, implicit, little)
    found = items_of(raw)
    assert found == frames  # compares converted values, all the way down
    fields = Fields(Dataset({TAG: raw}))
    items = fields.items("PerFrameFunctionalGroupsSequence")
    assert [i.items("PlanePositionSequence")[1].finite("ImagePositionPatient", 3) for i in items]
    deep = [i.items("ReferencedImageSequence")[0].items("FrameContentSequence")[0] for i in items]
    assert [d.words("DimensionIndexValues") for d in deep] == ["1\\0", "1\\1", "1\\2"]
    assert [d.words("TemporalPositionIndex") for d in deep] == ["0", "1", "2"]
    assert items[0].words("FrameType") == "ORIGINAL\\PRIMARY"
    assert items[0].words("LongitudinalTemporalOffsetFromEvent") == "0.25"
    assert len(items[0].items("FrameContentSequence")) == 0


def test_a_sequence_of_unknown_vr_is_in_implicit_vr():
    raw = sequence([frame(1, True)], True, True)
    unknown = raw._replace(VR="UN", length=0xFFFFFFFF, is_implicit_VR=False)
    assert items_of(unknown) == [frame(1, True)]


def test_every_cut_and_every_flip_is_a_verdict_or_items():
    raw = sequence([frame(1, True), frame(2, False)], False, True)
    data = raw.value
    for k in range(len(data)):
        for changed in (data[:k], data[:k] + bytes([data[k] ^ 0xFF]) + data[k + 1 :]):
            with suppress(Reject):
                assert all(isinstance(i, Dataset) for i in items_of(raw._replace(value=changed)))


def test_nesting_has_an_end():
    opened = b"\x30\x92\x00\x52SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    item = opened[12:]
    with pytest.raises(Reject, match="depth"):
        items_of(RawDataElement(TAG, "SQ", 0, item + opened * 5000, 0, False, True))
