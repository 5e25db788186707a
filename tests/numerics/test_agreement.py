"""Random cases of every metric against scikit-learn and against its definition.

Cases have ties, missing labels (which have no row), empty classes and patients of one class alone;
a label that only one class is left of must be undefined. Pure functions of a table, computed on one
machine: there is no second rank.
"""

import itertools
import math

import numpy as np
import pytest
from many import FEW, many_cases
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from medvlp.evaluate.metrics.calibration import CalibrationError
from medvlp.evaluate.metrics.operating import (
    BalancedAccuracy,
    Lift,
    Matthews,
    PredictiveValue,
    RocSensitivity,
    net_benefit,
)
from medvlp.evaluate.metrics.resampling import Spread, mean_spread
from medvlp.evaluate.metrics.statistics import (
    F1,
    Auroc,
    AveragePrecision,
    Median,
    Ratio,
)
from medvlp.evaluate.tasks.retrieval import first_right


def one(statistic, patients):
    return float(statistic(np.ones((patients, 1)))[0])


def cases(count):
    """Scores on grids of few or many levels, labels from none to all positive, 1 to 9 patients."""
    rng = np.random.default_rng(11)
    for _ in range(count):
        rows, patients = int(rng.integers(2, 40)), int(rng.integers(1, 10))
        patient = rng.integers(patients, size=rows)
        levels = rng.choice([1, 2, 5, 1000])
        score = rng.integers(levels + 1, size=rows) / levels
        rate = rng.choice([0.0, 0.1, 0.5, 0.7, 1.0])
        # Half the cases: a patient has or has not the finding, on all images.
        by_patient = rng.random() < 0.5
        positive = (rng.random(patients)[patient] if by_patient else rng.random(rows)) < rate
        known = rng.random(rows) < 0.9
        known[0] = True
        yield score[known], positive[known], patient[known], patients


def of_all(metric, pairs):
    """scikit-learn's `metric` of many (truth, prediction) at once, as columns of one table.

    Rows that a case lacks are filled with true negatives, which precision, recall and F1 ignore.
    """
    filled = np.zeros((2, 40, len(pairs)), dtype=int)
    for k, pair in enumerate(pairs):
        filled[:, : len(pair[0]), k] = pair
    return metric(*filled, average=None, zero_division=np.nan)


def equal(ours, theirs):
    assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)


@many_cases
def test_ranking_metrics_equal_scikit_learn(count):
    both = 0
    for score, positive, patient, patients in cases(count):
        rows = (score, positive, patient, patients)
        auroc, precision, lift = (one(s(*rows), patients) for s in (Auroc, AveragePrecision, Lift))
        if len(set(positive)) < 2:
            assert math.isnan(auroc)
            assert math.isnan(precision)
            assert math.isnan(lift)
            continue
        both += 1
        equal(auroc, roc_auc_score(positive, score))
        equal(precision, average_precision_score(positive, score))
        equal(lift, average_precision_score(positive, score) / positive.mean())
        limit = np.unique(score)[:, None]
        allowed = (score[~positive] >= limit).mean(axis=1), (score[positive] >= limit).mean(axis=1)
        for specificity in (0.9, 0.95):
            point = one(RocSensitivity(*rows, specificity=specificity), patients)
            enough = allowed[0] <= 1 - specificity + 1e-9
            equal(point, allowed[1][enough].max(initial=0))
            if both % 10 == 0:
                false, true, _ = roc_curve(positive, score, drop_intermediate=False)
                equal(point, true[false <= 1 - specificity + 1e-9].max())
    assert both > 0.35 * count


@pytest.mark.filterwarnings("ignore:.*single label.*:UserWarning")
@many_cases
def test_metrics_at_a_threshold_equal_scikit_learn(count):
    every = list(cases(count))
    calls = [(positive, score >= 0.5) for score, positive, *_ in every]
    recall = of_all(recall_score, calls)
    calm = of_all(recall_score, [(~positive, ~called) for positive, called in calls])
    for k, (score, positive, patient, patients) in enumerate(every):
        called = score >= 0.5
        rows = (positive, called, patient, patients)
        right = Ratio((positive == called) * 1.0, np.ones(len(score)), patient, patients)
        equal(one(right, patients), np.mean(positive == called))
        brier = Ratio((score - positive) ** 2, np.ones(len(score)), patient, patients)
        equal(one(brier, patients), np.mean((score - positive) ** 2))
        # Undefined, as its half is, where one class is empty.
        equal(one(BalancedAccuracy(*rows), patients), (recall[k] + calm[k]) / 2)
        equal(one(Matthews(*rows), patients), matthews_corrcoef(positive, called))
        if k % 10 == 0:
            equal(one(right, patients), accuracy_score(positive, called))
            if len(set(positive)) == 2:
                equal(one(brier, patients), brier_score_loss(positive, score))
                balanced = balanced_accuracy_score(positive, called)
                equal(one(BalancedAccuracy(*rows), patients), balanced)


@many_cases
def test_precision_recall_and_f1_equal_scikit_learn(count):
    every = [(score >= 0.5, *rest) for score, *rest in cases(count)]
    calls = [(positive, called) for called, positive, *_ in every]
    precision, recall, f1 = (
        of_all(metric, calls) for metric in (precision_score, recall_score, f1_score)
    )
    healthy = of_all(precision_score, [(~positive, ~called) for positive, called in calls])
    for k, (called, positive, patient, patients) in enumerate(every):
        rows = (positive, called, patient, patients)
        hits = (positive & called) * 1.0
        equal(one(Ratio(hits, positive * 1.0, patient, patients), patients), recall[k])
        equal(one(F1(*rows), patients), f1[k])
        if 0 < positive.sum() < len(positive):
            # Bayes' rule at the sample's own prevalence gives what is counted in the sample.
            own = positive.mean()
            ppv, npv = (PredictiveValue(*rows, prevalence=own, negative=n) for n in (False, True))
            equal(one(ppv, patients), precision[k])
            equal(one(npv, patients), healthy[k])


@many_cases
def test_macro_and_micro_f1_equal_scikit_learn(count):
    rng = np.random.default_rng(3)
    for trial in range(count):
        rows = int(rng.integers(1, 30))
        truth, predicted = rng.integers(4, size=(2, rows))
        patient, ones = rng.integers(5, size=rows), np.ones(rows)
        each = [one(F1(truth == k, predicted == k, patient, 5), 5) for k in range(4)]
        macro = mean_spread([Spread(value, np.empty(0)) for value in each]).value
        table = np.zeros((4, 4))
        np.add.at(table, (truth, predicted), 1)
        either = table.sum(axis=0) + table.sum(axis=1)
        literal = np.mean([2 * table[k, k] / either[k] for k in range(4) if either[k]])
        equal(macro, literal)
        if trial % 10 == 0:
            equal(macro, f1_score(truth, predicted, average="macro"))
            micro = one(Ratio((truth == predicted) * 1.0, ones, patient, 5), 5)
            equal(micro, f1_score(truth, predicted, average="micro"))


@many_cases
def test_calibration_errors_equal_their_definitions(count):
    for score, positive, patient, patients in cases(count):
        bins = 15
        for equal_mass in (False, True):
            inner = np.arange(1, bins) / bins
            if equal_mass:
                inner = [
                    sorted(score)[max(0, math.ceil(len(score) * q - 1e-12) - 1)] for q in inner
                ]
            # A bin holds what is above its lower edge and at most its upper one.
            edges = [-math.inf, *sorted(set(inner)), math.inf]
            total = 0.0
            for low, high in itertools.pairwise(edges):
                inside = (score > low) & (score <= high)
                if inside.any():
                    total += inside.mean() * abs(score[inside].mean() - positive[inside].mean())
            error = CalibrationError(score, positive, patient, patients, equal_mass=equal_mass)
            equal(one(error, patients), total)


@many_cases
def test_net_benefit_equals_its_definition(count):
    for score, positive, patient, patients in cases(count):
        for p in (0.05, 0.5):
            called = score >= p
            true, false = (positive & called).mean(), (~positive & called).mean()
            benefit = net_benefit(positive, called, patient, patients, p / (1 - p))
            equal(one(benefit, patients), true - false * p / (1 - p))


@many_cases
def test_recall_at_k_and_median_rank_equal_a_sorted_list(count):
    rng = np.random.default_rng(5)
    for _ in range(count):
        queries, candidates = int(rng.integers(1, 8)), int(rng.integers(1, 15))
        similarity = rng.integers(5, size=(queries, candidates)) / 4
        right = rng.random((queries, candidates)) < 0.2
        right[np.arange(queries), rng.integers(candidates, size=queries)] = True
        rank = first_right(similarity, right)
        # Wrong ones first among equals, so that a constant model gets no credit.
        orders = [
            sorted(range(candidates), key=lambda c, s=s, r=r: (-s[c], r[c]))
            for s, r in zip(similarity, right, strict=True)
        ]
        literal = [
            next(place for place, c in enumerate(order, 1) if r[c])
            for order, r in zip(orders, right, strict=True)
        ]
        assert rank.tolist() == literal
        patient = rng.integers(3, size=queries)
        for k in (1, 5, 10):
            hits = Ratio((rank <= k) * 1.0, np.ones(queries), patient, 3)
            equal(one(hits, 3), sum(r <= k for r in literal) / queries)
        median = sorted(literal)[(queries - 1) // 2]
        assert one(Median(rank.astype(float), patient, 3), 3) == median


def made(score, positive, patient, patients):
    rows = (positive, score >= 0.5, patient, patients)
    return [
        Lift(score, positive, patient, patients),
        RocSensitivity(score, positive, patient, patients, specificity=0.9),
        BalancedAccuracy(*rows),
        Matthews(*rows),
        PredictiveValue(*rows, prevalence=0.1, negative=False),
    ]


def test_weights_are_repeated_patients():
    """Every statistic of calls at whole weights equals itself on rows repeated so often."""
    rng = np.random.default_rng(8)
    for score, positive, patient, patients in cases(FEW):
        weight = rng.integers(0, 4, size=patients)
        again = np.repeat(np.arange(len(score)), weight[patient])
        if len(again):
            whole = made(score, positive, patient, patients)
            repeated = made(score[again], positive[again], patient[again], patients)
            for a, b in zip(whole, repeated, strict=True):
                equal(float(a(weight[:, None].astype(float))[0]), one(b, patients))
