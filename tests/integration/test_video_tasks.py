"""Phases, tools, triplets and moments from recordings to metrics, on phantoms and a real set."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from medvlp.archive.index import index_archive
from medvlp.data.relations import Names
from medvlp.errors import ConfigError
from medvlp.evaluate.metrics.triplets import groups
from medvlp.evaluate.run import evaluate_protocol
from medvlp.losses.objectives import LabelsConfig
from medvlp.models.bundle import load, save_bundle
from medvlp_video.phantom_story import PHASES

VIDEO = Path(__file__).parents[2] / "configs" / "evaluate" / "video"
SMALL = ["data.phantom.n=8", "data.phantom.settings=[seconds=12, size=64, fps=4]",
         "bootstrap.draws=40"]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


def run(out, bundle, name, *overrides):
    protocol = VIDEO / f"{name}.yaml"
    evaluate_protocol(protocol, [bundle], out, [*SMALL, *overrides])
    folder = out / name
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return pl.read_parquet(folder / "predictions.parquet"), {
        (row["model"], row["metric"], row["name"]): row for row in rows
    }


def test_triplets_of_the_phantom_are_asked_and_measured(out, tiny_bundle):
    frame, rows = run(out, tiny_bundle("video"), "phantom-triplets")
    assert {"video", "chance"} <= set(frame["model"])
    own = frame.filter(model="video")
    triplets = [name for name in own["name"].unique() if name.startswith("triplet:")]
    kinds = {name.partition(":")[0] for name in own["name"].unique()}
    assert kinds == {"triplet", "instrument", "verb", "target"}
    for component in ("i", "v", "t", "iv", "it", "ivt"):
        row = rows["video", f"average_precision_video_macro_{component}", "all"]
        assert row["low"] <= row["value"] <= row["high"]
        occurring = {
            name
            for (model, metric, name) in rows
            if model == "chance" and metric == f"average_precision_{component}"
        }
        assert occurring - {"all"} <= set(groups(triplets, component)[0])
    # each kind is asked apart: probabilities of one window sum to one within it
    sums = (
        own.with_columns(kind=pl.col("name").str.split(":").list.first())
        .group_by("sample", "time_s", "kind")
        .agg(pl.col("score").sum())
    )
    assert sums["score"].to_numpy() == pytest.approx(1.0)
    # exactly one deed is done at any time, so one component of each kind is true
    true = own.filter(label=1).group_by("sample", "time_s").agg(pl.col("name").n_unique())
    assert set(true["name"]) == {4}


def test_components_alone_multiply(out, tiny_bundle):
    frame, _ = run(out, tiny_bundle("video"), "phantom-triplets", "task.ask=components")
    own = frame.filter(model="video")
    window = own.filter(pl.col("time_s") == own["time_s"][0], pl.col("sample") == own["sample"][0])
    score = dict(window.select("name", "score").iter_rows())
    for name in (n for n in score if n.startswith("triplet:")):
        words = name.removeprefix("triplet:").split(",")
        parts = [f"{k}:{w}" for k, w in zip(("instrument", "verb", "target"), words, strict=True)]
        assert score[name] == pytest.approx(np.prod([score[part] for part in parts]))


def test_fewer_classes_than_expected_are_refused(out, tiny_bundle):
    with pytest.raises(ConfigError, match="100 expected"):
        run(out, tiny_bundle("video"), "phantom-triplets", "task.expected=100")


def test_tools_of_the_phantom_and_chance_at_the_prevalence(out, tiny_bundle):
    frame, rows = run(
        out, tiny_bundle("video"), "phantom-tools", "data.phantom.n=16", "task.stride_s=0.25"
    )
    for name in frame["name"].unique():
        chance = rows["chance", "average_precision", name]
        prevalence = rows["chance", "prevalence", name]["value"]
        assert chance["value"] == pytest.approx(prevalence, abs=0.12)
    assert rows["video", "average_precision_video_macro", "all"]["value"] is not None


def test_moments_of_the_phantom_are_listed_and_counted(out, tiny_bundle):
    frame, rows = run(out, tiny_bundle("video"), "phantom-moments")
    answers = pl.read_parquet(out / "phantom-moments" / "moments.parquet")
    assert set(answers["name"]) == {"recording", "split"}
    assert answers.group_by("model", "name", "query").agg(pl.len())["len"].max() <= 5
    # in its own recording, an answer is of that recording
    own = answers.filter(name="recording")
    assert (own["sample"] == own["answer"]).all()
    for scope in ("recording", "split"):
        recalls = [
            rows["video", "recall_at_5", f"{scope}/tiou-{overlap}"]["value"]
            for overlap in (0.3, 0.5, 0.7)
        ]
        assert recalls == sorted(recalls, reverse=True)
        one = rows["video", "recall_at_1", f"{scope}/tiou-0.3"]["value"]
        assert one <= recalls[0]
    assert set(frame["label"]) == {1}


def test_the_protocols_contract_reaches_every_model(out, tiny_bundle, monkeypatch):
    """One frame a window instead of the bundle's four, and other scores."""
    bundle = tiny_bundle("video")
    own, _ = run(out, bundle, "phantom-tools")
    one, _ = run(out, bundle, "phantom-tools", "task.contract={frames: 1, sampling: center}")
    assert load(bundle).preprocess.config.frames == 4
    scores = [frame.filter(model="video")["score"].to_numpy() for frame in (own, one)]
    assert scores[0].shape == scores[1].shape
    assert not np.allclose(*scores)
    with pytest.raises(ConfigError, match=r"task\.contract.*framez"):
        run(out, bundle, "phantom-tools", "task.contract={framez: 1}")


def test_time_that_nobody_annotated_is_left_out(out, tiny_bundle):
    with pytest.raises(ConfigError, match="begins with 'nowhere:'"):
        run(out, tiny_bundle("video"), "phantom-tools", "task.within='nowhere:'")


def test_a_label_head_answers_for_triplets_and_their_components(out, tiny_bundle, tmp_path):
    frame, _ = run(out, tiny_bundle("video"), "phantom-triplets")
    triplets = tuple(n for n in frame["name"].unique().sort() if n.startswith("triplet:"))
    plain = load(tiny_bundle("video"))
    head = LabelsConfig().build(plain.model.sizes(Names(labels=triplets)))
    save_bundle(
        tmp_path / "b", model=plain.model, domain="video", preprocess=plain.preprocess.config,
        image=plain.info.image, text=plain.info.text, tokenizer=plain.tokenizer,
        objectives={"labels": (LabelsConfig(), head)}, names=Names(labels=triplets),
        provenance={"control": "supervised-unimodal"},
    )  # fmt: skip
    frame, rows = run(out, tmp_path / "b", "phantom-triplets")
    own = frame.filter(model="supervised-unimodal")
    place = pl.col("sample") == own["sample"][0], pl.col("time_s") == own["time_s"][0]
    score = dict(own.filter(*place).select("name", "score").iter_rows())
    best = max(v for n, v in score.items() if n.startswith("triplet:hook,"))
    assert score["instrument:hook"] == best
    assert rows["supervised-unimodal", "average_precision_macro_i", "all"]["control"]


def test_the_true_order_is_compared_with_wrong_ones(out, tiny_bundle):
    frame, rows = run(out, tiny_bundle("video"), "phantom-order", "task.window_s=1")
    assert {"video", "chance"} <= set(frame["model"])
    wrong = {f"{level}/{kind}" for level in ("phase", "step")
             for kind in ("reverse", "swap", "shuffle")}  # fmt: skip
    assert set(frame["name"]) == wrong
    assert frame["score"].is_between(0, 1).all()
    each = [rows["video", "order_accuracy", name]["value"] for name in sorted(wrong)]
    assert rows["video", "order_accuracy_macro", "all"]["value"] == pytest.approx(np.mean(each))
    with pytest.raises(ConfigError, match="two texts in time at levels procedure"):
        run(out, tiny_bundle("video"), "phantom-order", "task.levels=[procedure]")


def test_few_procedures_teach_phases_to_a_linear_head(out, tiny_bundle):
    frame, rows = run(
        out, tiny_bundle("video"), "phantom-phase-probe", "data.phantom.n=20", "task.subset=100%",
        "task.strengths=[0.01, 1.0]",
    )  # fmt: skip
    assert {"video", "chance", "random-encoder", "image-blind", "random-label"} <= set(
        frame["model"]
    )
    sums = frame.filter(model="video").group_by("sample", "time_s").agg(pl.col("score").sum())
    assert sums["score"].to_list() == pytest.approx([1.0] * len(sums))
    assert "edit_score" in {metric for model, metric, _ in rows if model == "video"}
    assert (out / "phantom-phase-probe" / "trials.parquet").is_file()
    with pytest.raises(ConfigError, match="share of the procedures"):
        run(out, tiny_bundle("video"), "phantom-phase-probe", "task.subset=1-shot")


@pytest.mark.soak
def test_steps_are_asked_like_phases(out, tiny_bundle, tmp_path):
    labels = {
        f"step:{step}": {"positive": [step]} for steps in PHASES.values() for step in steps
    }  # fmt: skip
    values = yaml.safe_load((VIDEO / "phantom-tools.yaml").read_text())
    values |= {
        "name": "steps",
        "task": {"kind": "phases", "prompts": {"mode": "exclusive", "labels": labels},
                 "window_s": 1, "stride_s": 0.5, "convention": "tecno", "tolerance_s": 1},
    }  # fmt: skip
    (tmp_path / "steps.yaml").write_text(yaml.safe_dump(values))
    told = evaluate_protocol(
        tmp_path / "steps.yaml", [tiny_bundle("video")], out, [*SMALL, "data.phantom.n=30"]
    )
    assert "f1_present_macro" in told
    assert "f1_macro all" not in told
    rows = json.loads((out / "steps" / "metrics.json").read_text())["rows"]
    value = {(row["model"], row["metric"], row["name"]): row["value"] for row in rows}
    relaxed = value["video", "accuracy_video_relaxed", "all"]
    assert value["video", "accuracy_video", "all"] <= relaxed


@pytest.fixture(scope="module")
def vid73(shared, tmp_path_factory):
    root = tmp_path_factory.mktemp("cholect50") / "manifest"
    index_archive(
        shared / "data" / "surg-cholect50", kind="cholect50", out=root,
        overrides=["options.splits={test: [73]}"],
    )  # fmt: skip
    return root


@pytest.mark.parametrize("name", ["cholect50-triplets", "cholect50-phases"])
def test_one_real_operation_gives_numbers_without_intervals(out, tiny_bundle, vid73, shared, name):
    """One video is one cluster: there is nothing to draw from, and no interval is made up."""
    labels = shared / "data" / "surg-cholect50" / "labels" / "VID73.json"
    classes = ["task.expected=100", f"task.classes={labels}"] if "triplets" in name else []
    evaluate_protocol(
        VIDEO / f"{name}.yaml", [tiny_bundle("video")], out,
        [f"data.manifests=[{vid73}]", *classes],
    )  # fmt: skip
    told = json.loads((out / name / "metrics.json").read_text())
    rows = {(row["model"], row["metric"], row["name"]): row for row in told["rows"]}
    assert all(row["low"] is None and row["high"] is None for row in told["rows"])
    frame = pl.read_parquet(out / name / "predictions.parquet")
    windows = frame.filter(model="video").select("sample", "time_s").unique()
    assert len(windows) == 160  # the labelled frames, of 176
    assert told["counts"]["windows_left_out"] > 1000  # seconds of which the set has no frame
    if "triplets" in name:
        assert told["counts"]["triplets"] == 100
        assert rows["video", "average_precision_video_macro_ivt", "all"]["value"] > 0
        one, all_ = (
            rows["video", f"average_precision{way}_i", "hook"]["value"] for way in ("_video", "")
        )
        assert one == pytest.approx(all_, abs=1e-6)
    if "phases" in name:
        assert rows["video", "f1_macro_video", "all"]["value"] == pytest.approx(
            rows["video", "f1_macro", "all"]["value"]
        )
