"""Metric rows against scikit-learn and hand cases; pure functions, so there is no second rank."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from medvlp.evaluate.metrics.estimate import metric_rows
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.metrics.phases import phase_measures, phase_table
from medvlp.evaluate.metrics.retrieval import retrieval_measures
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.models.zero_shot import at_specificity


def table(rows):
    full = [dict.fromkeys(PREDICTIONS.names()) | {"seed": 0, "protocol": "p"} | r for r in rows]
    return pl.DataFrame(full, schema=PREDICTIONS)


def compute(frame, measures, draws=50):
    rows = metric_rows(
        frame, lambda *_: measures, domain="cxr", draws=draws, confidence=0.95, seed=0
    )
    return {(r.model, r.metric, r.name): r for r in rows}


def findings(rng, samples=200, labels=("edema", "mass")):
    return table(
        {
            "model": model,
            "control": model == "chance",
            "sample": f"s{i}",
            "patient": f"p{i // 2}",
            "name": name,
            "label": int(rng.random() < 0.3),
            "score": rng.random(),
        }
        for model in ("mine", "chance")
        for i in range(samples)
        for name in labels
        if rng.random() < 0.9
    )


def test_finding_rows_equal_scikit_learn():
    frame = findings(np.random.default_rng(0))
    rows = compute(frame, finding_measures({"edema": 0.4}))
    for model in ("mine", "chance"):
        macro = []
        for name in ("edema", "mass"):
            part = frame.filter((pl.col("model") == model) & (pl.col("name") == name))
            label, score = part["label"].to_numpy(), part["score"].to_numpy()
            row = rows[model, "auroc", name]
            macro.append(roc_auc_score(label, score))
            assert row.value == pytest.approx(macro[-1])
            assert row.n == len(part)
            assert row.low < row.value < row.high
            assert rows[model, "average_precision", name].value == pytest.approx(
                average_precision_score(label, score), abs=1e-6
            )
            assert rows[model, "prevalence", name].value == pytest.approx(label.mean())
        assert rows[model, "auroc_macro", "all"].value == pytest.approx(np.mean(macro))
    assert rows["chance", "auroc", "mass"].control
    part = frame.filter((pl.col("model") == "mine") & (pl.col("name") == "edema"))
    called = part["score"].to_numpy() >= 0.4
    label = part["label"].to_numpy() == 1
    assert rows["mine", "recall", "edema"].value == pytest.approx(called[label].mean())
    assert rows["mine", "specificity", "edema"].value == pytest.approx((~called[~label]).mean())
    assert ("mine", "recall", "mass") not in rows


def test_rare_labels_are_shown_but_left_out_of_the_macro_mean():
    rng = np.random.default_rng(1)
    frame = findings(rng, labels=("edema",))
    rare = table(
        {
            "model": "mine", "control": False, "sample": f"s{i}", "patient": f"p{i // 2}",
            "name": "rare", "label": int(i < 9), "score": float(i < 9),
        }
        for i in range(200)
    )  # fmt: skip
    rows = compute(pl.concat([frame, rare]), finding_measures({}))
    assert rows["mine", "auroc", "rare"].value == 1.0
    assert rows["mine", "auroc_macro", "all"].value == rows["mine", "auroc", "edema"].value


def test_a_label_without_positives_gives_null_and_no_macro():
    frame = table(
        {"model": "m", "control": False, "sample": f"s{i}", "patient": f"p{i}", "name": "x",
         "label": 0, "score": 0.5}
        for i in range(20)
    )  # fmt: skip
    rows = compute(frame, finding_measures({}))
    assert rows["m", "auroc", "x"].value is None
    assert rows["m", "auroc", "x"].undefined_draws == 50
    assert rows["m", "auroc_macro", "all"].value is None


def phases(seed=0, videos=5, windows=40, names=("a", "b", "c", "d")):
    rng = np.random.default_rng(seed)
    out = []
    for video in range(videos):
        for w in range(windows):
            # the last phase never happens in odd videos
            truth = rng.integers(len(names) - video % 2)
            score = rng.random(len(names))
            score[truth] += 0.4
            out += [
                {
                    "model": "m", "control": False, "sample": f"v{video}", "patient": f"p{video}",
                    "name": name, "label": int(k == truth), "score": score[k], "time_s": w + 0.5,
                }
                for k, name in enumerate(names)
            ]  # fmt: skip
    return table(out)


def test_phase_rows_equal_scikit_learn_framewise_and_by_video():
    frame = phases()
    rows = compute(frame, phase_measures)
    wide = frame.group_by("sample", "time_s", maintain_order=True).agg(
        truth=pl.col("label").arg_max(), predicted=pl.col("score").arg_max()
    )
    truth, predicted = wide["truth"], wide["predicted"]
    assert rows["m", "accuracy", "all"].value == pytest.approx(accuracy_score(truth, predicted))
    expected = f1_score(truth, predicted, average="macro")
    assert rows["m", "f1_macro", "all"].value == pytest.approx(expected)
    each = f1_score(truth, predicted, average=None)
    assert rows["m", "f1", "b"].value == pytest.approx(each[1])
    per_video = [
        f1_score(v["truth"], v["predicted"], average="macro") for v in wide.partition_by("sample")
    ]
    assert rows["m", "f1_macro_video", "all"].value == pytest.approx(np.mean(per_video))
    names, counts = phase_table(frame)
    assert names == ["a", "b", "c", "d"]
    assert counts.trace() / counts.sum() == pytest.approx(rows["m", "accuracy", "all"].value)


def test_phase_bootstrap_draws_patients_not_windows():
    """Two patients make three kinds of draw, however many windows and videos they have."""
    frame = phases(videos=6)
    owner = pl.col("sample").replace_strict({f"v{i}": f"p{i % 2}" for i in range(6)})
    row = compute(frame.with_columns(patient=owner), phase_measures)["m", "accuracy", "all"]
    each = [
        compute(frame.with_columns(patient=owner).filter(patient=p), phase_measures)
        for p in ("p0", "p1")
    ]
    bounds = sorted(rows["m", "accuracy", "all"].value for rows in each)
    assert [row.low, row.high] == pytest.approx(bounds)


def test_one_patient_gives_no_interval():
    one_patient = phases(videos=3).with_columns(patient=pl.lit("same"))
    row = compute(one_patient, phase_measures)["m", "accuracy", "all"]
    assert row.value is not None
    assert (row.low, row.high, row.undefined_draws) == (None, None, 0)


def test_windows_without_a_true_phase_are_left_out():
    frame = phases(videos=1)
    outside = frame.with_columns(label=pl.lit(0, pl.Int8), time_s=pl.col("time_s") + 1000)
    rows = compute(pl.concat([frame, outside]), phase_measures)
    assert rows["m", "accuracy", "all"].n == 40


def test_retrieval_by_hand():
    ranks = [1, 2, 7, 12]
    frame = table(
        {"model": "m", "control": False, "sample": f"s{i}", "patient": f"p{i}",
         "name": "image-to-text/report", "label": 1, "score": 1 / rank}
        for i, rank in enumerate(ranks)
    )  # fmt: skip
    rows = compute(frame, retrieval_measures((1, 5, 10)))
    name = "image-to-text/report"
    assert rows["m", "recall_at_1", name].value == 0.25
    assert rows["m", "recall_at_5", name].value == 0.5
    assert rows["m", "recall_at_10", name].value == 0.75
    assert rows["m", "median_rank", name].value == 2
    assert rows["m", "reciprocal_rank", name].value == pytest.approx(np.mean(1 / np.array(ranks)))


def test_models_share_their_draws():
    """Two names for the same scores get the same interval, to the last bit."""
    frame = findings(np.random.default_rng(2)).filter(pl.col("model") == "mine")
    twin = frame.with_columns(model=pl.lit("twin"))
    rows = compute(pl.concat([frame, twin]), finding_measures({}))
    a, b = rows["mine", "auroc", "edema"], rows["twin", "auroc", "edema"]
    assert (a.low, a.high) == (b.low, b.high)


def test_a_threshold_of_validation_data_gives_what_it_gives():
    frame = findings(np.random.default_rng(0))
    operating = {"90": {"edema": 0.7, "mass": 0.8}, "95": {"edema": 0.9}}
    rows = compute(frame, finding_measures({}, None, operating))
    for name, limit in operating["90"].items():
        part = frame.filter((pl.col("model") == "mine") & (pl.col("name") == name))
        present = part["label"].to_numpy() == 1
        called = part["score"].to_numpy() >= limit
        found = rows["mine", "sensitivity_validated_90", name]
        assert found.value == pytest.approx(called[present].mean())
        assert found.n == present.sum()
        kept = rows["mine", "specificity_validated_90", name]
        assert kept.value == pytest.approx((~called)[~present].mean())
    assert ("mine", "sensitivity_validated_90_macro", "all") in rows
    assert ("mine", "sensitivity_validated_95", "mass") not in rows
    # one label without a threshold would make the mean about other labels
    assert ("mine", "sensitivity_validated_95_macro", "all") not in rows


def test_the_least_threshold_that_reaches_a_specificity():
    rng = np.random.default_rng(5)
    for _ in range(1000):
        label = np.append(rng.integers(0, 2, rng.integers(3, 40)), [0, 1]).astype(float)
        score = rng.integers(0, 12, len(label)) / 12  # many ties
        for wanted in (0.5, 0.9, 0.95, 1.0):
            limit = at_specificity(label, score, wanted)
            negative = score[label == 0]
            assert (negative < limit).mean() >= wanted - 1e-12
            tried = [t for t in np.unique(score) if (negative < t).mean() >= wanted]
            # no threshold that calls more reaches it
            assert set(score[score >= limit]) == set(score[score >= min(tried, default=2)])
