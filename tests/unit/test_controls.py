"""Controls lie at their chance level, and say why they are not in a table."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from medvlp.data.items import Item
from medvlp.domain import domains
from medvlp.evaluate.controls.border import SIDE, fitted, frame, strangers
from medvlp.evaluate.controls.computed import border_only, computed, random_label
from medvlp.evaluate.controls.table import BUNDLES, COMPUTED, CONTROLS, UNFIT, told_controls
from medvlp.evaluate.leakage.leak import WORD_TASKS
from medvlp.evaluate.metrics.chance import (
    Facts,
    all_positive_f1,
    hit_at,
    level,
    row_levels,
)
from medvlp.evaluate.protocol import TASKS


def item(i, patient, labels=(0.0,)):
    return Item(
        sample=f"s{i}", patient=patient, sha256="", source_paths=(), span=None, texts=(),
        labels_L=np.array(labels, dtype=np.float32), split="test",
    )  # fmt: skip


def cohort(n, seed, prevalence=0.3):
    """Items of about n / 2 patients, with one label."""
    rng = np.random.default_rng(seed)
    return [
        item(i, f"p{rng.integers(n // 2)}", (float(rng.random() < prevalence),)) for i in range(n)
    ]


def truth(items):
    return np.array([one.labels_L[0] for one in items])


def test_strangers_never_hand_out_a_patients_own_scores():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        patients = [f"p{rng.integers(12)}" for _ in range(60)]
        found = strangers(patients, rng)
        assert sorted(found) == list(range(60))
        assert all(patients[a] != patients[b] for a, b in enumerate(found))


def test_a_perfect_model_on_permuted_truth_lies_at_chance():
    areas = []
    for seed in range(40):
        items = cohort(300, seed)
        scores = random_label(truth(items)[:, None].astype(float), items, seed)
        areas.append(roc_auc_score(truth(items), scores[:, 0]))
    # Forty cohorts: the mean is known to about 0.005.
    assert np.mean(areas) == pytest.approx(0.5, abs=0.02)
    assert np.std(areas) < 0.06


def test_chance_and_all_positive_lie_at_their_levels():
    meta = {f"s{i}": dict.fromkeys(("sex", "age_band", "view", "site", "scanner"), None)
            for i in range(400)}  # fmt: skip
    area, precision = [], []
    for seed in range(40):
        items = cohort(400, seed)
        rows = computed(items, items, 1, meta, seed)
        y, p = truth(items), truth(items).mean()
        area.append(roc_auc_score(y, rows["chance"][:, 0]) - 0.5)
        precision.append(average_precision_score(y, rows["chance"][:, 0]) - p)
        positive = rows["all-positive"][:, 0]
        assert f1_score(y, positive >= 0.5) == pytest.approx(all_positive_f1(p))
        for name in ("all-positive", "prevalence", "metadata-only"):
            assert roc_auc_score(y, rows[name][:, 0]) == 0.5
            assert average_precision_score(y, rows[name][:, 0]) == pytest.approx(p)
    assert np.mean(area) == pytest.approx(0, abs=0.02)
    assert np.mean(precision) == pytest.approx(0, abs=0.02)


def pictures(items, marked):
    """Noise with a bright square in the middle of positives; a corner mark where asked for."""
    made = []
    for one in items:
        rng = np.random.default_rng(int(one.sample[1:]))
        values = rng.normal(100, 10, (80, 80))
        if one.labels_L[0]:
            values[30:50, 30:50] += 60
            if marked:
                values[2:7, 2:6] += 60
        made.append(values)
    return made


@pytest.mark.parametrize("marked", [False, True])
def test_border_only_sees_marks_and_not_the_finding(marked):
    areas = []
    for seed in range(6):
        items = cohort(300, seed, 0.4)
        train = [item(1000 + i, one.patient, one.labels_L) for i, one in enumerate(items)]
        test = cohort(300, seed + 50, 0.4)

        def look(seen):
            return np.stack([frame(view) for view in pictures(seen, marked)])

        scores = border_only(test, train, 1, look, seed)
        areas.append(roc_auc_score(truth(test), scores[:, 0]))
    if marked:
        assert min(areas) > 0.95
    else:
        assert np.mean(areas) == pytest.approx(0.5, abs=0.04)


def test_a_frame_holds_the_outer_tenth_of_any_picture():
    inner = np.zeros((200, 120))
    inner[24:-24, 15:-15] = 1000.0
    assert frame(inner).shape == (SIDE**2 - (SIDE - 8) ** 2,)
    assert frame(inner).max() == 0.0


def test_a_label_that_training_never_shows_keeps_its_fallback():
    features = np.random.default_rng(0).normal(size=(10, 3))
    labels = np.stack([np.zeros(10), np.full(10, np.nan)], axis=1)
    fallback = np.tile([0.25, 0.5], (10, 1))
    assert (fitted(features, labels, features, fallback) == fallback).all()


def test_every_control_stands_in_a_table_or_says_why_not():
    for task in (*UNFIT, "another"):
        for models in ([], ["mine", "chance"], CONTROLS):
            told = told_controls(task, models)
            assert tuple(told) == CONTROLS
            assert all(value == "row" for name, value in told.items() if name in models)
            assert all(len(value) > 10 for name, value in told.items() if name not in models)
    assert set(COMPUTED) & set(BUNDLES) == set()


def test_tables_of_tasks_name_kinds_that_there_are():
    kinds = {*TASKS, *(kind for domain in domains().values() for kind in domain.tasks)}
    assert set(UNFIT) <= kinds
    assert kinds >= WORD_TASKS


def test_hits_by_chance_are_those_of_five_classes_of_two_hundred():
    assert [round(100 * hit_at(k, 1000, 200), 1) for k in (1, 5, 10)] == [20.0, 67.3, 89.4]
    assert level("precision_at_10", Facts(candidates=1000, right=200)) == 0.2


def test_levels_of_ranks_equal_those_of_every_order():
    orders = list(itertools.permutations(range(6)))
    for right in (1, 2, 4):
        first = np.array([1 + min(order.index(i) for i in range(right)) for order in orders])
        facts = Facts(candidates=6, right=right)
        for k in range(1, 7):
            assert level(f"recall_at_{k}", facts) == pytest.approx((first <= k).mean())
        if right == 1:
            assert level("reciprocal_rank", facts) == pytest.approx((1 / first).mean())
            assert level("median_rank", facts) == np.quantile(first, 0.5, method="lower")


def test_rows_get_the_levels_of_their_data():
    def row(metric, name, value, n=100):
        return {"metric": metric, "name": name, "value": value, "n": n}

    rows = [
        row("auroc", "mass", 0.8), row("average_precision", "mass", 0.6),
        row("prevalence", "mass", 0.2), row("prevalence", "edema", 0.4),
        row("prevalence", "rare", 0.05), row("average_precision_macro", "all", 0.5),
        row("recall_at_5", "image-to-text/report", 0.3),
        row("recall_at_5", "text-to-image/report", 0.3), row("calibration_error", "mass", 0.1),
    ]  # fmt: skip
    counts = {"report_distinct_texts": 50, "report_studies": 60}
    assert row_levels(rows, counts) == {
        ("auroc", "mass"): 0.5,
        ("average_precision", "mass"): 0.2,
        # "rare" has five positives and is in no macro mean.
        ("average_precision_macro", "all"): pytest.approx(0.3),
        ("recall_at_5", "image-to-text/report"): pytest.approx(0.1),
    }
    assert level("accuracy", Facts(classes=7)) == pytest.approx(1 / 7)
    assert level("accuracy", Facts()) is None
