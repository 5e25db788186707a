"""Triplet and tool precision against the definition written out, over random cases."""

import sys
import warnings

import numpy as np
import polars as pl
import pytest
from many import many_cases
from sklearn.metrics import average_precision_score

from medvlp.evaluate.metrics.average_precision import (
    PooledPrecision,
    average_precisions,
    first_k,
)
from medvlp.evaluate.metrics.estimate import metric_rows
from medvlp.evaluate.metrics.triplets import (
    COMPONENTS,
    disentangle,
    groups,
    presence_measures,
    triplet_measures,
)
from medvlp.evaluate.predictions import PREDICTIONS

TRIPLETS = (
    "triplet:grasper,retract,gallbladder", "triplet:grasper,grasp,gallbladder",
    "triplet:grasper,retract,liver", "triplet:hook,dissect,gallbladder",
    "triplet:hook,retract,liver", "triplet:hook,null_verb,null_target",
)  # fmt: skip


def table(rows):
    full = [dict.fromkeys(PREDICTIONS.names()) | {"seed": 0, "protocol": "p"} | r for r in rows]
    return pl.DataFrame(full, schema=PREDICTIONS)


def recordings(rng, names, extra=()):
    """A few recordings of a few windows, some of one; coarse scores tie, labels may be empty."""
    rows = []
    for video in range(rng.integers(1, 5)):
        rate = rng.choice([0.0, 0.2, 0.6, 1.0], size=len(names))
        coarse = int(rng.choice([2, 5, 1000]))
        for w in range(rng.choice([1, 2, 7, 20])):
            label = rng.random(len(names)) < rate
            score = rng.integers(0, coarse + 1, len(names) + len(extra)) / coarse
            truth = [*label, *(any_of(label, names, part) for part in extra)]
            rows += [
                {
                    "model": "m", "control": False, "sample": f"v{video}",
                    "patient": f"p{video // 2}", "time_s": w + 0.5, "name": name,
                    "label": int(true), "score": value,
                }
                for name, true, value in zip((*names, *extra), truth, score, strict=True)
            ]  # fmt: skip
    return table(rows)


def any_of(label, names, part):
    kind, word = part.split(":")
    place = ("instrument", "verb", "target").index(kind)
    return any(
        true and name.split(":")[1].split(",")[place] == word
        for true, name in zip(label, names, strict=True)
    )


def literal_precision(label, score):
    """Average precision from its definition: every threshold, one after the other."""
    positives = sum(label)
    if not positives:
        return None
    total, recall_before = 0.0, 0.0
    for limit in sorted(set(score), reverse=True):
        called = [true for true, s in zip(label, score, strict=True) if s >= limit]
        recall, precision = sum(called) / positives, sum(called) / len(called)
        total += (recall - recall_before) * precision
        recall_before = recall
    return total


def mean(values):
    kept = [v for v in values if v is not None]
    return sum(kept) / len(kept) if kept else None


def literal_components(frame, component):
    """{class: {video: ([labels], [scores])}} with plain loops over windows and triplets."""
    places = COMPONENTS[component]
    found = {}
    for row in frame.sort("sample", "time_s").iter_rows(named=True):
        if row["name"].startswith("triplet:"):
            words = row["name"].split(":")[1].split(",")
            name = ",".join(words[place] for place in places)
            window = found.setdefault(name, {}).setdefault(row["sample"], {})
            label, score = window.get(row["time_s"], (0, -1.0))
            window[row["time_s"]] = (max(label, row["label"]), max(score, row["score"]))
    return {
        name: {video: tuple(zip(*w.values(), strict=True)) for video, w in videos.items()}
        for name, videos in found.items()
    }


def compute(frame, measures):
    rows = metric_rows(frame, lambda *_: measures, domain="v", draws=0, confidence=0.95, seed=0)
    return {(r.metric, r.name): r.value for r in rows}


def same(ours, literal, tolerance=1e-6):
    if literal is None or ours is None:
        assert ours is literal
    else:
        assert ours == pytest.approx(literal, abs=tolerance)


@many_cases
def test_precision_of_triplets_and_components_equals_the_definition(count):
    rng = np.random.default_rng(0)
    measures = triplet_measures((2,))
    for _ in range(count // len(COMPONENTS) + 1):
        frame = recordings(rng, TRIPLETS)
        ours = compute(frame, measures)
        for component in COMPONENTS:
            literal = literal_components(frame, component)
            within = {
                name: mean([literal_precision(*pair) for pair in videos.values()])
                for name, videos in literal.items()
            }
            pooled = {
                name: literal_precision(
                    *([value for pair in videos.values() for value in pair[i]] for i in (0, 1))
                )
                for name, videos in literal.items()
            }
            for name in literal:
                key = f"average_precision_video_{component}", name
                same(ours.get(key), within[name], 1e-12)
                same(ours.get((f"average_precision_{component}", name)), pooled[name])
            macro = ours[f"average_precision_video_macro_{component}", "all"]
            same(macro, mean(within.values()), 1e-12)
            same(ours[f"average_precision_macro_{component}", "all"], mean(pooled.values()))


@many_cases
def test_precision_equals_scikit_learn_wherever_a_label_occurs(count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        windows = int(rng.integers(1, 40))
        positive = rng.random((windows, 3)) < rng.choice([0.05, 0.5, 1.0])
        score = rng.integers(0, rng.choice([2, 10, 10**6]), (windows, 3)) / 7
        ours = average_precisions(score, positive)
        assert np.array_equal(np.isnan(ours), ~positive.any(axis=0))
        for k in np.flatnonzero(positive.any(axis=0)):
            expected = average_precision_score(positive[:, k], score[:, k])
            assert ours[k] == pytest.approx(expected, abs=1e-12)


def test_precision_under_weights_is_that_of_repeated_patients():
    rng = np.random.default_rng(2)
    for _ in range(200):
        count = int(rng.integers(2, 30))
        patient = rng.integers(0, 4, count)
        positive, score = rng.random(count) < 0.4, rng.integers(0, 5, count) / 5
        weight = rng.integers(0, 3, 4)
        drawn = np.repeat(np.arange(count), weight[patient])
        ours = PooledPrecision(score, positive, patient, 4)(weight[:, None].astype(np.float32))[0]
        literal = literal_precision(positive[drawn].tolist(), score[drawn].tolist())
        assert (np.isnan(ours) and literal is None) or ours == pytest.approx(literal, abs=1e-6)


def test_components_that_were_asked_for_are_scored_by_their_own_rows():
    extra = ("instrument:grasper", "instrument:hook")
    frame = recordings(np.random.default_rng(3), TRIPLETS, extra)
    ours = compute(frame, triplet_measures(()))
    own = frame.filter(name="instrument:hook")
    values = [
        literal_precision(part["label"].to_list(), part["score"].to_list())
        for part in own.partition_by("sample")
    ]
    same(ours.get(("average_precision_video_i", "hook")), mean(values), 1e-12)
    # verbs were not asked for: still the largest of the triplets
    literal = literal_components(frame, "v")["retract"]
    expected = mean([literal_precision(*pair) for pair in literal.values()])
    same(ours.get(("average_precision_video_v", "retract")), expected, 1e-12)


def test_tools_are_measured_as_they_are():
    frame = recordings(np.random.default_rng(4), ("instrument:hook", "instrument:clipper"))
    ours = compute(frame, presence_measures)
    for name in ("instrument:hook", "instrument:clipper"):
        parts = frame.filter(name=name).partition_by("sample")
        literal = [literal_precision(p["label"].to_list(), p["score"].to_list()) for p in parts]
        same(ours.get(("average_precision_video", name)), mean(literal), 1e-12)


def test_a_constant_scorer_has_the_prevalence_as_its_precision():
    positive = np.arange(50)[:, None] < [5, 20]
    assert average_precisions(np.full((50, 2), 0.3), positive).tolist() == [0.1, 0.4]


def test_only_the_order_of_scores_counts():
    rng = np.random.default_rng(5)
    score, positive = rng.random((60, 4)), rng.random((60, 4)) < 0.3
    assert np.array_equal(
        average_precisions(score, positive), average_precisions(np.exp(9 * score), positive)
    )


def test_first_k_counts_no_tie_at_the_edge():
    score = np.array([[0.9, 0.8, 0.8, 0.1]])
    positive = np.array([[True, True, False, True]])
    assert [first_k(score, positive, k)[0] for k in (1, 2, 3, 4, 9)] == [1, 1, 2, 3, 3]


@many_cases
def test_first_k_equals_a_plain_count(count):
    rng = np.random.default_rng(6)
    for _ in range(count):
        score, positive = rng.integers(0, 6, (3, 8)) / 6, rng.random((3, 8)) < 0.4
        k = int(rng.integers(1, 9))
        literal = [
            sum(p and sum(o >= s for o in row) <= k for s, p in zip(row, truth, strict=True))
            for row, truth in zip(score, positive, strict=True)
        ]
        assert first_k(score, positive, k).tolist() == literal


def test_one_recording_gives_numbers_without_intervals():
    frame = recordings(np.random.default_rng(7), TRIPLETS).filter(sample="v0")
    rows = metric_rows(
        frame, lambda *_: triplet_measures((5,)), domain="v", draws=50, confidence=0.95, seed=0
    )
    assert any(row.value is not None for row in rows)
    assert all(row.low is None and row.high is None for row in rows)


def test_equal_to_the_published_package_where_it_is_installed():
    """With labels that occur in every recording, for then its scikit-learn plays no part."""
    recognition = pytest.importorskip("ivtmetrics.recognition")
    instruments = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator")
    verbs = ("grasp", "retract", "dissect", "coagulate", "clip", "cut", "aspirate", "irrigate",
             "pack", "null_verb")  # fmt: skip
    judge = recognition.Recognition(100)
    names = [f"triplet:{instruments[i]},{verbs[v]},{t}" for _, i, v, t, *_ in judge.bank.tolist()]
    rng = np.random.default_rng(8)
    positive, score = rng.random((2, 60, 100)) < 0.2, rng.integers(0, 50, (2, 60, 100)) / 50
    positive[:, 0] = True
    for video in range(2):
        judge.update(positive[video] * 1, score[video])
        judge.video_end()
    for component in COMPONENTS:
        _, group = groups(names, component)
        ours = np.mean(
            [
                average_precisions(
                    disentangle(score[v], group), disentangle(positive[v] * 1, group) == 1
                )
                for v in range(2)
            ]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert ours == pytest.approx(judge.compute_video_AP(component)["mAP"], abs=1e-6)
    assert "sklearn" in sys.modules
