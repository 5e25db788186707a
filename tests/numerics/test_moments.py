"""From scores of windows to moments: the stated rule by hand, literal recall, and chance."""

import numpy as np
import pytest

from medvlp.evaluate.metrics.moments import LEVELS, Moment, first_hit, propose, spans_of, tiou


def moment(start, end, recording="r", value=0.0):
    return Moment(recording=recording, start_s=start, end_s=end, value=value)


def spans(score, recording="r", step=1.0, length=1.0):
    score = np.asarray(score, float)
    start = np.arange(len(score)) * step
    return spans_of(
        recording, score, start, start + length, float(score.mean()), float(score.std())
    )


def literal_tiou(a, b, grid=1000):
    """Shared and joint length by counting small steps of time."""
    ticks = np.arange(0, 40 * grid) / grid + 0.5 / grid
    inside = [(m.start_s <= ticks) & (ticks < m.end_s) for m in (a, b)]
    return (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()


def test_overlap_equals_counted_time():
    rng = np.random.default_rng(0)
    for _ in range(100):
        (a, b), (c, d) = (np.sort(rng.integers(0, 40, 2)) + np.array([0, 1]) for _ in range(2))
        first, second = moment(int(a), int(b)), moment(int(c), int(d))
        union = literal_tiou(first, second)
        disjoint = min(b, d) <= max(a, c)
        assert tiou(first, second) == pytest.approx(0.0 if disjoint else union, abs=1e-3)
    assert tiou(moment(0, 4), moment(0, 4, "other")) == 0
    assert tiou(moment(0, 2), moment(2, 4)) == 0


def test_one_plateau_is_one_moment_from_its_first_window_to_the_end_of_its_last():
    found = propose(spans([0, 0, 1, 1, 1, 0, 0, 0]), 5)
    assert [(m.start_s, m.end_s) for m in found] == [(2, 5)]


def test_overlapping_windows_merge_into_their_joint_time():
    found = propose(spans([0, 1, 1, 0, 0], step=0.5, length=2.0), 1)
    assert (found[0].start_s, found[0].end_s) == (0.5, 3.0)


def test_the_value_is_the_scan_statistic():
    score = np.array([0.0, 0, 1, 1, 1, 0, 0, 0])
    best = propose(spans(score), 1)[0]
    assert best.value == pytest.approx((score[2:5] - score.mean()).sum() / (score.std() * 3**0.5))


def test_a_long_plateau_beats_a_short_peak_of_the_same_height():
    found = propose(spans([0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]), 2)
    assert [(m.start_s, m.end_s) for m in found] == [(4, 8), (1, 2)]


def test_spans_are_the_runs_at_every_level():
    rng = np.random.default_rng(1)
    for _ in range(200):
        score = rng.integers(0, 8, int(rng.integers(2, 20))) / 8
        literal = set()
        for level in LEVELS:
            limit = score.min() + level * (score.max() - score.min())
            inside = None
            for w, value in enumerate([*score, -1.0]):
                if value >= limit and inside is None:
                    inside = w
                if value < limit and inside is not None:
                    literal.add((inside, w))
                    inside = None
        assert {(m.start_s, m.end_s) for m in spans(score)} == literal


def test_an_answer_that_repeats_a_better_one_is_dropped():
    told = [moment(0, 10, value=3), moment(0, 9, value=2), moment(5, 20, value=1)]
    assert propose(told, 5) == [told[0], told[2]]
    assert propose([*told, moment(0, 9, "other", 2.5)], 2) == [told[0], moment(0, 9, "other", 2.5)]
    assert propose([*told, moment(10, 12)], 5, overlap=0.0) == [told[0], moment(10, 12)]


def test_a_model_that_tells_nothing_apart_gets_one_worthless_answer():
    flat = spans([0.3] * 6)
    assert [(m.start_s, m.end_s, m.value) for m in flat] == [(0, 6, 0.0)]


def test_reciprocal_rank_is_that_of_the_first_hit():
    answers, true = [moment(0, 2), moment(8, 12), moment(4, 8)], [moment(4, 7)]
    assert first_hit(answers, true, 0.7) == 1 / 3
    assert first_hit(answers, true, 0.8) == 0
    assert first_hit(answers, [*true, moment(8, 12)], 0.7) == 1 / 2


def test_an_oracle_finds_every_moment_first():
    rng = np.random.default_rng(2)
    for _ in range(300):
        start, length = int(rng.integers(0, 30)), int(rng.integers(1, 10))
        score = np.zeros(40)
        score[start : start + length] = 1
        answers = propose(spans(score), 1)
        assert first_hit(answers, [moment(start, start + length)], 0.99) == 1


def test_random_scores_hit_as_often_as_a_random_answer_does():
    """The same answers, held against the moments of other queries: the rule has no other luck."""
    rng = np.random.default_rng(3)
    true = [
        moment(s, s + n)
        for s, n in zip(rng.integers(0, 30, 600), rng.integers(3, 10, 600), strict=True)
    ]
    answers = [propose(spans(rng.random(40)), 1) for _ in true]
    own = np.array([first_hit(a, [t], 0.3) for a, t in zip(answers, true, strict=True)])
    level = np.mean([[first_hit(a, [t], 0.3) for t in true[:60]] for a in answers])
    assert own.mean() == pytest.approx(level, abs=4 * (level * (1 - level) / 600) ** 0.5)
