"""`medvlp verify A B`: what manifests share, and copies that cross their splits."""

import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from medvlp.archive.duplicates.across import compare_manifests
from medvlp.archive.duplicates.footprint import footprint_of
from medvlp.archive.index import index_archive
from medvlp.cli import app
from medvlp.data.keys import KEY
from medvlp.data.manifest import Manifest
from medvlp.errors import ManifestError


def picture(seed, shift=0):
    """Something like a radiograph: broad shapes with detail."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(size=(12, 12)), np.ones((16, 16)))
    fine = np.kron(rng.normal(size=(48, 48)), np.ones((4, 4)))
    values = coarse + 0.6 * fine
    values = (values - values.min()) / np.ptp(values) * 220 + shift
    return values.astype(np.uint8)


def archive(root, rows, key=None):
    """A table of pictures, rows (seed, patient, split, shift), indexed."""
    root.mkdir()
    lines = ["path,patient,study,split"]
    for i, (seed, patient, split, shift) in enumerate(rows):
        Image.fromarray(picture(seed, shift)).save(root / f"{i}.png", compress_level=1 + i % 9)
        lines.append(f"{i}.png,{patient},S{root.name}{i},{split}")
    (root / "t.csv").write_text("\n".join(lines))
    out = root.parent / f"m{root.name}"
    options = ["domain=cxr", "workers=1", "split.policy=source"]
    index_archive(root / "t.csv", kind="table", out=out, overrides=options, key=key)
    return out


ALONE = [(i, f"P{i}", "train" if i < 4 else "test", 0) for i in range(8)]


@pytest.fixture
def one(tmp_path):
    return archive(tmp_path / "a", ALONE)


def test_copies_between_manifests_are_counted(one, tmp_path):
    rows = [
        (0, "Q0", "test", 0),  # the pixels of a training image under another patient's number
        (1, "Q1", "train", 0),
        (2, "P2", "train", 0),
        (5, "Q5", "train", 30),  # a test image, brighter
        (30, "Q6", "test", 0),
    ]
    two = archive(tmp_path / "b", rows, key=one.parent / "ma.private" / KEY)
    found = compare_manifests([one, two])
    assert (found.samples, found.compared, found.patients) == (13, 13, 1)
    assert found.exact == 6
    assert found.near == 1
    assert found.other_patient == 6
    assert found.across_splits == 4
    told = CliRunner().invoke(app, ["verify", str(one), str(two)])
    assert told.exit_code == 2
    assert "in another split 4" in told.output
    # Without the private folders files can be compared, pixels cannot.
    for name in ("ma", "mb"):
        shutil.move(tmp_path / f"{name}.private", tmp_path / "away" / name)
    blind = compare_manifests([one, two])
    assert (blind.compared, blind.near) == (0, 0)
    assert 0 < blind.exact <= 6


def test_published_sets_are_compared_by_what_they_show(one, tmp_path):
    root = tmp_path / "object-CXR"
    (root / "train").mkdir(parents=True)
    (root / "dev").mkdir()
    for seed in (0, 1, 60):
        Image.fromarray(picture(seed)).save(root / "train" / f"{seed}.jpg", quality=90)
    Image.fromarray(picture(61)).save(root / "dev" / "61.jpg")
    (root / "train.csv").write_text("image_name,annotation\n0.jpg,\n1.jpg,\n60.jpg,\n")
    (root / "dev.csv").write_text("image_name,annotation\n61.jpg,\n")
    index_archive(root, kind="object-cxr", out=tmp_path / "b", key=one.parent / "ma.private" / KEY)
    found = compare_manifests([one, tmp_path / "b"])
    assert (found.samples, found.compared) == (12, 12)
    assert (found.exact, found.near, found.other_patient) == (0, 2, 4)
    manifest = Manifest.open(tmp_path / "b")
    assert footprint_of([manifest], manifest.samples["sample"]).known["pixels"] == 4


def test_manifests_that_share_nothing_pass(one, tmp_path):
    rows = [(100 + i, f"R{i}", "test", 0) for i in range(4)]
    two = archive(tmp_path / "b", rows, key=one.parent / "ma.private" / KEY)
    told = CliRunner().invoke(app, ["verify", str(one), str(two)])
    assert told.exit_code == 0, told.output
    assert "0 patients shared" in told.output
    assert "in another split 0" in told.output


def test_other_keys_and_patients_in_two_splits_are_refused(one, tmp_path):
    two = archive(tmp_path / "b", [(50, "R", "test", 0)])
    with pytest.raises(ManifestError, match="different keys"):
        compare_manifests([one, two])
    key = one.parent / "ma.private" / KEY
    three = archive(tmp_path / "c", [(51, "P0", "test", 0)], key=key)
    with pytest.raises(ManifestError, match="two splits"):
        compare_manifests([one, three])
    assert pl.read_parquet(three / "samples.parquet")["split"].to_list() == ["test"]
