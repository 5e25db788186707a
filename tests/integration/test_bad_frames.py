"""Recordings with frames that do not decode cost an evaluation those moments, and nothing else."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from films import turned_round

from medvlp.archive.index import index_archive
from medvlp.data.items import window_items
from medvlp.data.manifest import Manifest
from medvlp.evaluate.heads.arrays import Arrays
from medvlp.evaluate.predict import UndecodableError
from medvlp.evaluate.run import evaluate_protocol
from medvlp.evaluate.scorers import open_scorers
from medvlp.phantom.write import write_phantom

PROTOCOLS = Path(__file__).parents[2] / "configs" / "evaluate"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("archive")
    write_phantom(
        "video", root / "archive", n=10, seed=0, settings=["seconds=12", "size=64", "fps=4"]
    )
    turned_round(sorted((root / "archive" / "videos").glob("*.mp4"))[0], 0.5, 12)
    index_archive(
        root / "archive", kind="video", config=root / "archive" / "index.yaml",
        out=root / "manifest", overrides=["split.fractions={train: 0, valid: 0, test: 1}"],
    )  # fmt: skip
    return Manifest.open(root / "manifest")


@pytest.mark.parametrize("name", ["video-phantom", "video/phantom-moments", "video/phantom-order"])
def test_moments_that_do_not_decode_are_left_out_for_every_model(
    manifest, tiny_bundle, tmp_path, name
):
    flagged = manifest.samples.filter(pl.col("flags").list.contains("bad_frames"))
    assert flagged.height == 1
    (scorer,) = open_scorers([tiny_bundle("video")], "video", None)
    every = window_items(manifest, "test", 2.0, 1.0, ())
    bad = []
    for item in every:
        try:
            scorer.reader()(item)
        except UndecodableError:
            bad.append(item)
    assert 0 < len(bad) < len(every) / 4
    with pytest.raises(UndecodableError) as lost:
        Arrays(scorer).check(every)
    assert lost.value.spans == {(item.sha256, item.span) for item in bad}
    evaluate_protocol(
        PROTOCOLS / f"{name}.yaml", [tiny_bundle("video")], tmp_path,
        ["data.phantom=null", f"data.manifests=[{manifest.path}]", "task.window_s=2",
         "task.stride_s=1", "bootstrap.draws=20"],
    )  # fmt: skip
    out = tmp_path / Path(name).name
    counts = json.loads((out / "metrics.json").read_text())["counts"]
    assert counts["spans_that_do_not_decode"] == len(bad)
    if name == "video-phantom":
        rows = pl.read_parquet(out / "predictions.parquet")
        seen = {model: part["time_s"].len() for (model,), part in rows.group_by("model")}
        assert len(seen) > 2
        assert len(set(seen.values())) == 1
        gone = {(item.sample, np.mean(item.span)) for item in bad}
        assert not gone & set(rows.select("sample", "time_s").iter_rows())
