"""Organs of a CT phantom against what its reports say of them: from files to the bundle."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

import medvlp
from medvlp.data.cache_check import check_cache
from medvlp.data.manifest import Manifest
from medvlp.data.phantom_source import PhantomData
from medvlp.structured import Asked, structure_manifest
from medvlp.train.cache_build import build_cache, open_filling
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run
from medvlp.train.phantom_data import phantom_manifest
from medvlp.train.prepare import open_streams
from medvlp_volumetric.phantom_draw import ORGANS

SETTINGS = ("slices=16", "size=48", "format=nifti", "workers=1")
VALUES = {
    "domain": "volumetric",
    "data": {
        "batch_size": 4,
        "texts": {"levels": ["section"], "sources": ["impression"], "choose": "first"},
        "regions": {
            "names": list(ORGANS),
            "anatomies": {
                "lung": ["lung", "upper_lobe", "middle_lobe", "lower_lobe", "pleural_space"],
                "heart": ["heart", "pericardium"],
            },
            "entities": "rules",
            "in_view": 0.9,
        },
        "tokenizer": {"vocab_size": 500},
    },
    "preprocess": {
        "kind": "ct", "shape": [16, 40, 40], "spacing_mm": [20, 8, 8],
        "augment": {"shift": [1, 2, 2]},
    },
    "image": {"kind": "vit3d", "patch": [4, 8, 8], "width": 24, "depth": 1, "heads": 2},
    "text": {"width": 24, "depth": 1, "heads": 2, "max_tokens": 64},
    "model": {"embed": 16},
    "objectives": [{"kind": "organs", "heads": 2, "dropout": 0}, {"kind": "clip"}],
    "trainer": {
        "steps": 2, "accelerator": "cpu", "log_every": 1, "valid_every": 2, "save_every": 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fvlm")
    phantom = PhantomData(n=16, kind="nifti", settings=SETTINGS)
    manifest = phantom_manifest("volumetric", phantom, folder / "phantom", ("workers=1",))
    structure_manifest(manifest, Asked())
    data = {**VALUES["data"], "manifests": [str(manifest)], "cache": str(folder / "cache")}
    (folder / "experiment.yaml").write_text(yaml.safe_dump({**VALUES, "data": data}))
    return folder / "experiment.yaml"


def test_organs_are_normal_where_the_phantom_says_so(experiment: Path) -> None:
    loaded = load_experiment(experiment)
    manifest = Manifest.open(loaded.data.manifests[0])
    (stream,) = open_streams(loaded, [manifest])
    truth = manifest.entities.filter(pl.col("source") != "rules", pl.col("presence") != 0)
    abnormal = set()
    for row in truth.to_dicts():
        place = {"pericardium": "heart"}.get(row["anatomy"], row["anatomy"])
        sides = {"bilateral": ("left ", "right ")}.get(row["laterality"], (row["laterality"],))
        for side in sides if place == "kidney" else ("",):
            abnormal.add((row["sample"], f"{side.strip()} {place}".strip()))
    told = 0
    for item in (*stream.train, *stream.valid):
        assert {column for column, _ in item.regions} == set(range(len(ORGANS)))
        for name, found in zip(ORGANS, item.region_texts, strict=True):
            if "lung" not in name:
                assert found.normal == ((item.sample, name) not in abnormal), name
                told += not found.normal
            assert found.text is not None
    assert told > 10


def test_a_run_contrasts_organs_the_same_in_micro_batches(experiment: Path) -> None:
    folder = experiment.parent
    build_cache(experiment, [], 0)
    losses = {}
    for name, overrides in (("whole", []), ("parts", ["trainer.micro_batch=3"])):
        train_run(experiment, overrides, folder / name)
        table = pl.read_csv(folder / name / "metrics.csv").drop_nulls("organs")
        losses[name] = table.select("organs", "clip")
    assert losses["whole"]["organs"].is_between(0.1, 10).all()
    for column in ("organs", "clip"):
        parts = losses["parts"][column].to_list()
        assert losses["whole"][column].to_list() == pytest.approx(parts, rel=1e-4)
    facts = json.loads((folder / "whole" / "data.json").read_text())
    assert facts["regions"] == facts["items"]
    bundle = medvlp.load(folder / "whole" / "bundle")
    assert bundle.objectives["organs"].pool.query_RD.shape == (len(ORGANS), 24)
    # Every volume and every map of its organs was there before, and nothing else.
    wanted = open_filling(experiment, []).wanted
    found = check_cache(folder / "cache", wanted)
    assert len(found.sound) == len(wanted) == 2 * sum(facts["items"].values())
    assert not [*found.damaged, *found.stale, *found.orphaned, *found.left]
    assert not found.missing


def test_what_cannot_be_contrasted_is_refused(experiment: Path) -> None:
    for override, fault in (
        ("image.kind=resnet3d", "set cell to the voxels of a token"),
        ("data.regions.cell=[4, 8, 7]", "is not made of cells of"),
        ("image.patch_dropout=0.5", "set image.patch_dropout=0"),
        ("data.regions={}", "an objective asks for them"),
    ):
        changes = [override]
        if override == "image.kind=resnet3d":
            changes = ["image={kind: resnet3d}"]
        with pytest.raises(medvlp.errors.ConfigError, match=fault):
            load_experiment(experiment, changes)
    # Without such an objective, regions are named in vain and cost nothing.
    assert not load_experiment(experiment, ["objectives=[{kind: clip}]"]).reads_regions
