import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medvlp.archive.dicom.files import read_image, read_planes
from medvlp.archive.verdict import Reject, Verdict

DX = {"RescaleSlope": None, "RescaleIntercept": None, "PixelRepresentation": 0}
RAMP = np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000


def test_16_bits_survive(dicom):
    np.testing.assert_array_equal(read_image(dicom(pixels=RAMP, **DX)), RAMP)


def test_signed_12_bits_extend_their_sign(dicom):
    stored = np.array([[-2048, -1, 0], [1, 100, 2047]], dtype=np.int16)
    path = dicom(pixels=stored & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_planes(path)[0], stored - 1024)


def test_bits_above_the_stored_ones_never_reach_the_pixels(dicom):
    values = np.arange(30, dtype=np.uint16).reshape(6, 5)
    path = dicom(pixels=values | 0xF000, BitsStored=12, HighBit=11, **DX)
    np.testing.assert_array_equal(read_image(path), values)


def test_monochrome1_is_inverted_once_and_its_lut_shape_does_not_invert_again(dicom):
    inverse = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    image = read_image(dicom(pixels=RAMP, **DX, **inverse))
    np.testing.assert_array_equal(image, RAMP.max() - RAMP.astype(np.float32))


def test_rescale_comes_before_the_window_and_the_window_clips(dicom):
    stored = np.arange(30, dtype=np.uint16).reshape(6, 5)
    image = read_image(
        dicom(
            pixels=stored,
            PixelRepresentation=0,
            RescaleSlope=10,
            RescaleIntercept=-50,
            WindowCenter=100,
            WindowWidth=101,
        )
    )
    rescaled = stored * 10.0 - 50
    low, high = 100 - 0.5 - 50, 100 - 0.5 + 50  # PS3.3 C.11.2.1.2.1
    expected = np.clip((rescaled - low) / (high - low), 0, 1)
    np.testing.assert_allclose((image - image.min()) / np.ptp(image), expected, atol=1e-6)


def test_a_window_without_width_is_left_out(dicom):
    image = read_image(dicom(pixels=RAMP, WindowCenter=5, WindowWidth=0, **DX))
    np.testing.assert_array_equal(image, RAMP)


def test_a_voi_lut_of_8_bit_entries_does_not_wrap(dicom):
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 8]
    lut.add_new(0x00283006, "OW", (np.arange(4096) // 16).astype("<u2").tobytes())
    stored = np.array([[0, 300, 4095], [256, 2000, 9999]], dtype=np.uint16)
    image = read_image(dicom(pixels=stored, VOILUTSequence=[lut], **DX))
    np.testing.assert_array_equal(image, [[0, 18, 255], [16, 125, 255]])


def test_colour_becomes_grey_in_an_xray_and_is_refused_in_a_volume(dicom):
    colour = np.zeros((4, 3, 3), dtype=np.uint8)
    colour[..., 1] = 100
    rgb = {
        "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7,
    }  # fmt: skip
    path = dicom(pixels=colour, **{**DX, **rgb})
    np.testing.assert_allclose(read_image(path), 58.7, rtol=1e-5)
    with pytest.raises(Reject, match="colour"):
        read_planes(path)


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"pixel_bytes": bytes(16)}, "declared_exceeds_bytes"),
        ({"pixel_bytes": None}, "pixel_module"),
        ({"NumberOfFrames": 3}, "declared_exceeds_bytes"),
        ({"Rows": 65535, "Columns": 65535}, "declared_exceeds_bytes"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
    ],
)
def test_sizes_are_checked_before_decoding(dicom, elements, code):
    with pytest.raises(Reject) as verdict:
        read_image(dicom(**elements))
    assert verdict.value.code == code


def test_several_frames_are_no_radiograph(dicom):
    path = dicom(pixels=np.zeros((2, 6, 5), np.int16), NumberOfFrames=2)
    with pytest.raises(Reject, match="multi_frame"):
        read_image(path)


@pytest.mark.parametrize(("cut", "code"), [(1, "truncated_pixels"), (40, "truncated_pixels")])
def test_missing_bytes_are_noticed(dicom, cut, code):
    path = dicom()
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(Reject, match=code):
        read_image(path)


def test_a_length_beyond_the_file_is_noticed(dicom):
    path = dicom()
    data = bytearray(path.read_bytes())
    data[-64:-60] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(Reject, match="length_beyond_eof"):
        read_image(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_syntaxes_decode_exactly(dicom, syntax):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4000, (64, 48)).astype(np.int16)
    path = dicom(pixels=pixels)
    ds = pydicom.dcmread(path)
    ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(path)
    np.testing.assert_array_equal(read_planes(path)[0], pixels - 1024)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
def test_garbage_in_a_codec_is_a_verdict(dicom, syntax, capfd):
    path = dicom(pixel_bytes=None)
    ds = pydicom.dcmread(path)
    ds.PixelData = encapsulate([b"garbage that no decoder knows " * 9])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)
    with pytest.raises(Reject, match="codec"):
        read_image(path)


def test_fewer_fragments_than_frames_end_in_a_verdict_not_in_stop_iteration(dicom):
    path = dicom(pixels=np.zeros((64, 48), np.int16))
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.NumberOfFrames = 3
    ds.save_as(path)
    with pytest.raises(Reject, match="fragment_count"):
        read_planes(path)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_damaged_files_end_in_a_verdict_or_in_finite_pixels(dicom, syntax):
    """Bytes changed at random, and files cut off: no other exception, no NaN (seeded)."""
    path = dicom(pixels=np.arange(64 * 48, dtype=np.int16).reshape(64, 48))
    if syntax:
        ds = pydicom.dcmread(path)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(250):
        data = bytearray(whole)
        for place in rng.integers(128, 1400, size=int(rng.integers(1, 5))):
            data[place] = int(rng.integers(256))
        path.write_bytes(data[: int(rng.integers(140, len(data)))] if rng.random() < 0.2 else data)
        try:
            assert np.isfinite(read_planes(path)).all()
            outcomes.add("read")
        except Verdict as verdict:
            outcomes.add(verdict.code)
    assert len(outcomes) > 4
