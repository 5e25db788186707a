import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medvlp.archive.dicom import pixels as pixel_reading
from medvlp.archive.dicom.scan import scan_file
from medvlp.archive.dicom.second import SECOND, is_sampled
from medvlp.archive.verdict import Reject

UNITS = {"CT": "series"}
SYNTAXES = [JPEG2000Lossless, JPEGLSLossless, RLELossless]


@pytest.fixture
def packed(dicom):
    """``packed(syntax, k)``: the k-th of a kind of compressed slices with negative values."""

    def make(syntax, k, frames=1):
        rng = np.random.default_rng(k)
        values = rng.integers(-1000, 3000, (frames, 64, 64)).astype(np.int16)
        path = dicom(f"{k}.dcm", values, NumberOfFrames=frames, SOPInstanceUID=f"1.2.9.{k}")
        dataset = dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
        return path

    return make


@pytest.fixture
def clamping(monkeypatch):
    """``clamping(syntax)``: from now on the first decoder cuts negative values off."""

    def plant(syntax):
        wanted = pixel_reading.PLUGINS[syntax]
        decoder = get_decoder(syntax)
        right = decoder._available[wanted]

        def wrong(src, runner):
            data = np.frombuffer(right(src, runner), np.int16)
            return bytearray(np.maximum(data, 0).tobytes())

        if syntax == RLELossless:
            # Its decoders give one plane of bytes after the other.
            def wrong(src, runner):
                data = bytearray(right(src, runner))
                half = len(data) // 2
                data[half:] = bytes(min(x, 0x7F) for x in data[half:])
                return data

        monkeypatch.setitem(decoder._available, wanted, wrong)

    return plant


def verdict_of(path, share):
    try:
        scan_file([path], units=UNITS, cross_check=share)
    except Reject as verdict:
        return verdict.code
    return ""


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_sound_files_pass_both_decoders(packed, syntax):
    assert [verdict_of(packed(syntax, k, frames=1 + k), 1) for k in range(3)] == ["", "", ""]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_clamping_decoder_is_found_out(packed, clamping, syntax):
    paths = [packed(syntax, k) for k in range(20)]
    clamping(syntax)
    assert {verdict_of(path, 1) for path in paths} == {"decoder_disagrees"}
    assert {verdict_of(path, 0) for path in paths} == {""}


def test_the_sample_is_the_same_wherever_a_file_is_read(packed, clamping):
    paths = [packed(JPEG2000Lossless, k) for k in range(20)]
    digests = [scan_file([path], units=UNITS).sha256 for path in paths]
    sampled = [is_sampled(digest, 0.5) for digest in digests]
    assert 0 < sum(sampled) < 20
    clamping(JPEG2000Lossless)
    assert [verdict_of(path, 0.5) != "" for path in paths] == sampled


def test_the_share_is_the_share():
    digests = [f"{(2 * k + 1) * 2**32 // 2000:08x}" + "0" * 56 for k in range(1000)]
    for share, count in ((0, 0), (0.04, 40), (0.25, 250), (1, 1000)):
        assert sum(is_sampled(digest, share) for digest in digests) == count


def test_no_decoder_is_checked_by_itself():
    for syntax, plugins in SECOND.items():
        assert pixel_reading.PLUGINS[syntax] not in plugins
        assert set(plugins) & set(get_decoder(syntax).available_plugins)
