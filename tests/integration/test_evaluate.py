"""From bundles and a manifest to predictions, metrics and the report."""

import json

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image

from medvlp.config import plain
from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.prompts import prompts_from_labels
from medvlp.data.tokenizer import train_tokenizer
from medvlp.digest import digest_bytes
from medvlp.errors import BundleError, ConfigError, InputError
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.run import evaluate_protocol
from medvlp.evaluate.tasks.retrieval import first_right
from medvlp.losses.objectives import LabelsConfig
from medvlp.models.bundle import load, save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.models.zero_shot import Calibration
from medvlp.report.build import build_report

PATIENTS = 36
PROMPTS = prompts_from_labels(["edema", "mass"])
PHASES = ("opening", "closing")
TEXTS = ("Edema is seen.", "No edema.", "A mass.", "Normal.", "Mass and edema.")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two pictures a study, shared report texts, and labels of all four kinds."""
    root = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    tables = {name: [] for name in ("samples", "texts", "labels", "regions")}
    sources = []
    for i in range(2 * PATIENTS):
        patient = i // 2
        path = root / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(path)
        sources.append({"source": f"src{i}", "part": 0, "path": str(path)})
        tables["samples"].append(
            {
                "sample": f"s{i:02d}", "domain": "cxr", "patient": f"p{patient:02d}",
                "study": f"t{patient:02d}", "source": f"src{i}", "sha256": f"{i:064x}",
                "kind": "image", "split": "train" if patient < 12 else "test",
                "sex": "FM"[patient % 2], "view": "PA", "duration_s": 10.0,
            }
        )  # fmt: skip
        tables["texts"].append(
            {
                "sample": f"s{i:02d}", "node": f"n{i}", "level": "report", "source": "report",
                "order": 0, "text": TEXTS[patient % len(TEXTS)],
            }
        )  # fmt: skip
        edema = {0: None, 2: -1.0}.get(i % 24, float(patient % 2))
        for name, value in (("edema", edema), ("mass", float(rng.random() < 0.5))):
            tables["labels"].append(
                {"sample": f"s{i:02d}", "name": name, "value": value, "source": "table"}
            )
        for name, span in zip(PHASES, ((0.0, 4.0), (4.0, 8.0)), strict=True):
            tables["regions"].append(
                {"sample": f"s{i:02d}", "name": name, "kind": "interval", "geometry": list(span)}
            )
    # one archive may hold several domains: this one is none of the protocol's
    tables["samples"].append(
        {
            "sample": "other", "domain": "volumetric", "patient": "p90", "study": "t90",
            "source": "src90", "sha256": "9" * 64, "kind": "series", "split": "test",
        }
    )  # fmt: skip
    tables["texts"].append(
        {"sample": "other", "node": "n90", "level": "report", "source": "report", "order": 0,
         "text": "CT."}
    )  # fmt: skip
    tables["labels"].append({"sample": "other", "name": "mass", "value": 1.0, "source": "table"})
    sources.append({"source": "src90", "part": 0, "path": str(root / "absent")})
    info = {"key_id": "test", "counts": {}}
    write_manifest(root / "manifest", tables, sources, info, key=b"k" * 32)
    return root / "manifest"


def write_bundle(folder, seed=0, control="none", thresholds=None, labels=("mass", "edema")):
    torch.manual_seed(seed)
    image = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
    tokenizer = train_tokenizer(list(TEXTS) * 3, 300)
    towers = image.build(1), text.build(len(tokenizer), tokenizer.pad_token_id)
    model = TwoTower(TwoTowerConfig(embed=8), *towers)
    head = LabelsConfig().build(model.sizes(labels=len(labels)))
    save_bundle(
        folder, model=model, domain="cxr", preprocess=CxrPreprocessConfig(size=32), image=image,
        text=text, tokenizer=tokenizer, objectives={"labels": (LabelsConfig(), head)},
        label_names=labels, prompts=PROMPTS,
        calibration=Calibration(prompts=PROMPTS.digest, thresholds=thresholds or {"mass": 0.5}),
        provenance={"control": control},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        write_bundle(root / "mine" / "bundle", 0),
        write_bundle(root / "blind" / "bundle", 0, "image-blind"),
        write_bundle(root / "labels" / "bundle", 1, "supervised-unimodal"),
    ]


def write_protocol(folder, manifest, task, name="trial", **more):
    values = {
        "name": name, "version": 1, "domain": "cxr", "task": task,
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values | more))
    return path


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


def predictions(folder):
    return pl.read_parquet(folder / "out" / "trial" / "predictions.parquet")


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
