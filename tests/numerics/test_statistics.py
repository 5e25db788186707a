"""Weighted statistics against scikit-learn and against literal resampling.

The statistics are pure functions of a table, computed on one machine: there is no second rank.
"""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)

from medvlp.evaluate.metrics.calibration import CalibrationError
from medvlp.evaluate.metrics.intervals import interval
from medvlp.evaluate.metrics.resampling import (
    BLOCK,
    Spread,
    bootstrap,
    draw_weights,
    mean_spread,
)
from medvlp.evaluate.metrics.statistics import (
    F1,
    Auroc,
    AveragePrecision,
    Median,
    Ratio,
)


def one(statistic, patients):
    return float(statistic(np.ones((patients, 1), dtype=np.float32))[0])


def case(seed, rows=60, patients=20, levels=8):
    """Random scores with many ties, several rows a patient."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(patients, size=rows)
    score = rng.integers(levels, size=rows) / levels
    positive = rng.random(rows) < 0.3
    return score, positive, patient, patients


def test_auroc_by_hand():
    # positives 0.8 and 0.4; negatives 0.4 and 0.1: wins 1 + 1 + 1/2 + 1 of 4 pairs
    score = np.array([0.8, 0.4, 0.4, 0.1])
    positive = np.array([True, True, False, False])
    assert one(Auroc(score, positive, np.arange(4), 4), 4) == 3.5 / 4


def test_average_precision_by_hand():
    # at 0.9: 1/1; at 0.5: 2/3
    score = np.array([0.9, 0.7, 0.5, 0.2])
    positive = np.array([True, False, True, False])
    expected = (1 + 2 / 3) / 2
    assert one(AveragePrecision(score, positive, np.arange(4), 4), 4) == pytest.approx(expected)


def test_median_by_hand():
    value = np.array([5.0, 1.0, 9.0, 3.0])
    assert one(Median(value, np.arange(4), 4), 4) == 3.0
    weight = np.array([[0.0], [0.0], [3.0], [1.0]], dtype=np.float32)
    assert Median(value, np.arange(4), 4)(weight)[0] == 9.0


def test_calibration_error_by_hand():
    # two bins of ten hold rows: gaps |0.95 - 1/2| and |0.15 - 0|, two rows and one row
    probability = np.array([0.95, 0.95, 0.15])
    positive = np.array([True, False, False])
    error = CalibrationError(probability, positive, np.arange(3), 3, bins=10)
    assert one(error, 3) == pytest.approx((2 * 0.45 + 0.15) / 3)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_rank_statistics_equal_scikit_learn_with_patient_weights(seed, levels):
    score, positive, patient, patients = case(seed, levels=levels)
    weight = np.random.default_rng(seed + 100).integers(0, 4, size=(patients, 5))
    auroc = Auroc(score, positive, patient, patients)(weight.astype(np.float32))
    precision = AveragePrecision(score, positive, patient, patients)(weight.astype(np.float32))
    for draw in range(5):
        row_weight = weight[patient, draw]
        assert auroc[draw] == pytest.approx(
            roc_auc_score(positive, score, sample_weight=row_weight), abs=1e-12
        )
        assert precision[draw] == pytest.approx(
            average_precision_score(positive, score, sample_weight=row_weight), abs=1e-6
        )


def test_single_class_is_undefined():
    score, _, patient, patients = case(0)
    for positive in (np.zeros(60, dtype=bool), np.ones(60, dtype=bool)):
        assert np.isnan(one(Auroc(score, positive, patient, patients), patients))
        assert np.isnan(one(AveragePrecision(score, positive, patient, patients), patients))


@pytest.mark.parametrize("seed", range(5))
def test_ratios_equal_scikit_learn(seed):
    score, positive, patient, patients = case(seed)
    called = score >= 0.5
    recall = Ratio((positive & called) * 1.0, positive * 1.0, patient, patients)
    brier = Ratio((score - positive) ** 2, np.ones(60), patient, patients)
    assert one(recall, patients) == pytest.approx(recall_score(positive, called))
    assert one(brier, patients) == pytest.approx(brier_score_loss(positive, score))
    f1 = F1(positive, called, patient, patients)
    assert one(f1, patients) == pytest.approx(f1_score(positive, called))


def test_calibration_error_equals_torchmetrics():
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(3)
    probability = rng.random(500)
    positive = rng.random(500) < probability**2
    ours = one(CalibrationError(probability, positive, np.arange(500), 500), 500)
    theirs = binary_calibration_error(
        torch.from_numpy(probability), torch.from_numpy(positive.astype(int)), n_bins=15
    )
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_bootstrap_equals_a_literal_resampling_loop():
    score, positive, patient, patients = case(7)
    spread = bootstrap({"a": Auroc(score, positive, patient, patients)}, patients, 300, seed=5)["a"]
    weights = np.concatenate(
        [draw_weights(patients, b, n, 5) for b, n in enumerate((64, 64, 64, 64, 44))], axis=1
    )
    assert (weights.sum(axis=0) == patients).all()
    for draw in range(0, 300, 23):
        chosen = np.repeat(np.arange(patients), weights[:, draw].astype(int))
        rows = np.concatenate([np.flatnonzero(patient == p) for p in chosen])
        if len(set(positive[rows])) == 2:
            expected = roc_auc_score(positive[rows], score[rows])
            assert spread.draws_R[draw] == pytest.approx(expected, abs=1e-12)
    found = interval(spread, 0.95, "percentile")
    low, high = np.quantile(spread.draws_R[~np.isnan(spread.draws_R)], [0.025, 0.975])
    # Widened for a small sample, and by a little only.
    assert low - 0.1 < found.low < low < spread.value < high < found.high < high + 0.1


def test_draws_without_both_classes_are_counted():
    # the only positive belongs to one of three patients: about (2/3)^3 of draws miss it
    score = np.array([0.9, 0.1, 0.2])
    positive = np.array([True, False, False])
    spread = bootstrap({"a": Auroc(score, positive, np.arange(3), 3)}, 3, 2000, seed=0)["a"]
    missing = (2 / 3) ** 3 + (1 / 3) ** 3
    assert spread.undefined / 2000 == pytest.approx(missing, abs=0.04)
    # one patient has the finding: nothing can be said of others who have it
    assert interval(spread, 0.95).method is None
    assert np.isnan(interval(spread, 0.95).low)


def test_interval_covers_the_truth():
    """Over 200 data sets with two rows a patient, a 90 % interval misses about one in ten."""
    rng = np.random.default_rng(0)
    truth, inside = 0.6, 0
    for trial in range(200):
        value = rng.binomial(1, truth, size=100).repeat(2).astype(float)
        patient = np.arange(100).repeat(2)
        ratio = Ratio(value, np.ones(200), patient, 100)
        found = interval(bootstrap({"a": ratio}, 100, 200, seed=trial)["a"], 0.9)
        inside += found.low <= truth <= found.high
    assert 168 <= inside <= 192


def test_draws_do_not_depend_on_the_block_order():
    a = bootstrap({"a": Ratio(np.arange(9.0), np.ones(9), np.arange(9), 9)}, 9, 200, seed=1)["a"]
    b = bootstrap({"a": Ratio(np.arange(9.0), np.ones(9), np.arange(9), 9)}, 9, 400, seed=1)["a"]
    assert (a.draws_R[:BLOCK] == b.draws_R[:BLOCK]).all()


def test_macro_mean_skips_undefined_members():
    a = Spread(0.5, np.array([0.4, np.nan, np.nan]))
    b = Spread(0.7, np.array([0.6, 0.8, np.nan]))
    macro = mean_spread([a, b])
    assert macro.value == pytest.approx(0.6)
    np.testing.assert_allclose(macro.draws_R, [0.5, 0.8, np.nan])
    assert macro.undefined == 1


def test_no_draws_gives_estimates_alone():
    spread = bootstrap({"a": Ratio(np.ones(2), np.ones(2), np.arange(2), 2)}, 2, 0, seed=0)["a"]
    assert spread.value == 1.0
    found = interval(spread, 0.95)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
