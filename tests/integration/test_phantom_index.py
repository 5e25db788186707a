"""A phantom archive, indexed with its own index.yaml, brings its whole truth into the manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.phantom.write import write_phantom


@pytest.mark.parametrize(
    ("domain", "kind", "settings"),
    [
        ("cxr", "dicom", ["size=64"]),
        ("volumetric", "dicom", ["slices=16", "size=48"]),
        ("volumetric", "nifti", ["slices=16", "size=48", "format=nifti"]),
    ],
)
def test_truth_reaches_the_manifest(domain, kind, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = Path("archive")  # as one types it, not as it is written down
    write_phantom(domain, archive, n=5, seed=2, settings=[*settings, "workers=1"])
    summary = index_archive(
        archive, kind=kind, out=tmp_path / "m", config=archive / "index.yaml",
        overrides=["workers=1"],
    )  # fmt: skip
    counts = summary.counts()
    assert counts["quarantined"] == 0
    assert counts["ignored"] == 1, "index.yaml alone is none of ours"
    manifest = Manifest.open(tmp_path / "m")
    samples = set(manifest.samples["sample"])
    assert len(samples) >= 5
    truth = pl.read_csv(archive / "truth/labels.csv")
    regions = pl.read_parquet(archive / "truth/regions.parquet")
    assert sorted(manifest.labels["value"].to_list()) == sorted(truth["value"].to_list())
    assert set(manifest.labels["source"]) == {"truth"}
    assert set(manifest.labels["sample"]) == set(manifest.texts["sample"]) == samples
    assert len(manifest.regions) == len(regions)
    assert len(manifest.entities) == len(pl.read_parquet(archive / "truth/entities.parquet"))
    assert not any("PHANTOM0" in str(row) for row in manifest.samples.iter_rows())


def test_a_box_of_the_manifest_frames_its_mask(tmp_path):
    archive = tmp_path / "archive"
    write_phantom("cxr", archive, n=5, seed=2, settings=["size=64", "workers=1"])
    index_archive(
        archive, kind="dicom", out=tmp_path / "m", config=archive / "index.yaml",
        overrides=["workers=1"],
    )  # fmt: skip
    manifest = Manifest.open(tmp_path / "m")
    masks = {
        (row["sample"], row["name"]): row["ref"]
        for row in manifest.regions.iter_rows(named=True)
        if row["kind"] == "mask"
    }
    boxes = manifest.regions.filter(pl.col("kind") == "box")
    assert len(boxes)
    for row in boxes.iter_rows(named=True):
        (path,) = manifest.paths(masks[row["sample"], row["name"]])
        mask = np.asarray(Image.open(path)) > 0
        x0, y0, x1, y1 = (int(v) for v in row["geometry"])
        assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
