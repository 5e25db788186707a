"""Phase metrics against literal loops over random recordings, and segments by hand."""

import numpy as np
import polars as pl
import pytest
from many import many_cases

from medvlp.evaluate.metrics.estimate import metric_rows
from medvlp.evaluate.metrics.phases import phase_measures
from medvlp.evaluate.metrics.segments import edit_score, relax, segment_matches, segments
from medvlp.evaluate.predictions import PREDICTIONS

NAMES = ("a", "b", "c", "d")


def recording(rng, stay=0.7, longest=25):
    """A sequence that mostly stays where it is, and a call that mostly follows it."""
    truth = [int(rng.integers(4))]
    for _ in range(int(rng.integers(0, longest))):
        truth.append(truth[-1] if rng.random() < stay else int(rng.integers(4)))
    called = [t if rng.random() < 0.6 else int(rng.integers(4)) for t in truth]
    return truth, called


def frame_of(recordings, step_s=1.0):
    rows = [
        {"model": "m", "seed": 0, "protocol": "p", "control": False, "sample": f"v{v}",
         "patient": f"p{v}", "time_s": (w + 0.5) * step_s, "name": name, "label": int(k == t),
         "score": 0.7 if k == c else 0.1}
        for v, (truth, called) in enumerate(recordings)
        for w, (t, c) in enumerate(zip(truth, called, strict=True))
        for k, name in enumerate(NAMES)
    ]  # fmt: skip
    full = [dict.fromkeys(PREDICTIONS.names()) | row for row in rows]
    return pl.DataFrame(full, schema=PREDICTIONS)


def compute(frame, tolerance_s=None):
    rows = metric_rows(
        frame, lambda *_: lambda part, count: phase_measures(part, count, tolerance_s),
        domain="v", draws=0, confidence=0.95, seed=0,
    )  # fmt: skip
    return {(r.metric, r.name): r.value for r in rows}


def shares(truth, called, k):
    """Precision, recall, F1 and Jaccard of a label, 0 for 0/0."""
    pairs = list(zip(truth, called, strict=True))
    right = sum(t == k and c == k for t, c in pairs)
    true, calls = sum(t == k for t, _ in pairs), sum(c == k for _, c in pairs)
    return {
        "precision": right / calls if calls else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (true + calls) if true + calls else 0.0,
        "jaccard": right / (true + calls - right) if true + calls else 0.0,
    }


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def literal(recordings):
    """Every metric, from its words."""
    found = {}
    all_truth = [t for truth, _ in recordings for t in truth]
    all_called = [c for _, called in recordings for c in called]
    found["accuracy"] = mean(t == c for t, c in zip(all_truth, all_called, strict=True))
    found["accuracy_video"] = mean(
        mean(t == c for t, c in zip(*pair, strict=True)) for pair in recordings
    )
    for metric in ("precision", "recall", "f1", "jaccard"):
        seen = set(all_truth) | set(all_called)
        found[f"{metric}_macro"] = mean(shares(all_truth, all_called, k)[metric] for k in seen)
        found[f"{metric}_macro_video"] = mean(
            mean(shares(truth, called, k)[metric] for k in set(truth) | set(called))
            for truth, called in recordings
        )
        found[f"{metric}_present_macro"] = mean(
            mean(shares(truth, called, k)[metric] for truth, called in recordings if k in truth)
            for k in set(all_truth)
        )
    found["edit_score"] = mean(1 - literal_edit(t, c) for t, c in recordings)
    for percent in (10, 25, 50):
        each = [literal_segments(t, c, percent / 100) for t, c in recordings]
        hits, false, missed = (sum(part) for part in zip(*each, strict=True))
        found[f"segment_f1_{percent}"] = 2 * hits / (2 * hits + false + missed)
        found[f"segment_f1_{percent}_video"] = mean(2 * h / (2 * h + f + m) for h, f, m in each)
    return found


def pieces(sequence):
    found = []
    for i, label in enumerate(sequence):
        if found and found[-1][0] == label:
            found[-1][1].add(i)
        else:
            found.append((label, {i}))
    return found


def literal_edit(truth, called):
    a, b = ([label for label, _ in pieces(s)] for s in (truth, called))
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1,
                table[i - 1, j - 1] + (a[i - 1] != b[j - 1]),
            )  # fmt: skip
    return table[len(a), len(b)] / max(len(a), len(b))


def literal_segments(truth, called, overlap):
    true, taken, false = pieces(truth), set(), 0
    for label, own in pieces(called):
        shared = [len(own & t) / len(own | t) if name == label else 0.0 for name, t in true]
        best = shared.index(max(shared))
        if shared[best] >= overlap and best not in taken:
            taken.add(best)
        else:
            false += 1
    return len(taken), false, len(true) - len(taken)


@many_cases
def test_every_average_equals_the_literal_loops(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        recordings = [recording(rng, longest=12) for _ in range(int(rng.integers(1, 5)))]
        ours = compute(frame_of(recordings))
        for metric, value in literal(recordings).items():
            assert ours[metric, "all"] == pytest.approx(value, abs=1e-9), metric


@many_cases
def test_segments_equal_the_literal_loops(count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        truth, called = recording(rng, stay=float(rng.random()))
        arrays = np.array(truth), np.array(called)
        assert edit_score(*arrays) == pytest.approx(1 - literal_edit(truth, called), abs=1e-12)
        for overlap in (0.1, 0.25, 0.5):
            assert segment_matches(*arrays, overlap) == literal_segments(truth, called, overlap)
        assert sum(segments(arrays[0]).end_S - segments(arrays[0]).start_S) == len(truth)


def test_edit_and_segmental_f1_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    # One stray window cuts the first phase in two: segments 0 2 0 1 against 0 1.
    called = np.array([0, 0, 2, 0, 1, 1, 1, 1])
    assert edit_score(truth, called) == 1 - 2 / 4
    # The first half of phase 0 reaches 2/4; the second finds it taken; the stray finds nothing.
    assert segment_matches(truth, called, 0.5) == (2, 2, 0)
    assert segment_matches(truth, called, 0.51) == (1, 3, 1)
    assert edit_score(truth, truth) == 1
    assert edit_score(truth, 1 - truth) == 0


@many_cases
def test_relaxed_calls_equal_the_literal_rule(count):
    rng = np.random.default_rng(2)
    for _ in range(count):
        truth, called = recording(rng)
        time = np.cumsum(rng.choice([0.5, 1.0, 3.0], len(truth)))
        tolerance = float(rng.choice([0.0, 1.0, 2.5, 10.0]))
        literally = [
            truth[w]
            if any(abs(time[w] - s) <= tolerance and t == called[w]
                   for s, t in zip(time, truth, strict=True))
            else called[w]
            for w in range(len(truth))
        ]  # fmt: skip
        assert relax(np.array(truth), np.array(called), time, tolerance).tolist() == literally


def test_an_oracle_reaches_one_everywhere_and_its_inverse_nothing():
    rng = np.random.default_rng(3)
    truths = [recording(rng)[0] for _ in range(4)]
    oracle = compute(frame_of([(truth, truth) for truth in truths]), 10.0)
    inverse = compute(frame_of([(truth, [3 - t for t in truth]) for truth in truths]))
    for (metric, name), value in oracle.items():
        if name == "all" and metric not in ("calibration_error", "brier_score"):
            assert value == 1.0, metric
            if "relaxed" not in metric and metric != "edit_score":
                assert inverse[metric, name] == 0.0, metric


def test_tolerance_is_in_seconds_whatever_the_rate():
    """The same operation, called 10 s late, at one and at four windows a second."""
    for rate in (1, 4):
        truth = [0] * 60 * rate + [1] * 60 * rate
        called = [0] * 70 * rate + [1] * 50 * rate
        frame = frame_of([(truth, called)] * 2, 1 / rate)
        strict, kind, short = (compute(frame, t) for t in (None, 10.0, 5.0))
        assert ("accuracy_video_relaxed", "all") not in strict
        assert kind["accuracy_video_relaxed", "all"] == 1.0
        assert kind["f1_macro_video_relaxed", "all"] == 1.0
        assert kind["accuracy_video", "all"] == pytest.approx(110 / 120)
        assert short["accuracy_video_relaxed", "all"] == pytest.approx(115 / 120)


def test_calibration_is_zero_for_a_probability_that_comes_true():
    """Called at 0.7 and right in 7 of 10 windows."""
    truth = [0] * 10
    frame = frame_of([(truth, [0] * 7 + [1] * 3)] * 2)
    ours = compute(frame)
    assert ours["calibration_error", "all"] == pytest.approx(0, abs=1e-6)
    # right: 0.3² + 3·0.1²; wrong: 0.9² + 0.7² + 2·0.1²
    assert ours["brier_score", "all"] == pytest.approx(0.7 * 0.12 + 0.3 * 1.32)


def test_a_phase_that_never_occurs_and_is_never_called_counts_nowhere():
    ours = compute(frame_of([([0, 0, 1], [0, 1, 1])] * 2))
    assert ours["f1", "c"] is None
    assert ours["f1_present", "c"] is None
    assert ours["f1_macro", "all"] == pytest.approx(2 / 3)
