"""Retrieval, rules, ensembles and phases, from a manifest to what is written."""

import json

import numpy as np
import polars as pl
import pytest
from labelled_pictures import (
    PATIENTS,
    PHASES,
    PROMPTS,
    TEXTS,
    predictions,
    write_archive,
    write_bundle,
    write_protocol,
)

from medvlp.config import plain
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.digest import digest_bytes
from medvlp.errors import InputError
from medvlp.evaluate.predict import Study
from medvlp.evaluate.rules import RULES
from medvlp.evaluate.run import evaluate_protocol, staged
from medvlp.evaluate.scorers import open_scorers
from medvlp.evaluate.tasks.retrieval import first_right
from medvlp.evaluate.tasks.zero_shot import ZeroShotConfig
from medvlp.models.bundle import load


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


def test_what_bears_the_protocol_s_name_and_is_no_evaluation_stays(tmp_path):
    kept = tmp_path / "trial" / "archive.dcm"
    kept.parent.mkdir()
    kept.write_text("a hospital's")
    with pytest.raises(InputError, match="holds no evaluation"), staged(tmp_path, "trial"):
        pass
    assert kept.read_text() == "a hospital's"
    kept.rename(kept.with_name("study.json"))
    with staged(tmp_path, "trial") as folder:
        (folder / "new").write_text("")
    assert [path.name for path in (tmp_path / "trial").iterdir()] == ["new"]


def test_retrieval_ranks_equal_a_plain_loop(manifest, bundles, tmp_path):
    protocol = write_protocol(tmp_path, manifest, {"kind": "retrieval"})
    evaluate_protocol(protocol, bundles, tmp_path / "out", [])
    frame = predictions(tmp_path)
    assert set(frame["model"]) == {"mine", "image-blind", "chance"}
    bundle = load(bundles[0])
    image = bundle.embed_image([manifest.parent / f"{i}.png" for i in range(24, 72)])
    study = [(a + b) / np.linalg.norm(a + b) for a, b in zip(image[::2], image[1::2], strict=True)]
    words = [TEXTS[patient % 5] for patient in range(12, 36)]
    text = dict(zip(TEXTS, bundle.embed_text(list(TEXTS)), strict=True))
    rows = frame.filter(pl.col("model") == "mine")
    to_text = rows.filter(name="image-to-text/report").sort("sample")
    assert len(to_text) == 24
    for vector, own, score in zip(study, words, to_text["score"], strict=True):
        better = sum(vector @ text[t] >= vector @ text[own] for t in TEXTS if t != own)
        assert score == pytest.approx(1 / (1 + better))
    to_image = rows.filter(name="text-to-image/report")
    assert len(to_image) == len(TEXTS)
    for own, score in zip(to_image["sample"], to_image["score"], strict=True):
        mine = words[(int(own[1:]) - 24) // 2]
        best = max(text[mine] @ v for v, w in zip(study, words, strict=True) if w == mine)
        better = sum(text[mine] @ v >= best for v, w in zip(study, words, strict=True) if w != mine)
        assert score == pytest.approx(1 / (1 + better))
    ranks = pl.read_parquet(tmp_path / "out" / "trial" / "ranks.parquet")
    assert len(ranks) == len(frame)
    assert ranks["answers"].list.len().min() == len(TEXTS)


def test_single_images_ask_alone_for_the_text_of_their_study(manifest, bundles, tmp_path):
    protocol = write_protocol(tmp_path, manifest, {"kind": "retrieval", "unit": "image"})
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    rows = predictions(tmp_path).filter(pl.col("model") == "mine")
    assert rows.filter(name="image-to-text/report")["sample"].n_unique() == 48
    bundle = load(bundles[0])
    image = bundle.embed_image([manifest.parent / f"{i}.png" for i in range(24, 72)])
    text = dict(zip(TEXTS, bundle.embed_text(list(TEXTS)), strict=True))
    for own in rows.filter(name="text-to-image/report").iter_rows(named=True):
        mine = TEXTS[int(own["patient"][1:]) % 5]
        said = [TEXTS[i // 2 % 5] for i in range(24, 72)]
        best = max(text[mine] @ v for v, w in zip(image, said, strict=True) if w == mine)
        better = sum(text[mine] @ v >= best for v, w in zip(image, said, strict=True) if w != mine)
        assert own["score"] == pytest.approx(1 / (1 + better))


def test_class_retrieval_counts_reports_of_the_same_finding(manifest, bundles, tmp_path):
    task = {"kind": "class-retrieval", "labels": ["edema", "mass"], "k": [1, 4]}
    protocol = write_protocol(tmp_path, manifest, task)
    evaluate_protocol(protocol, bundles, tmp_path / "out", [])
    labels = pl.read_parquet(manifest / "labels.parquet")
    wide = labels.pivot(on="name", index="sample", values="value").fill_null(0)
    alone = set(wide.filter((pl.col("edema") == 1) != (pl.col("mass") == 1))["sample"])
    frame = predictions(tmp_path)
    assert set(frame["model"]) == {"mine", "image-blind", "chance"}
    assert set(frame["sample"]) <= alone
    for model, part in pl.read_parquet(tmp_path / "out/trial/ranks.parquet").group_by("model"):
        rows = json.loads((tmp_path / "out/trial/metrics.json").read_text())["rows"]
        told = {
            r["metric"]: r["value"] for r in rows if r["model"] == model[0] and r["name"] == "all"
        }
        same = np.array(part["same"].to_list())
        assert told["precision_at_4"] == pytest.approx(same[:, :4].mean())
        assert told["hit_at_4"] == pytest.approx(same[:, :4].any(axis=1).mean())
        assert told["hit_at_1"] == told["precision_at_1"]


def test_a_rule_of_no_probabilities_has_no_calibration(manifest, bundles, tmp_path):
    prompts = {"mode": "exclusive", "labels": {n: {"positive": [n]} for n in ("edema", "mass")}}
    task = {"kind": "zero-shot", "prompts": prompts, "rule": "gloria"}
    protocol = write_protocol(tmp_path, manifest, task)
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    told = json.loads((tmp_path / "out/trial/metrics.json").read_text())
    metrics = {r["metric"] for r in told["rows"]}
    assert told["counts"]["transductive"] == 1
    assert "auroc" in metrics
    assert "accuracy" in metrics
    assert not {m for m in metrics if m.startswith(("brier", "calibration_error", "specificity"))}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A model whose head knows all labels, and one whose head does not."""
    root = tmp_path_factory.mktemp("calibrated")
    taught = {
        "thresholds": {"mass": 0.2, "edema": 0.3},
        "operating": {"90": {"mass": 0.4, "edema": 0.6}},
    }
    paths = [
        write_bundle(root / "head", 0, **taught),
        write_bundle(root / "prompts", 1, labels=("mass",), **taught),
    ]
    return open_scorers(paths, "cxr", None), taught


@pytest.mark.parametrize("rule", RULES)
def test_what_validation_taught_holds_for_our_own_scores_alone(rule, manifest, calibrated):
    scorers, taught = calibrated
    study = Study(
        protocol="trial", domain="cxr", manifests=(Manifest.open(manifest),), split="test", seed=0
    )
    known = {"medvlp": {"head", "prompts"}, "native": {"prompts"}}.get(rule, set())
    asked = scorers[:1] if rule == "label-head" else scorers
    found = ZeroShotConfig(prompts=PROMPTS, rule=rule).predict(study, asked)
    half = {"mass": 0.5, "edema": 0.5} if rule == "cxr-clip" else {}
    for one in asked:
        kept = one.name in known
        assert found.thresholds[one.name] == (taught["thresholds"] if kept else half)
        assert found.operating[one.name] == (taught["operating"] if kept else {})


def test_a_choice_is_among_all_labels_though_reports_deny_few(manifest, bundles, tmp_path):
    names = ("one", "two", "three")
    labels = [
        {"sample": f"s{i:02d}", "name": name, "source": "table",
         "value": 1.0 if name == names[i // 2 % 3] else None}
        for i in range(2 * PATIENTS)
        for name in names
    ]  # fmt: skip
    labels[-2]["value"] = -1.0  # of the last sample: nobody can judge a choice there
    told = Manifest.open(manifest)
    tables = {name: getattr(told, name).to_dicts() for name in ("samples", "texts")}
    sources = [
        {"source": source, "part": 0, "path": str(told.paths(source)[0])}
        for source in told.samples["source"]
    ]
    write_manifest(
        tmp_path / "mined", tables | {"labels": labels}, sources,
        {"key_id": "test", "counts": {}}, key=b"k" * 32,
    )  # fmt: skip
    prompts = {"mode": "exclusive", "labels": {n: {"positive": [n]} for n in names}}
    task = {"kind": "zero-shot", "prompts": prompts, "rule": "cxr-clip"}
    protocol = write_protocol(tmp_path, tmp_path / "mined", task)
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    frame = predictions(tmp_path).filter(pl.col("model") == "mine")
    whole = frame.filter(pl.len().over("sample") == 3).sort("sample", "name")
    assert whole["sample"].n_unique() == frame["sample"].n_unique() - 1 == 47
    score, truth = (whole[c].to_numpy().reshape(-1, 3) for c in ("score", "label"))
    rows = json.loads((tmp_path / "out/trial/metrics.json").read_text())["rows"]
    found = {r["model"]: r["value"] for r in rows if r["metric"] == "accuracy"}
    assert found["mine"] == pytest.approx((score.argmax(1) == truth.argmax(1)).mean())
    assert found["mine"] < 0.7
    assert found["chance"] < 0.7


def test_two_checkpoints_and_their_ensemble(manifest, bundles, tmp_path):
    write_bundle(tmp_path / "second" / "bundle", 5)
    task = {"kind": "zero-shot", "prompts": plain(PROMPTS), "rule": "chexzero", "ensemble": True}
    protocol = write_protocol(tmp_path, manifest, task)
    evaluate_protocol(protocol, [bundles[0], tmp_path / "second" / "bundle"], tmp_path / "out", [])
    frame = predictions(tmp_path).sort("sample", "name")
    score = {m: frame.filter(pl.col("model") == m)["score"] for m in ("mine", "second", "ensemble")}
    np.testing.assert_allclose(score["ensemble"], (score["mine"] + score["second"]) / 2)


def test_where_a_published_copy_lies_is_not_written_down(manifest, bundles, tmp_path):
    copy = "edema as published\nmass as published\n"
    (tmp_path / "theirs.txt").write_text(copy)
    published = {
        "source": "their file", "sha256": digest_bytes(copy.encode()), "layout": "lines",
        "labels": ["edema", "mass"],
    }  # fmt: skip
    own = {"mode": "exclusive", "labels": {n: {"positive": [n]} for n in ("edema", "mass")}}
    task = {"kind": "zero-shot", "prompts": own, "published": published}
    protocol = write_protocol(tmp_path, manifest, task)
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    first = json.loads((tmp_path / "out/trial/metrics.json").read_text())["digest"]
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", ["task.published.path=theirs.txt"])
    told = (tmp_path / "out/trial/protocol.yaml").read_text()
    assert "edema as published" in told
    assert "theirs.txt" not in told
    assert json.loads((tmp_path / "out/trial/metrics.json").read_text())["digest"] != first


def test_first_right_by_hand():
    similarity = np.array([[0.9, 0.5, 0.1], [0.5, 0.5, 0.9], [0.2, 0.3, 0.3]])
    right = np.array([[True, False, False], [True, False, False], [True, True, False]])
    # a tie counts against; of several right ones the best counts
    assert first_right(similarity, right).tolist() == [1, 3, 2]


def test_phases_are_windows_with_one_truth(manifest, bundles, tmp_path):
    prompts = {"mode": "exclusive", "labels": {p: {"positive": [p]} for p in PHASES}}
    task = {"kind": "phases", "prompts": prompts, "window_s": 2, "stride_s": 2}
    protocol = write_protocol(tmp_path, manifest, task)
    evaluate_protocol(protocol, bundles[:1], tmp_path / "out", [])
    frame = predictions(tmp_path).filter(pl.col("model") == "mine")
    # middles at 1, 3, 5, 7 lie in a phase; 9 lies in none
    assert sorted(set(frame["time_s"])) == [1, 3, 5, 7]
    one = frame.filter(sample="s30").sort("time_s", "name")
    assert one["label"].to_list() == [0, 1, 0, 1, 1, 0, 1, 0]
    sums = frame.group_by("sample", "time_s").agg(pl.col("score").sum())["score"]
    np.testing.assert_allclose(sums, 1)
    rows = json.loads((tmp_path / "out/trial/metrics.json").read_text())["rows"]
    assert {"accuracy", "f1", "f1_macro", "f1_macro_video"} <= {r["metric"] for r in rows}
