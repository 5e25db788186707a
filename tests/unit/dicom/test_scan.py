import hashlib

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from medvlp.archive.dicom.scan import Scan, scan_file, scanning
from medvlp.archive.stage import answer
from medvlp.archive.stage.child import Children
from medvlp.archive.verdict import Ignore, Reject, Verdict

UNITS = {"CT": "series", "DX": "file"}
XRAY = {
    "Modality": "DX",
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
    "RescaleSlope": None,
    "RescaleIntercept": None,
    "PixelRepresentation": 0,
}


def test_an_xray_that_does_not_decode_is_refused_while_indexing(dicom):
    with pytest.raises(Reject) as verdict:
        scan_file([dicom(PhotometricInterpretation="PALETTE COLOR", **XRAY)], units=UNITS)
    assert verdict.value.code == "palette"


def test_a_slice_that_does_not_decode_is_refused_while_indexing(dicom):
    path = dicom(pixels=np.arange(64, dtype=np.int16).reshape(8, 8))
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.PixelData = encapsulate([b"\0" * 64])
    dataset.save_as(path)
    with pytest.raises(Reject):
        scan_file([path], units=UNITS)


def test_a_flat_xray_is_flagged(dicom):
    scan = scan_file([dicom(pixels=np.full((8, 7), 9, np.uint16), **XRAY)], units=UNITS)
    assert scan.flags == ("no_information",)


def test_modalities_that_nobody_reads_are_not_decoded(dicom):
    path = dicom(Modality="MR", PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(Ignore) as verdict:
        scan_file([path], units=UNITS)
    assert verdict.value.code == "other_modality"


def test_the_facts_are_those_of_the_pixels(dicom):
    pixels = np.array([[-5, 0, 3], [7, 100, 2000]], np.int16)
    scan = scan_file([dicom("a", pixels, RescaleSlope=-2, RescaleIntercept=10)], units=UNITS)
    assert (scan.pixels.low, scan.pixels.high) == (-3990, 20)
    assert scan.sha256 == hashlib.sha256(scan.header.path.read_bytes()).hexdigest()


def test_equal_pixels_have_one_digest_whatever_surrounds_and_compresses_them(dicom):
    pixels = np.arange(30, dtype=np.int16).reshape(6, 5)

    def digest(name, pixels=pixels, **elements):
        return scan_file([dicom(name, pixels, **elements)], units=UNITS).pixels.digest

    plain = digest("a")
    assert digest("b", PatientID="other", SeriesInstanceUID="1.2.3") == plain
    packed = dicom("c", pixels)
    dataset = dcmread(packed)
    dataset.compress(RLELossless)
    dataset.save_as(packed)
    assert scan_file([packed], units=UNITS).pixels.digest == plain
    assert digest("d", pixels.reshape(5, 6)) != plain
    assert digest("e", pixels + np.eye(6, 5, dtype=np.int16)) != plain


def test_every_frame_counts_with_its_own_rescale(dicom):
    pixels = np.stack([np.full((4, 5), value, np.int16) for value in (1, 2, 3)])
    path = dicom("a", pixels, NumberOfFrames=3, RescaleSlope=10, RescaleIntercept=-1)
    scan = scan_file([path], units=UNITS)
    assert (scan.pixels.low, scan.pixels.high) == (9, 29)


def test_values_that_no_float_holds_are_refused(dicom):
    pixels = np.full((4, 5), 2**31, np.uint32)
    elements = {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31, "PixelRepresentation": 0}
    with pytest.raises(Reject) as verdict:
        scan_file([dicom("a", pixels, RescaleSlope="9e29", **elements)], units=UNITS)
    assert verdict.value.code == "nonfinite_rescale"


def test_a_scan_survives_its_way_through_a_process(dicom, series):
    paths = [dicom("xray.dcm", **XRAY), *series([(0, 0, 0.1), (0, 0, 1 / 3)])]
    with Children(1) as children:
        found = dict(children.run(scanning(UNITS), [(path,) for path in paths]))
    for path in paths:
        assert found[(path,)] == scan_file([path], units=UNITS)
        assert answer.parse(answer.found(found[(path,)]), Scan) == found[(path,)]


@pytest.mark.slow
def test_a_decoder_that_takes_its_process_down_costs_one_file(shared, tmp_path):
    folder = shared / "data/dicom2nifti-awkward/generic/compressed_jpeg"
    files = sorted(folder.rglob("*.dcm"))
    data = bytearray(files[0].read_bytes())
    # The frame header now claims 255 bits a sample, on which GDCM 3.2 ends the process.
    data[data.index(b"\xff\xd8\xff") + 6] = 0xFF
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(data)
    items = [(files[0],), (bad,), (files[1],)]
    with Children(1) as children:
        found = dict(children.run(scanning({"MR": "file"}), items))
    assert [isinstance(found[item], Verdict) for item in items] == [False, True, False]
    # Whichever way this build of the decoder fails.
    assert found[(bad,)].code in ("decoder_crash", "codec")


def test_a_fingerprint_is_made_only_where_copies_are_looked_for(dicom):
    pixels = np.random.default_rng(0).integers(0, 1000, (80, 70), dtype=np.int16)
    path = dicom("one.dcm", pixels)
    assert scan_file([path], units=UNITS).pixels.fingerprint
    without = scan_file([path], units=UNITS, fingerprints=False)
    assert without.pixels.fingerprint == ""
    assert without.pixels.digest == scan_file([path], units=UNITS).pixels.digest
