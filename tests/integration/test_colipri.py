"""Contrast, opposite sentences, writing, masked volumes and views in one run, to the bundle."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
import yaml

import medvlp
from medvlp.data.preprocess import model_input
from medvlp.data.prompts import load_prompts
from medvlp.train.fit import train_run

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "configs/evaluate/prompts/ct-phantom.yaml"
VALUES = {
    "domain": "volumetric",
    "data": {
        "phantom": {
            "n": 8, "kind": "nifti",
            "settings": ["slices=16", "size=48", "masks=false", "format=nifti"],
        },
        "batch_size": 2,
        "labels": list(load_prompts(PROMPTS).names),
        "texts": {"levels": ["section"], "sources": ["impression"], "choose": "first"},
        "mix": {
            "streams": {
                "paired": {"objectives": ["clip", "opposite-sentence", "fusion", "masked-volume"]},
                "scans": {
                    "texts": {"levels": ["step"], "required": False},
                    "objectives": ["masked-volume", "volume-ssl"],
                },
            },
        },
        "cache": "memory",
        "tokenizer": {"vocab_size": 500},
    },
    "preprocess": {"kind": "ct", "shape": [16, 32, 32], "fit": "resize"},
    "image": {"kind": "primus", "patch": [8, 8, 8], "width": 24, "depth": 2, "heads": 2},
    "text": {"width": 24, "depth": 1, "heads": 2, "max_tokens": 64},
    "model": {"embed": 16, "image_projection": {"kind": "linear", "bias": True}},
    "objectives": [
        {"kind": "clip"},
        {"kind": "opposite-sentence", "weight": 0.5},
        {"kind": "fusion", "matching": 0, "decoder": {"depth": 1, "width": 24, "heads": 2}},
        {"kind": "masked-volume", "depth": 1, "width": 24, "heads": 2},
        {"kind": "volume-ssl", "embed": 8, "stages": 2, "shape": [16, 16, 16]},
    ],
    "trainer": {
        "steps": 2, "accelerator": "cpu", "log_every": 1, "valid_every": 2, "save_every": 2,
    },
    "prompts": str(PROMPTS),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colipri")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(VALUES))
    train_run(folder / "experiment.yaml", [], folder / "run")
    return folder / "run"


def test_scans_without_a_report_count_for_volumes_and_for_no_contrast(run: Path) -> None:
    table = pl.read_csv(run / "metrics.csv")
    scans, paired = (table.filter(pl.col("stream") == name) for name in ("scans", "paired"))
    assert len(scans) == len(paired) == 1
    spoken = ["clip", "opposite-sentence", "fusion"]
    assert sum(scans[name].null_count() for name in spoken) == 3
    assert paired["volume-ssl"].null_count() == 1
    assert sum(paired[name].null_count() for name in [*spoken, "masked-volume"]) == 0
    total = scans["masked-volume"][0] + scans["volume-ssl"][0]
    assert scans["loss"][0] == pytest.approx(total, rel=1e-5)
    total = sum(paired[name][0] for name in ("clip", "fusion", "masked-volume"))
    total += 0.5 * paired["opposite-sentence"][0]
    assert paired["loss"][0] == pytest.approx(total, rel=1e-5)
    # Both streams are validated, the scans among them.
    assert np.isfinite(table.drop_nulls("valid_loss")["valid_scans"].to_numpy()).all()


def test_the_bundle_shows_where_through_its_pooler_and_writes(run: Path) -> None:
    bundle = medvlp.load(run / "bundle")
    assert set(bundle.objectives) == {objective["kind"] for objective in VALUES["objectives"]}
    rng = np.random.default_rng(0)
    stored = rng.integers(-1000, 1000, (16, 32, 32)).astype(np.int16)
    found = bundle.heatmap_stored(stored, "Left pleural effusion.")
    assert found.grid.shape == (2, 4, 4)
    text = torch.from_numpy(bundle.embed_text("Left pleural effusion.")[0])
    pool, project = bundle.model.image.pool, bundle.model.image_projection
    with torch.inference_mode():
        features = bundle.model.image(model_input(bundle.preprocess, [stored]))
        x = features.maps[-1]
        for linear in (pool.value, pool.out, project):
            x = F.conv3d(x, linear.weight[..., None, None, None], linear.bias)
        cosines = torch.einsum("edhw,e->dhw", F.normalize(x[0], dim=0), text)
        image = F.normalize(project(features.pooled_BD[0]), dim=0)
    np.testing.assert_allclose(found.grid, cosines.numpy(), atol=1e-5)
    assert found.similarity == pytest.approx((image @ text).item(), abs=1e-5)
    assert bundle.write([stored.astype(np.float32)], max_tokens=6) is not None
    assert bundle.zero_shot([stored.astype(np.float32)]).probability_NL.shape == (1, 12)
