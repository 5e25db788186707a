"""Grounding in volumes, of one shape and as deep as they are."""

import json

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from grounded import region, told, write_bundle, write_protocol

from medvlp.data.manifest import write_manifest
from medvlp.evaluate.packed import unpack_mask
from medvlp.evaluate.run import evaluate_protocol
from medvlp.models.image2d import ResNet2dConfig
from medvlp_volumetric.encoders.slices import SlicesConfig
from medvlp_volumetric.preprocess_slices import CtSlicesConfig


def write_volumes(folder, depths):
    """Four patients: a box of a mass in three of them, in the fourth at the edge."""
    rng = np.random.default_rng(0)
    tables = {"samples": [], "regions": []}
    sources = []
    for i, depth in enumerate(depths):
        values = rng.integers(-1000, 1000, (30, 28, depth)).astype(np.int16)
        values[:5] = -1000
        path = folder / f"{i}.nii.gz"
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])), path)
        sources.append({"source": f"src{i}", "part": 0, "path": str(path)})
        tables["samples"].append(
            {
                "sample": f"v{i}", "domain": "volumetric", "patient": f"p{i}", "study": f"t{i}",
                "source": f"src{i}", "sha256": f"{i:064x}", "kind": "series",
                "split": ("train", "valid", "test", "test")[i], "spacing_mm": [2.0, 2.0, 2.0],
            }
        )  # fmt: skip
        corners = [10.0, 9.0, 8.0, 18.0, 20.0, 16.0] if i < 3 else [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]
        tables["regions"].append(region(f"v{i}", "mass", "box", corners))
    info = {"key_id": "t", "counts": {}}
    write_manifest(folder / "m", tables, sources, info, key=b"k" * 32)
    return folder / "m"


def test_volumes_are_pointed_into(tmp_path):
    """Boxes in three dimensions; the one that the grid crops away is counted and left out."""
    manifest = write_volumes(tmp_path, (26, 26, 26, 26))
    bundle = write_bundle(tmp_path / "ct" / "bundle", "volumetric")
    protocol = write_protocol(tmp_path, manifest, "volumetric", smooth=1.0)
    evaluate_protocol(protocol, [bundle], tmp_path / "out", [])
    folder = tmp_path / "out" / "trial"
    counts = json.loads((folder / "metrics.json").read_text())["counts"]
    assert (counts["questions"], counts["regions_outside_the_grid"]) == (2, 1)
    heat, mask = (
        pl.read_parquet(folder / f"{name}.parquet").filter(model="ct").row(0, named=True)
        for name in ("heatmaps", "masks")
    )
    assert (heat["shape"], mask["shape"], mask["sample"]) == ([4, 4, 4], [16, 24, 24], "v2")
    assert unpack_mask(mask["reference"], mask["shape"]).sum() > 0.5 * 8 * 11 * 8
    rows = told(folder)
    assert rows["mean-location", "pointing_game", "mass"]["value"] == 1
    assert rows["mean-location", "slice_pointing", "mass"]["value"] == 1
    # Eight voxels of 2 mm on a grid of 16 slices of 2 mm.
    assert rows["ct", "slice_share", "mass"]["value"] == pytest.approx(8 / 16)
    assert 0 < rows["ct", "pixel_average_precision", "mass"]["value"] < 1


def test_volumes_as_deep_as_they_are_are_pointed_into_slice_by_slice(tmp_path):
    manifest = write_volumes(tmp_path, (26, 40, 22, 30))
    slices = (
        CtSlicesConfig(size=(24, 24), spacing_mm=(2, 2), slice_mm=2),
        SlicesConfig(
            encoder=ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group"), heads=2
        ),
    )
    bundle = write_bundle(tmp_path / "slices" / "bundle", "volumetric", towers=slices)
    protocol = write_protocol(tmp_path, manifest, "volumetric")
    evaluate_protocol(protocol, [bundle], tmp_path / "out", [])
    folder = tmp_path / "out" / "trial"
    heat, mask = (
        pl.read_parquet(folder / f"{name}.parquet").filter(model="slices").row(0, named=True)
        for name in ("heatmaps", "masks")
    )
    # A cell a slice, and within it the 2D tower's own grid.
    assert (heat["shape"], mask["shape"]) == ([22, 3, 3], [22, 24, 24])
    rows = told(folder)
    assert rows["slices", "slice_share", "mass"]["value"] == pytest.approx(8 / 22)
    # The training volume is as deep as another, and its mass at about the same share of the depth.
    assert rows["mean-location", "slice_pointing", "mass"]["value"] > 0.5
