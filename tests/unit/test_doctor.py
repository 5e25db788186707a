from __future__ import annotations

import io
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from medvlp import doctor


def states(findings):
    return {f.what: f.state for f in findings}


def test_this_installation_is_healthy():
    shown = io.StringIO()
    assert doctor.examine(Console(file=shown, width=160))
    assert "all that is needed works" in shown.getvalue()


def test_every_transfer_syntax_decodes():
    found = states(doctor.check_dicom())
    assert len(found) == 7
    assert set(found.values()) == {"ok"}


def test_a_decoder_that_gives_wrong_pixels_is_bad(monkeypatch):
    right = doctor._sample_of

    def wrong(name):
        data, expected = right(name)
        return data, expected + (name == "JPEGLSLossless") * 7

    monkeypatch.setattr(doctor, "_sample_of", wrong)
    bad = [f for f in doctor.check_dicom() if f.state == "bad"]
    assert [f.what for f in bad] == ["DICOM JPEGLSLossless"]
    assert bad[0].detail == "wrong pixels, by up to 7"
    assert bad[0].remedy == "pip install --force-reinstall pyjpegls"


def test_a_video_reader_that_fails_is_bad(monkeypatch):
    monkeypatch.setattr(doctor, "_frames_pyav", lambda path: 11)
    bad = [f for f in doctor.check_video() if f.state == "bad"]
    assert [(f.what, f.detail) for f in bad] == [("video PyAV", "11 of 12 frames")]


def test_package_missing_too_old_and_unpinned():
    have = version("numpy")
    missing = doctor.check_package(Requirement("no-such-package>=1"), {})
    assert (missing.state, missing.remedy) == ("bad", "pip install 'no-such-package>=1'")
    old = doctor.check_package(Requirement("numpy>=99"), {"numpy": "99.1"})
    assert (old.state, old.remedy) == ("bad", "pip install 'numpy==99.1'")
    assert doctor.check_package(Requirement("numpy>=1"), {"numpy": "1.99"}).state == "optional"
    assert doctor.check_package(Requirement("numpy>=1"), {"numpy": have}).state == "ok"


def test_pins_are_read(tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("# a comment\nJinja2==3.1.6\nhuggingface_hub==2.4.0\n")
    assert doctor.read_pins(file) == {"jinja2": "3.1.6", "huggingface-hub": "2.4.0"}
    assert doctor.read_pins(tmp_path / "absent") == {}


@pytest.mark.parametrize("release", ["2.6.2", "2.6.3"])
def test_malicious_lightning_is_bad(monkeypatch, release):
    monkeypatch.setattr(doctor, "version", lambda name: release)
    assert states(doctor.check_malicious("lightning")) == {"lightning": "bad"}


def test_torchvision_is_bad(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    assert states(doctor.check_forbidden())["torchvision"] == "bad"
    assert not list(doctor.check_malicious("lightning"))


def test_little_disk_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    class Usage:
        free = 2**29
        total = 2**26

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage)
    found = states(doctor.check_room())
    assert found["disk here"] == "bad"
    assert found["shared memory"] == "optional"
