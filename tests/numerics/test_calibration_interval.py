"""What the interval of the calibration error says of the truth."""

import numpy as np
import pytest

from medvlp.evaluate.metrics.calibration import CalibrationError
from medvlp.evaluate.metrics.comparison import difference
from medvlp.evaluate.metrics.intervals import interval
from medvlp.evaluate.metrics.resampling import bootstrap, combined, mean_spread

PATIENTS = 60


def cohort(seed, stated, patients=PATIENTS, rows=2):
    """Probabilities of rows that are true as often as `stated` of them says."""
    rng = np.random.default_rng([seed, patients])
    share = rng.uniform(0.02, 0.98, size=patients * rows)
    positive = rng.random(len(share)) < share
    return CalibrationError(stated(share), positive, np.repeat(np.arange(patients), rows), patients)


def ends(error, patients=PATIENTS, draws=300):
    return interval(bootstrap({"e": error}, patients, draws, seed=0)["e"], 0.95)


@pytest.mark.parametrize("stated", [lambda p: p, lambda p: 0.25 + p / 2], ids=["right", "timid"])
def test_it_holds_the_truth_where_the_estimate_does_not(stated):
    share = np.random.default_rng(1).uniform(0.02, 0.98, size=10**6)
    bins = np.searchsorted(np.linspace(0, 1, 16)[1:-1], stated(share))
    truth = np.abs(np.bincount(bins, stated(share) - share)).sum() / len(share)
    errors = [cohort(seed, stated) for seed in range(60)]
    estimates = np.array([float(error(np.ones((PATIENTS, 1)))[0]) for error in errors])
    assert estimates.mean() > truth + 0.02
    found = [ends(error) for error in errors]
    held = np.mean([end.low <= truth <= end.high for end in found])
    assert held >= 0.93
    assert {end.method for end in found} == {"inverted"}
    assert all(0 <= end.low <= end.high <= 1 for end in found)


def test_many_rows_leave_little_doubt():
    error = cohort(0, lambda p: 0.25 + p / 2, patients=4_000)
    # |p - stated| is half of |p - 0.5|, whose mean over 0.02 to 0.98 is 0.24.
    found = ends(error, patients=4_000)
    assert found.low < 0.12 < found.high
    assert found.high - found.low < 0.02


def test_two_models_that_say_the_same_do_not_differ():
    error = cohort(3, lambda p: p**2)
    spreads = bootstrap({"a": error, "b": error}, PATIENTS, 200, seed=0)
    assert difference(spreads["a"], spreads["b"]).draws_R == pytest.approx(0)
    worse = bootstrap({"a": error, "b": cohort(3, lambda p: p**4)}, PATIENTS, 200, seed=0)
    gap = difference(worse["b"], worse["a"])
    assert interval(gap, 0.95, "percentile").low > 0


def test_draws_of_the_truth_stay_such_in_means_and_ranges():
    spread = bootstrap({"e": cohort(4, lambda p: p)}, PATIENTS, 100, seed=0)["e"]
    assert mean_spread([spread, spread]).inverted
    assert interval(mean_spread([spread, spread]), 0.95) == interval(spread, 0.95)
    assert combined([spread, spread], lambda values: values.max(axis=0)).inverted


def test_every_row_in_one_bin():
    error = CalibrationError(np.full(40, 0.5), np.arange(40) % 2 == 0, np.arange(40), 40)
    found = ends(error, patients=40)
    assert found.low == 0
    assert 0 < found.high < 0.3
