"""The same heads on volumes and on clips, from phantoms."""

import json

import polars as pl
import pytest
import yaml

from medvlp.evaluate.run import evaluate_protocol

SPLIT = "split.fractions={train: 0.4, valid: 0.3, test: 0.3}"


def phantom(folder, domain, n, kind, settings):
    from medvlp.data.phantom_source import PhantomData
    from medvlp.train.phantom_data import phantom_manifest

    data = PhantomData(n=n, seed=2, kind=kind, settings=settings)
    return phantom_manifest(domain, data, folder, (SPLIT,))


def evaluate(folder, domain, manifest, bundle, task):
    values = {
        "name": "trial", "version": 1, "domain": domain, "task": task,
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 10},
    }  # fmt: skip
    (folder / "p.yaml").write_text(yaml.safe_dump(values))
    evaluate_protocol(folder / "p.yaml", [bundle], folder / "out", [])
    rows = json.loads((folder / "out/trial/metrics.json").read_text())["rows"]
    return {(r["model"], r["metric"], r["name"]): r["value"] for r in rows}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    settings = ("slices=24", "size=48", "format=nifti")
    return phantom(tmp_path_factory.mktemp("ct"), "volumetric", 16, "nifti", settings)


def test_organs_of_a_volume_are_drawn_in_three_dimensions(volumes, tiny_bundle, tmp_path):
    task = {
        "kind": "segmentation", "structures": ["liver", "left lung"], "head": "unet", "width": 16,
        "controls": [], "tolerance_mm": 20.0,
        "search": {"rates": [0.01], "steps": 50, "batch_size": 4, "checks": 2},
    }  # fmt: skip
    found = evaluate(tmp_path, "volumetric", volumes, tiny_bundle("volumetric"), task)
    assert found["volumetric", "dice", "left lung"] > 0.6
    assert found["volumetric", "hd95_mm", "left lung"] > 0
    masks = pl.read_parquet(tmp_path / "out/trial/masks.parquet")
    assert masks["shape"][0].to_list() == [16, 32, 32]
    assert masks["spacing_mm"].list.min().min() > 5


SMALL_DECODER = {"depth": 1, "width": 16, "heads": 2, "dropout": 0.0, "max_tokens": 24}


def test_reports_of_volumes_are_written(volumes, tiny_bundle, tmp_path):
    task = {
        "kind": "generation", "level": "section", "sources": ["impression"],
        "decoder": SMALL_DECODER, "controls": [], "visual_tokens": 8,
        "search": {"rates": [0.003], "steps": 4, "batch_size": 4, "checks": 1},
    }  # fmt: skip
    found = evaluate(tmp_path, "volumetric", volumes, tiny_bundle("volumetric"), task)
    assert ("volumetric", "rouge_l", "report") in found
    texts = pl.read_parquet(tmp_path / "out/trial/texts.parquet")
    assert texts.filter(model="volumetric")["generated"].null_count() == 0
    # Findings are counted by the words of the CT domain.
    findings = pl.read_parquet(tmp_path / "out/trial/findings.parquet")["name"]
    assert {"splenomegaly", "kidney_stone"} <= set(findings)


@pytest.mark.parametrize("closed", ["classifier", "likelihood"])
def test_questions_about_volumes_are_answered(volumes, tiny_bundle, tmp_path, closed):
    task = {
        "kind": "vqa", "closed": closed, "decoder": SMALL_DECODER, "controls": [],
        "visual_tokens": 8,
        "search": {"rates": [0.003], "steps": 4, "batch_size": 4, "checks": 1},
    }  # fmt: skip
    found = evaluate(tmp_path, "volumetric", volumes, tiny_bundle("volumetric"), task)
    assert 0 <= found["volumetric", "accuracy", "closed/presence"] <= 1
    assert 0 <= found["volumetric", "token_f1", "open/count"] <= 1


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    from medvlp.data.manifest import Manifest
    from medvlp.evaluate.cases import known_intervals

    settings = ("seconds=12", "size=64", "fps=5")
    manifest = phantom(tmp_path_factory.mktemp("video"), "video", 8, "video", settings)
    return manifest, known_intervals([Manifest.open(manifest)])


def test_windows_of_recordings_are_probed_and_fine_tuned(films, tiny_bundle, tmp_path):
    manifest, names = films
    labels = names[:2]
    common = {"labels": labels, "windows": {"window_s": 3, "stride_s": 3}, "controls": []}
    found = evaluate(tmp_path, "video", manifest, tiny_bundle("video"), {"kind": "probe", **common})
    assert ("video", "auroc", labels[0]) in found
    search = {"rates": [0.01], "steps": 6, "batch_size": 4, "checks": 1}
    (tmp_path / "tuned").mkdir()
    found = evaluate(
        tmp_path / "tuned", "video", manifest, tiny_bundle("video"),
        {"kind": "finetune", "search": search, **common},
    )  # fmt: skip
    assert ("video", "auroc", labels[0]) in found
    rows = pl.read_parquet(tmp_path / "tuned/out/trial/predictions.parquet")
    assert rows["time_s"].null_count() == 0


def test_a_volume_tower_is_fine_tuned(volumes, tiny_bundle, tmp_path):
    from medvlp.data.manifest import Manifest

    table = Manifest.open(volumes).labels
    told = table.filter((pl.col("value") == 0) | (pl.col("value") == 1))
    spread = told.group_by("name").agg(pl.col("value").mean())
    label = spread.sort((pl.col("value") - 0.5).abs(), "name")["name"][0]
    task = {
        "kind": "finetune", "labels": [label], "controls": ["random-encoder"],
        "search": {"rates": [0.003], "steps": 6, "batch_size": 4, "checks": 1},
    }  # fmt: skip
    found = evaluate(tmp_path, "volumetric", volumes, tiny_bundle("volumetric"), task)
    assert ("random-encoder", "auroc", label) in found
