from dataclasses import replace

import numpy as np
import pytest
from catalogue.case import Verdicts
from catalogue.clamping import clamped
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medvlp.archive.dicom import pixels as pixel_reading
from medvlp.archive.dicom import tree
from medvlp.archive.dicom.scan import scan_file, scanning
from medvlp.archive.dicom.second import SECOND, is_sampled
from medvlp.archive.index import index_archive
from medvlp.archive.verdict import Reject
from medvlp.domain import Ref

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
        available, plugin = get_decoder(syntax)._available, pixel_reading.PLUGINS[syntax]
        monkeypatch.setitem(available, plugin, clamped(syntax, available[plugin]))

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


def codes_of(root, out, *settings):
    index_archive(root, kind="dicom", out=out, allow_empty=True, overrides=settings)
    verdicts = Verdicts(out)
    return [verdicts.of(path).partition("+")[0] for path in sorted(root.iterdir())]


def test_one_wrong_file_of_a_scanner_makes_all_suspect(packed, monkeypatch, tmp_path):
    """None of the files is in the sample of one in a million: the scanners' first ones are."""
    few = "options.cross_check=1e-6"
    root = tmp_path / "in"
    root.mkdir()
    kinds = [JPEG2000Lossless] * 8 + [RLELossless] * 3
    for k, syntax in enumerate(kinds):
        packed(syntax, k).rename(root / f"{k:02d}.dcm")
    sound = codes_of(root, tmp_path / "sound", few)
    assert "REJECT:decoder_disagrees" not in sound
    clamping = Ref("catalogue.clamping:scan_file")
    monkeypatch.setattr(
        tree, "scanning", lambda *a, **settings: replace(scanning(*a, **settings), read=clamping)
    )
    found = codes_of(root, tmp_path / "wrong", few)
    assert found[:8] == ["REJECT:decoder_disagrees"] * 8
    assert "REJECT:decoder_disagrees" not in found[8:]
    unchecked = codes_of(root, tmp_path / "off", "options.cross_check=0")
    assert "REJECT:decoder_disagrees" not in unchecked
