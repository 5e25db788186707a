import json
import re
from pathlib import Path

import numpy as np
import pytest
from minivolumes import affine, body, nifti
from PIL import Image
from typer.testing import CliRunner

from medvlp.archive.examine import ACCEPT, examine
from medvlp.archive.index import index_archive
from medvlp.cli import app
from medvlp.data.manifest import Manifest
from medvlp.errors import InputError
from medvlp.phantom.write import write_phantom
from medvlp.report.inspection import write_json, write_page


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two CT series, one of which lacks a slice, a picture, a text file and a damaged file."""
    folder = tmp_path_factory.mktemp("archive")
    settings = ("slices=16", "size=48", "masks=false")
    write_phantom("volumetric", folder / "ct", n=2, seed=1, settings=settings)
    series = sorted({path.parent for path in (folder / "ct").rglob("*.dcm")})
    (sorted(series[0].glob("*.dcm"))[5]).unlink()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "shot.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "Nightingale.dcm").write_bytes(b"no image at all")
    return folder


@pytest.fixture(scope="module")
def found(archive):
    return examine(archive, views=5)


def test_a_folder_is_told_sample_by_sample(found):
    verdicts = {finding.verdict for finding in found}
    assert {ACCEPT, "REJECT:spacing_gap", "REJECT:not_dicom"} <= verdicts
    by_verdict = {f.verdict: f for f in found}
    gap = by_verdict["REJECT:spacing_gap"]
    assert gap.record["found"]["missing"]
    assert gap.view is not None, "shown as it would be with its slice filled in"
    series = next(f for f in found if f.verdict == ACCEPT and len(f.files) == 16)
    assert dict(series.view.facts)["size"] == "16 slices, 48 rows, 48 columns"
    assert [p.caption.split()[1] for p in series.view.pictures[1:]] == ["coronal", "sagittal"]
    assert sum(f.files[0].name == "shot.png" and f.verdict == ACCEPT for f in found) == 1
    broken = next(f for f in found if f.files[0].name == "broken.png")
    assert broken.verdict.startswith("REJECT:")


def test_a_policy_changes_the_verdict(archive):
    repaired = examine(archive, settings=["options.missing=interpolate"], views=0)
    assert all(f.verdict != "REJECT:spacing_gap" for f in repaired)
    assert any("interpolated_slices" in f.flags for f in repaired)


def test_page_and_json_name_files_only_on_request(found, tmp_path):
    for names in (False, True):
        write_page(found, tmp_path / "page.html", names=names)
        write_json(found, tmp_path / "found.json", names=names)
        text = (tmp_path / "page.html").read_text() + (tmp_path / "found.json").read_text()
        assert ("Nightingale" in text) is names
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page needs nothing from elsewhere"
    rows = json.loads((tmp_path / "found.json").read_text())
    assert len(rows) == len(found)


def test_a_manifest_and_one_source_of_it_are_shown(archive, tmp_path):
    index_archive(archive, kind="dicom", out=tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    everything = examine(tmp_path / "m", views=0)
    assert sum(f.verdict == ACCEPT for f in everything) == manifest.samples.height
    source = manifest.samples["source"][0]
    (one,) = examine(tmp_path / "m", source=source)
    assert one.files == manifest.paths(source)
    assert one.view is not None
    with pytest.raises(InputError, match="no source"):
        examine(tmp_path / "m", source="f" + "0" * 24)


def test_the_command_says_what_it_means(archive, tmp_path):
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["inspect", str(archive), "--views", "1", "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "REJECT:spacing_gap" in result.output
    assert "Nightingale" not in result.output
    assert page.is_file()


def test_nothing_to_inspect_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        examine(tmp_path / "nowhere")
    with pytest.raises(InputError):
        examine(tmp_path)


def test_nifti_files_are_told_once_and_as_indexing_tells_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("volumes")
    nifti(folder / "ct.nii.gz", body(1), affine())
    nifti(folder / "mask.nii.gz", (body(1) > 0).astype(np.int16), affine())
    nifti(folder / "mr.nii.gz", np.abs(body(2)) * 2, affine())
    found = {f.files[0].name: f.verdict for f in examine(folder)}
    assert len(found) == len(examine(folder, views=0)) == 3
    index_archive(folder, kind="nifti", out=Path("m"))
    index_archive(folder, kind="nifti", out=Path("m2"), overrides=["options.accept_not_hu=true"])
    manifest = Manifest.open(Path("m"))
    told = {
        manifest.paths(row["source"])[0].name: row["code"]
        for row in manifest.rejects.iter_rows(named=True)
    }
    assert told == {"mask.nii.gz": "label_map", "mr.nii.gz": "not_hu"}
    assert found == {
        "ct.nii.gz": ACCEPT, "mask.nii.gz": "IGNORE:label_map", "mr.nii.gz": "REJECT:not_hu",
    }  # fmt: skip
    accepted = [f for f in examine(Path("m2")) if f.verdict == ACCEPT]
    assert [bool(f.view) for f in accepted] == [True, True]
