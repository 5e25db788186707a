"""How often 95 % intervals hold the truth, over simulated cohorts of clustered patients.

    python benchmarks/bench_coverage.py            # a quick look
    python benchmarks/bench_coverage.py --full     # 2,000 cohorts a setting

A cohort has 50, 100 or 200 patients, of whom at least 20 have the finding and 20 do not, and one to
three images of each. Scores are normal: a shift for the finding, a patient's own part and an
image's own part, of equal variance. Two models share the patient's part. Prints one Markdown row
a setting and statistic.
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from medvlp.evaluate.metrics.calibration import CalibrationError
from medvlp.evaluate.metrics.comparison import difference
from medvlp.evaluate.metrics.intervals import interval, p_value
from medvlp.evaluate.metrics.operating import BalancedAccuracy, Matthews, RocSensitivity
from medvlp.evaluate.metrics.resampling import bootstrap, mean_spread
from medvlp.evaluate.metrics.statistics import (
    F1,
    Auroc,
    AveragePrecision,
    Floats,
    Ratio,
    Statistic,
)

PATIENTS = (50, 100, 200)
AREAS = (0.7, 0.85, 0.95)
PREVALENCE = 0.45
EVENTS = 20
DRAWS = 1000
TRUTH_PATIENTS = 100_000
ALONE = (
    "auroc", "sensitivity", "specificity", "brier", "f1", "balanced accuracy", "mcc",
    "average precision", "ROC sensitivity at 90 %", "calibration error",
)  # fmt: skip
"""Statistics that need no second model."""
MADE_FOR = (
    "auroc",
    "macro",
    "sensitivity",
    "specificity",
    "brier",
    "f1",
    "difference",
    "calibration error",
)
"""Statistics of which 93 to 97 % is asked."""


@dataclass(frozen=True)
class Cohort:
    patient: np.ndarray
    positive: np.ndarray
    scores: tuple[Floats, Floats]
    patients: int
    shift: float


def cohort(rng: np.random.Generator, patients: int, area: float) -> Cohort:
    ill = np.zeros(patients, dtype=bool)
    while min(ill.sum(), patients - ill.sum()) < EVENTS:
        ill = rng.random(patients) < PREVALENCE
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, size=patients))
    shift = math.sqrt(2) * float(norm.ppf(area))
    own = rng.normal(size=patients)[patient]
    parts = rng.normal(size=(2, len(patient)))
    scores = [shift * ill[patient] + math.sqrt(0.5) * (own + part) for part in parts]
    return Cohort(patient, ill[patient], (scores[0], scores[1]), patients, shift)


def statistics(one: Cohort) -> dict[str, Statistic]:
    rows = (one.patient, one.patients)
    score, positive = one.scores[0], one.positive
    called = score >= one.shift / 2
    # Overconfident by design: a calibrated one has a slope of `shift`.
    probability = norm.cdf(0.8 * (score - one.shift / 2))
    return {
        "auroc": Auroc(score, positive, *rows),
        "second": Auroc(one.scores[1], positive, *rows),
        "sensitivity": Ratio((positive & called) * 1.0, positive * 1.0, *rows),
        "specificity": Ratio((~positive & ~called) * 1.0, ~positive * 1.0, *rows),
        "brier": Ratio((probability - positive) ** 2, np.ones(len(score)), *rows),
        "f1": F1(positive, called, *rows),
        "balanced accuracy": BalancedAccuracy(positive, called, *rows),
        "mcc": Matthews(positive, called, *rows),
        "average precision": AveragePrecision(score, positive, *rows),
        "ROC sensitivity at 90 %": RocSensitivity(score, positive, *rows, specificity=0.9),
        "calibration error": CalibrationError(probability, positive, *rows),
    }


def truths(patients: int, area: float) -> dict[str, float]:
    """AUROCs in closed form, the rest from a very large population.

    Cohorts with too few events are drawn again, so the share of ill patients is not `PREVALENCE`
    exactly; the population has the cohorts' mean share.
    """
    rng = np.random.default_rng(99)
    shares = [cohort(rng, patients, area).positive.mean() for _ in range(2_000)]
    one = cohort(np.random.default_rng(7), TRUTH_PATIENTS, area)
    flip = np.mean(shares) / one.positive.mean()
    weight = np.ones((TRUTH_PATIENTS, 1))
    ill = np.zeros(TRUTH_PATIENTS, dtype=bool)
    ill[one.patient[one.positive]] = True
    weight[ill] = flip * (1 - one.positive.mean()) / (1 - np.mean(shares))
    found = {name: float(s(weight)[0]) for name, s in statistics(one).items()}
    return found | {"auroc": area, "second": area, "macro": area, "difference": 0.0}


def simulate(
    patients: int, area: float, cohorts: int, only: Sequence[str]
) -> tuple[dict[str, np.ndarray], float]:
    """(3,) shares of cohorts by statistic: percentile, BCa, misses below; and the test's size."""
    truth = truths(patients, area)
    rng = np.random.default_rng([patients, round(100 * area)])
    hits: dict[str, np.ndarray] = {}
    rejected = 0
    for trial in range(cohorts):
        known = statistics(cohort(rng, patients, area))
        chosen = {name: known[name] for name in only or known}
        spreads = bootstrap(chosen, patients, DRAWS, seed=trial)
        if not only:
            second = spreads.pop("second")
            spreads["macro"] = mean_spread([spreads["auroc"], second])
            spreads["difference"] = difference(spreads["auroc"], second)
            rejected += p_value(spreads["difference"]) <= 0.05
        for name in spreads:
            ends = [interval(spreads[name], 0.95, m) for m in ("percentile", "bca")]
            held = [e.low <= truth[name] <= e.high for e in ends]
            low = ends[1].high < truth[name]
            hits[name] = hits.get(name, np.zeros(3)) + np.array([*held, low])
    return {name: count / cohorts for name, count in hits.items()}, rejected / cohorts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="2,000 cohorts, every setting")
    parser.add_argument("--cohorts", type=int)
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    parser.add_argument(
        "--only", choices=ALONE, default=(), nargs="+", help="these statistics alone"
    )
    options = parser.parse_args()
    cohorts = options.cohorts or (2_000 if options.full else 60)
    start = time.perf_counter()
    error = 100 * math.sqrt(0.95 * 0.05 / cohorts)
    print(f"{cohorts:,} cohorts a setting, {DRAWS:,} draws; standard error {error:.2f} points\n")
    print("| patients | AUROC | statistic | percentile, % | BCa, % | of BCa: all below, % |")
    print("|---|---|---|---|---|---|")
    outside = []
    for patients, area in itertools.product(options.patients, AREAS):
        found, size = simulate(patients, area, cohorts, options.only)
        for name, (percentile, bca, low) in found.items():
            print(
                f"| {patients} | {area} | {name} "
                f"| {100 * percentile:.1f} | {100 * bca:.1f} | {100 * low:.1f} |",
                flush=True,
            )
            used = percentile if name == "difference" else bca
            if name in MADE_FOR and not 0.93 <= used <= 0.97:
                outside.append(f"{name} {patients}/{area}: {100 * used:.1f}")
        if not options.only:
            print(f"| {patients} | {area} | p ≤ 0.05 of no difference | {100 * size:.1f} | | |")
    print(
        f"\nOutside 93 to 97 %: {'; '.join(outside) or 'none'}. {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
