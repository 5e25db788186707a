"""Intervals, paired differences, DeLong, Holm, ranks and subgroups.

Pure functions of a table, computed on one machine: there is no second rank.
"""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from medvlp.evaluate.metrics.comparison import difference, holm
from medvlp.evaluate.metrics.delong import delong, delong_p
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.metrics.intervals import interval, p_value, wilson
from medvlp.evaluate.metrics.ranks import tie_groups
from medvlp.evaluate.metrics.resampling import GROUPS, Spread, bootstrap, left_out, mean_spread
from medvlp.evaluate.metrics.statistics import Auroc, Ratio
from medvlp.evaluate.metrics.summary import summarise
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.protocol import BootstrapConfig


def mean_of(values, draws=2000, seed=0):
    n = len(values)
    return bootstrap({"a": Ratio(values, np.ones(n), np.arange(n), n)}, n, draws, seed)["a"]


def test_fifty_of_fifty_is_not_certain():
    found = interval(mean_of(np.ones(50)), 0.95)
    assert found.method == "wilson"
    assert found.high == 1.0
    # Wilson's lower end for n of n, in closed form
    z = stats.norm.ppf(0.975)
    assert found.low == pytest.approx(50 / (50 + z * z))
    assert interval(mean_of(np.zeros(50)), 0.95).low == 0.0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 20), (20, 20)])
def test_wilson_equals_scipy(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k / n, n, 0.95) == pytest.approx((expected.low, expected.high))


def test_a_value_that_no_draw_moves_is_its_own_interval():
    auroc = Auroc(np.full(40, 0.3), np.arange(40) < 20, np.arange(40), 40)
    found = interval(bootstrap({"a": auroc}, 40, 200, seed=0)["a"], 0.95)
    assert (found.low, found.high, found.method) == (0.5, 0.5, None)


def test_bca_equals_scipy_for_one_row_a_patient():
    values = np.random.default_rng(0).exponential(size=30)
    ours = mean_of(values, draws=20_000)
    # scipy has no widening for small samples; so many patients have none, either.
    wide = Spread(ours.value, ours.draws_R, ours.jackknife_G, support=10**9)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", vectorized=True, rng=1
    ).confidence_interval
    found = interval(wide, 0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)
    plain = interval(wide, 0.95, "percentile")
    assert found.low > plain.low
    assert found.high > plain.high


def test_jackknife_leaves_each_patient_out_once():
    for patients in (5, 70, 3 * GROUPS + 1):
        weight_PG = np.concatenate(list(left_out(patients, 0)), axis=1)
        assert weight_PG.shape[1] == min(patients, GROUPS)
        assert ((weight_PG == 0).sum(axis=1) == 1).all()
        sizes = (weight_PG == 0).sum(axis=0)
        assert sizes.max() - sizes.min() <= 1


def test_the_jackknife_of_groups_gives_nearly_the_same_interval():
    values = np.random.default_rng(4).exponential(size=GROUPS * 4) ** 2
    found = mean_of(values)
    n = len(values)
    each = (values.sum() - values) / (n - 1)
    exact = interval(Spread(found.value, found.draws_R, each, n), 0.95)
    ours = interval(found, 0.95)
    width = exact.high - exact.low
    assert ours.low == pytest.approx(exact.low, abs=0.05 * width)
    assert ours.high == pytest.approx(exact.high, abs=0.05 * width)


def test_p_is_the_level_at_which_the_interval_touches_zero():
    values = np.random.default_rng(2).normal(0.3, 1, size=40)
    spread = mean_of(values, draws=20_000)
    p = p_value(spread)
    assert 0 < p < 1
    found = interval(spread, 1 - p, "percentile")
    assert min(abs(found.low), abs(found.high)) == pytest.approx(0, abs=2e-3)


def test_p_values_of_no_difference_are_level():
    """Of 400 pairs of equal models, about one in twenty has p at most 0.05."""
    rng = np.random.default_rng(1)
    p = []
    for trial in range(400):
        label = np.arange(60) < 30
        a, b = rng.normal(size=(2, 60)) + rng.normal(size=60) + label
        spreads = bootstrap(
            {k: Auroc(s, label, np.arange(60), 60) for k, s in (("a", a), ("b", b))},
            60, 300, seed=trial,
        )  # fmt: skip
        p.append(p_value(difference(spreads["a"], spreads["b"])))
    assert 8 <= (np.array(p) <= 0.05).sum() <= 34
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_intervals_cover_in_a_small_setting():
    """200 cohorts of 50 patients: misses within three standard errors of one in twenty."""
    rng, inside = np.random.default_rng(6), 0
    for trial in range(200):
        ill = np.arange(50) < 22
        patient = np.repeat(np.arange(50), rng.integers(1, 4, size=50))
        score = (
            math.sqrt(2) * stats.norm.ppf(0.85) * ill[patient]
            + math.sqrt(0.5) * rng.normal(size=50)[patient]
            + math.sqrt(0.5) * rng.normal(size=len(patient))
        )
        auroc = Auroc(score, ill[patient], patient, 50)
        found = interval(bootstrap({"a": auroc}, 50, 500, seed=trial)["a"], 0.95)
        inside += found.low <= 0.85 <= found.high
    assert 181 <= inside <= 199


def literal_delong(score_MN, positive):
    """Areas and covariance by the definition: every positive against every negative."""
    wins = [
        (s[positive][:, None] > s[~positive]) + 0.5 * (s[positive][:, None] == s[~positive])
        for s in score_MN
    ]
    v10, v01 = [w.mean(axis=1) for w in wins], [w.mean(axis=0) for w in wins]
    covariance = [
        [
            sum((v10[i] - v10[i].mean()) * (v10[j] - v10[j].mean()))
            / (len(v10[i]) - 1) / len(v10[i])
            + sum((v01[i] - v01[i].mean()) * (v01[j] - v01[j].mean()))
            / (len(v01[i]) - 1) / len(v01[i])
            for j in range(len(wins))
        ]
        for i in range(len(wins))
    ]  # fmt: skip
    return np.array([w.mean() for w in wins]), np.array(covariance)


def test_delong_equals_its_definition_with_ties():
    rng = np.random.default_rng(9)
    for _ in range(200):
        n = int(rng.integers(5, 40))
        positive = rng.permutation(n) < rng.integers(2, n - 1)
        score = rng.integers(rng.choice([2, 6, 1000]), size=(3, n)).astype(float)
        area, covariance = delong(score, positive)
        expected_area, expected = literal_delong(score, positive)
        np.testing.assert_allclose(area, expected_area, atol=1e-12)
        np.testing.assert_allclose(covariance, expected, atol=1e-12)
        assert area[0] == pytest.approx(roc_auc_score(positive, score[0]))


def test_delongs_variance_is_that_of_repeated_samples():
    rng = np.random.default_rng(10)
    positive = np.arange(200) < 80
    areas, told, p = [], [], []
    for _ in range(600):
        score = rng.normal(size=(2, 200)) + rng.normal(size=200) + positive
        area, covariance = delong(score, positive)
        areas.append(area[0] - area[1])
        told.append(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        p.append(delong_p(score, positive))
    assert np.mean(told) == pytest.approx(np.var(areas), rel=0.15)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.027)


def test_delong_of_equal_and_of_perfectly_opposed_models():
    positive = np.arange(10) < 5
    score = np.arange(10.0)
    assert delong_p(np.stack([score, score]), positive) == 1.0
    assert delong_p(np.stack([score, -score]), positive) == 0.0
    with pytest.raises(ValueError, match="needs two of each"):
        delong(score[None], np.arange(10) < 1)


def test_holm_equals_the_step_down_procedure():
    rng = np.random.default_rng(0)
    for _ in range(300):
        p = rng.choice([0.001, 0.01, 0.02, 0.04, 0.3, 0.9], size=int(rng.integers(1, 8)))
        adjusted = holm(p)
        for level in (0.01, 0.05, 0.1, 0.5):
            rejected = set()
            for k, i in enumerate(np.argsort(p, kind="stable")):
                if p[i] > level / (len(p) - k):
                    break
                rejected.add(i)
            assert {i for i, a in enumerate(adjusted) if a <= level + 1e-12} == rejected
    assert holm([]) == []
    assert np.isnan(holm([math.nan, 0.04])[0])
    assert holm([math.nan, 0.04])[1] == 0.04


def test_models_share_a_letter_if_and_only_if_not_told_apart_within_a_run():
    rng = np.random.default_rng(3)
    for _ in range(200):
        cut = np.sort(rng.random(6))
        gap = rng.random() / 2
        names = list("abcdef")
        apart = {
            frozenset((x, y))
            for (x, u), (y, v) in itertools.combinations(zip(names, cut, strict=True), 2)
            if abs(u - v) > gap
        }
        letters = tie_groups(names, apart)
        for x, y in itertools.combinations(names, 2):
            shares = bool(set(letters[x]) & set(letters[y]))
            assert shares == (frozenset((x, y)) not in apart)


def frame(shifts, patients=120, images=1, seeds=(0,)):
    """Two labels; a model's scores are shifted by its quality, on a noise shared by all."""
    rng = np.random.default_rng(12)
    rows = []
    for patient, name in itertools.product(range(patients), ("edema", "mass")):
        ill, shared = rng.random() < 0.4, rng.normal()
        for image, seed, (model, shift) in itertools.product(range(images), seeds, shifts.items()):
            rows.append(
                dict.fromkeys(PREDICTIONS.names())
                | {
                    "model": model, "protocol": "p", "seed": seed, "control": model == "chance",
                    "sample": f"s{patient}-{image}", "patient": f"p{patient}", "name": name,
                    "label": int(ill), "sex": "FM"[patient % 2], "site": f"h{patient // 55}",
                    "score": float(stats.norm.cdf(shift * ill + shared + rng.normal() / 3)),
                }
            )  # fmt: skip
    return pl.DataFrame(rows, schema=PREDICTIONS)


def summary(predictions, draws=300, headlines=("auroc_macro",)):
    return summarise(
        predictions, lambda *_: finding_measures({"edema": 0.6, "mass": 0.6}), headlines,
        domain="cxr", bootstrap=BootstrapConfig(draws=draws),
    )  # fmt: skip


def test_comparisons_are_paired_adjusted_and_beside_delong():
    predictions = frame({"good": 2.0, "twin": 2.0, "poor": 0.5, "chance": 0.0})
    found = summary(predictions)
    rows = {(c.name, c.first, c.second): c for c in found.comparisons}
    assert len(found.comparisons) == 3 * (3 + 3)
    values = {(r.model, r.metric, r.name): r for r in found.rows}
    lost = rows["all", "good", "poor"]
    macro = [values[m, "auroc_macro", "all"] for m in ("good", "poor")]
    assert lost.difference == pytest.approx(macro[0].value - macro[1].value)
    assert 0 < lost.low < lost.difference < lost.high
    assert lost.p < 0.02 <= rows["all", "good", "twin"].p
    # On shared noise, a difference is known better than either value.
    assert lost.high - lost.low < (macro[0].high - macro[0].low) + (macro[1].high - macro[1].low)
    assert lost.p_holm >= lost.p
    assert rows["all", "good", "chance"].control
    assert rows["all", "good", "chance"].delong_p is None
    part = predictions.filter(pl.col("name") == "mass").sort("sample")
    score = np.stack([part.filter(pl.col("model") == m)["score"] for m in ("good", "poor")])
    label = part.filter(pl.col("model") == "good")["label"].to_numpy() == 1
    assert rows["mass", "good", "poor"].delong_p == pytest.approx(delong_p(score, label))
    assert rows["mass", "good", "poor"].same_cases


def test_delong_is_refused_where_cases_are_not_independent_or_not_the_same():
    several = summary(frame({"a": 2.0, "b": 1.0}, patients=40, images=2), draws=50)
    one = next(c for c in several.comparisons if c.name == "mass")
    assert one.delong_p is None
    assert "several rows" in one.delong_refused
    trained = summary(frame({"a": 2.0, "b": 1.0}, patients=40, seeds=(0, 1)), draws=50)
    assert "several trainings" in next(
        c.delong_refused for c in trained.comparisons if c.name == "mass"
    )
    predictions = frame({"a": 2.0, "b": 1.0}, patients=40)
    uneven = predictions.filter((pl.col("model") == "a") | (pl.col("patient") != "p3"))
    one = next(c for c in summary(uneven, draws=50).comparisons if c.name == "mass")
    assert not one.same_cases
    assert "same cases" in one.delong_refused


def test_models_that_differ_by_little_share_a_group_and_overlapping_ranks():
    found = summary(frame({"poor": 0.3, "good": 2.0, "near": 1.98}))
    ranks = {r.model: r for r in found.ranks if r.name == "all"}
    assert ranks["poor"].rank == 3
    assert (ranks["poor"].low, ranks["poor"].high, ranks["poor"].first) == (3, 3, 0)
    assert ranks["good"].group == ranks["near"].group == "a"
    assert ranks["poor"].group == "b"
    assert ranks["good"].low == ranks["near"].low == 1
    assert ranks["good"].high == ranks["near"].high == 2
    assert ranks["good"].first + ranks["near"].first == pytest.approx(1)


def test_the_best_by_an_error_is_the_lowest():
    found = summary(frame({"poor": 0.3, "good": 2.0}), headlines=("brier_score_macro",))
    brier = {r.model: r.value for r in found.rows if r.metric == "brier_score_macro"}
    first = next(r for r in found.ranks if r.name == "all")
    assert first.model == min(brier, key=brier.get)


def test_means_over_trainings_have_an_interval_of_their_own():
    found = summary(frame({"a": 2.0, "b": 1.0}, patients=60, seeds=(0, 1)))
    row = next(r for r in found.rows if r.model == "a" and r.metric == "auroc_macro")
    assert row.seeds == 2
    assert row.low < row.value < row.high
    assert row.interval == "bca"


def test_a_macro_mean_keeps_its_jackknife():
    a, b = (mean_of(np.random.default_rng(s).random(30)) for s in (0, 1))
    macro = mean_spread([a, b])
    np.testing.assert_allclose(macro.jackknife_G, (a.jackknife_G + b.jackknife_G) / 2)


def test_subgroups_equal_the_metric_of_their_own_rows_and_small_cells_are_kept_back():
    predictions = frame({"good": 2.0, "chance": 0.0})
    found = summary(predictions)
    assert {s.model for s in found.subgroups} == {"good"}
    cells = {(s.column, s.group, s.name): s for s in found.subgroups}
    for sex in "FM":
        part = predictions.filter(
            (pl.col("model") == "good") & (pl.col("sex") == sex) & (pl.col("name") == "mass")
        )
        expected = roc_auc_score(part["label"], part["score"])
        cell = cells["sex", sex, "mass"]
        assert cell.value == pytest.approx(expected)
        assert cell.low < cell.value < cell.high
        assert cell.n == len(part)
    both = [cells["sex", sex, "all"] for sex in "FM"]
    gap = cells["sex", "gap", "all"]
    assert gap.value == pytest.approx(abs(both[0].value - both[1].value))
    assert 0 <= gap.low <= gap.high
    assert [c.worst for c in both] == [c.value == min(x.value for x in both) for c in both]
    # 120 patients of 55, 55 and 10 at three sites: the last has not ten on either side
    hidden = cells["site", "h2", "mass"]
    assert hidden.suppressed
    assert (hidden.value, hidden.low, hidden.n) == (None, None, 0)
    assert cells["site", "h0", "mass"].n == 50
    assert ("view", "gap", "all") not in cells
