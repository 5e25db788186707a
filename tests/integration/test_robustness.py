"""The six axes on real bundles and phantoms: rows first, then scores from the rows alone."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.record import compute_metrics
from medvlp.evaluate.robustness.sentences import SCORE
from medvlp.evaluate.run import evaluate_protocol
from medvlp.plain_files import read_json
from medvlp.report.words import AXES

CONFIGS = Path(__file__).parents[2] / "configs" / "evaluate" / "robustness"
PHANTOM = {
    "cxr": ["data.phantom.settings=[size=64,masks=false,workers=1]"],
    "ct": ["data.phantom.settings=[slices=24,size=48,masks=false,workers=1]"],
    "video": ["data.phantom.settings=[seconds=24,size=64,fps=8,workers=1]"],
}
"""In this very process: few patients are not worth the start of others."""

SMALL = {
    "polarity": ["task.pairs=80"],
    "laterality": ["task.pairs=80"],
    "severity": ["task.pairs=80"],
    "grounded": ["task.most=8"],
    "corruption": ["task.most=6", "task.kinds=[gamma,jpeg]", "task.levels=[1,5]"],
    "adversarial": ["task.most=6", "task.eps=[4]", "task.steps=3"],
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_bundle):
    """``evaluated(axis)``: the folder of the X-ray protocol of an axis, on few patients."""
    out = tmp_path_factory.mktemp("axes")

    def run(axis: str, times: int = 1) -> Path:
        path = CONFIGS / f"cxr-phantom-{axis}.yaml"
        shared = [*PHANTOM["cxr"], "data.phantom.n=20", "bootstrap.draws=20"]
        bundles = [tiny_bundle("cxr")] * (2 if axis == "adversarial" else 1)
        for _ in range(times):
            evaluate_protocol(path, bundles, out, [*shared, *SMALL[axis]])
        return out / f"cxr-phantom-{axis}"

    return run


@pytest.mark.parametrize("axis", list(AXES))
def test_every_axis_writes_rows_from_which_its_score_follows(evaluated, axis):
    folder = evaluated(axis)
    rows = pl.read_parquet(folder / "predictions.parquet")
    assert rows.schema == PREDICTIONS
    key = ["model", "seed", "sample", "time_s", "name"]
    beside = {"grounded": "comparisons", "corruption": "corruptions"}
    if axis in SMALL and axis not in (*beside, "adversarial"):
        pairs = pl.read_parquet(folder / "pairs.parquet")
        assert len(pairs) == len(rows)
        # An image and its mirror image are two questions about one sample.
        assert pairs.select("model", "sample", "name", "mirrored").is_duplicated().sum() == 0
    else:
        assert rows.select(key).is_duplicated().sum() == 0
    if axis in beside:
        assert len(pl.read_parquet(folder / f"{beside[axis]}.parquet"))
    told = read_json(folder / "metrics.json")["rows"]
    again = compute_metrics(load_protocol(folder / "protocol.yaml"), folder)
    assert [(r.metric, r.name, r.value, r.low) for r in again.rows] == [
        (r["metric"], r["name"], r["value"], r["low"]) for r in told
    ]
    score = [r for r in told if r["metric"] == SCORE and not r["control"]]
    assert {r["name"] for r in score} == {axis}
    assert all(r["value"] is None or 0 <= r["value"] <= 1 for r in score)


def test_two_runs_write_the_same_predictions(evaluated):
    for axis in ("grounded", "adversarial", "corruption"):
        first = (evaluated(axis) / "predictions.parquet").read_bytes()
        assert (evaluated(axis) / "predictions.parquet").read_bytes() == first


def test_an_attack_is_made_on_one_bundle_and_shown_to_the_other(evaluated):
    rows = pl.read_parquet(evaluated("adversarial") / "predictions.parquet")
    models = rows["model"].unique().to_list()
    assert len(models) == 2
    kinds = rows["name"].str.split("/").list.first()
    for model, other in (models, models[::-1]):
        shown = rows.filter((pl.col("model") == model) & (kinds == f"transfer-from-{other}"))
        own = rows.filter((pl.col("model") == model) & (kinds == "pgd"))
        # the two bundles have the same weights, and another budget alone tells them apart
        assert len(shown) == len(own) > 0
    learnt = rows.filter(kinds == "universal")["patient"].n_unique()
    assert 0 < learnt < rows["patient"].n_unique()


@pytest.mark.parametrize(
    ("domain", "name", "kinds"),
    [("volumetric", "ct", "ring,missing_slices"), ("video", "video", "smoke,frozen_frames")],
)
def test_ct_and_video_are_corrupted_and_attacked(tmp_path, tiny_bundle, domain, name, kinds):
    for axis in ("corruption", "adversarial"):
        changes = [*PHANTOM[name], "data.phantom.n=6", "bootstrap.draws=5", "task.most=3"]
        changes += (
            [f"task.kinds=[{kinds}]", "task.levels=[3]"]
            if axis == "corruption"
            else ["task.eps=[4]", "task.steps=2"]
        )
        path = CONFIGS / f"{name}-phantom-{axis}.yaml"
        evaluate_protocol(path, [tiny_bundle(domain)], tmp_path, changes)
        rows = pl.read_parquet(tmp_path / path.stem / "predictions.parquet")
        scores = rows["score"]
        assert scores.is_between(0, 1).all()
        changed = set(rows["name"].str.split("/").list.first().unique())
        assert changed > {"clean"}
