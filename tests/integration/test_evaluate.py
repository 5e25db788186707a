"""From bundles and a manifest to predictions, metrics and the report."""

import json

import numpy as np
import polars as pl
import pytest
import yaml
from labelled_pictures import (
    PROMPTS,
    predictions,
    write_archive,
    write_bundle,
    write_protocol,
)

from medvlp.errors import BundleError, ConfigError, InputError
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.run import evaluate_protocol
from medvlp.models.bundle import load
from medvlp.report.build import build_report


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        write_bundle(root / "mine" / "bundle", 0),
        write_bundle(root / "blind" / "bundle", 0, "image-blind"),
        write_bundle(root / "labels" / "bundle", 1, "supervised-unimodal"),
    ]


def zero_shot(folder):
    prompts = {"mode": "independent", "labels": {}}
    for name, words in PROMPTS.labels.items():
        prompts["labels"][name] = {
            "positive": list(words.positive),
            "negative": list(words.negative),
        }
    (folder / "prompts.yaml").write_text(yaml.safe_dump(prompts))
    return {"kind": "zero-shot", "prompts": "prompts.yaml"}


@pytest.fixture(scope="module")
def evaluated(manifest, bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    protocol = write_protocol(folder, manifest, zero_shot(folder))
    evaluate_protocol(protocol, bundles, folder / "out", [])
    return folder


def paths(manifest, samples):
    return [manifest.parent / f"{int(sample[1:])}.png" for sample in samples]


def test_predictions_have_the_promised_columns_and_rows(evaluated):
    frame = predictions(evaluated)
    assert frame.columns == PREDICTIONS.names()
    assert frame.schema == PREDICTIONS
    models = frame.group_by("model", maintain_order=True).agg(pl.col("control").first())
    assert dict(models.iter_rows()) == {
        "mine": False, "image-blind": True, "supervised-unimodal": True, "chance": True,
        "prevalence": True, "metadata-only": True, "all-positive": True, "border-only": True,
        "random-label": True,
    }  # fmt: skip
    assert set(frame["label"]) == {0, 1}
    # 24 test patients with two pictures: two labels each, of which 2 unknown and 2 uncertain
    assert len(frame) == 9 * (2 * 48 - 4)
    metrics = json.loads((evaluated / "out/trial/metrics.json").read_text())
    assert metrics["counts"] == {"uncertain_labels": 2, "unknown_labels": 2}
    # Every control is there, or says why not.
    told = metrics["controls"]
    assert {name for name, where in told.items() if where == "row"} == set(frame["model"]) - {
        "mine"
    }
    assert "weights drawn anew" in told["random-encoder"]
    assert metrics["leaks"] == []


def test_scores_are_the_bundles_own(evaluated, manifest, bundles):
    frame = predictions(evaluated)
    for model, bundle, score in (
        ("mine", bundles[0], lambda b, p: b.zero_shot(p, PROMPTS).probability_NL[:, 1]),
        ("supervised-unimodal", bundles[2], lambda b, p: b.label_scores(p)[:, 0]),
    ):
        rows = frame.filter((pl.col("model") == model) & (pl.col("name") == "mass"))
        expected = score(load(bundle), paths(manifest, rows["sample"]))
        np.testing.assert_allclose(rows["score"], expected, atol=1e-6)


def test_image_blind_scores_belong_to_another_patient(evaluated):
    """Same weights as `mine`: each blind score is what `mine` gives to another patient's image."""
    frame = predictions(evaluated).filter(pl.col("name") == "mass")
    own = {row["sample"]: row for row in frame.filter(model="mine").iter_rows(named=True)}
    owner = {round(row["score"], 7): row["patient"] for row in own.values()}
    blind = frame.filter(model="image-blind")
    donors = [owner[round(score, 7)] for score in blind["score"]]
    assert all(a != b for a, b in zip(donors, blind["patient"], strict=True))
    assert set(donors) == set(blind["patient"])


def test_metadata_only_finds_what_sex_tells(evaluated):
    rows = json.loads((evaluated / "out/trial/metrics.json").read_text())["rows"]
    value = {(r["model"], r["metric"], r["name"]): r["value"] for r in rows}
    # edema was made to follow sex
    assert value["metadata-only", "auroc", "edema"] == 1.0
    assert value["prevalence", "auroc", "edema"] == 0.5
    assert ("mine", "recall", "mass") in value
    assert ("mine", "recall", "edema") not in value


def test_the_folder_is_complete_and_the_report_reads_it(evaluated):
    folder = evaluated / "out" / "trial"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"predictions.parquet", "bundles.json", "protocol.yaml"} <= set(metrics["artefacts"])
    examples = json.loads((folder / "examples" / "examples.json").read_text())
    assert examples
    assert {e["outcome"] for e in examples} <= {"found", "missed"}
    page = build_report(evaluated / "out").read_text()
    assert metrics["digest"] in page
    assert "data:image/png" in page
    assert not [p for p in (evaluated / "out").iterdir() if p.name.startswith(".")]


def test_a_second_run_gives_the_same_bytes(evaluated, bundles):
    folder = evaluated / "out" / "trial"
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    evaluate_protocol(evaluated / "trial.yaml", bundles, evaluated / "out", [])
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_the_resolved_protocol_repeats_the_evaluation(evaluated, bundles, tmp_path):
    folder = evaluated / "out" / "trial"
    evaluate_protocol(folder / "protocol.yaml", bundles, tmp_path, [])
    again = json.loads((tmp_path / "trial" / "metrics.json").read_text())
    assert again == json.loads((folder / "metrics.json").read_text())


def test_unknown_label_names_the_nearest(manifest, bundles, tmp_path):
    prompts = {"mode": "independent", "labels": {"Oedema": {"positive": ["a"], "negative": ["b"]}}}
    protocol = write_protocol(tmp_path, manifest, {"kind": "zero-shot", "prompts": prompts})
    with pytest.raises(ConfigError, match=r"'Oedema'.*edema"):
        evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_split_is_refused(manifest, bundles, tmp_path):
    protocol = write_protocol(tmp_path, manifest, zero_shot(tmp_path))
    with pytest.raises(ConfigError, match="'valid' holds nothing"):
        evaluate_protocol(protocol, bundles[:1], tmp_path / "out", ["data.split=valid"])


def test_two_bundles_of_one_control_are_refused(evaluated, bundles, tmp_path):
    with pytest.raises(BundleError, match="second bundle of control image-blind"):
        evaluate_protocol(evaluated / "trial.yaml", [bundles[1]] * 2, tmp_path, [])


def test_models_of_one_name_are_told_apart(evaluated, bundles, tmp_path):
    evaluate_protocol(evaluated / "trial.yaml", [bundles[0]] * 2, tmp_path, [])
    frame = pl.read_parquet(tmp_path / "trial" / "predictions.parquet")
    assert {"mine", "mine-2"} <= set(frame["model"])


def test_a_head_without_the_label_is_refused(evaluated, tmp_path):
    bundle = write_bundle(tmp_path / "b", control="supervised-unimodal", labels=("mass",))
    with pytest.raises(BundleError, match="edema"):
        evaluate_protocol(evaluated / "trial.yaml", [bundle], tmp_path / "out", [])


def test_a_sample_that_vanished_is_named_by_its_pseudonym(manifest, bundles, tmp_path):
    protocol = write_protocol(tmp_path, manifest, zero_shot(tmp_path))
    hidden = manifest.parent / "40.png"
    kept = hidden.read_bytes()
    hidden.unlink()
    try:
        with pytest.raises(InputError, match="sample s40") as error:
            evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    finally:
        hidden.write_bytes(kept)
    assert str(hidden) not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_no_bundle_is_refused(evaluated, tmp_path):
    with pytest.raises(InputError, match="--bundle"):
        evaluate_protocol(evaluated / "trial.yaml", [], tmp_path, [])
