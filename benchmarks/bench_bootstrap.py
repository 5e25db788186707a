"""Patient-clustered bootstrap of AUROC: ours against the plain scikit-learn loop.

    python benchmarks/bench_bootstrap.py

Prints one Markdown row a case. The loop is timed over few draws and extrapolated.
"""

import argparse
import os
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from medvlp.evaluate.metrics.resampling import (
    BLOCK,
    Spread,
    bootstrap,
    draw_weights,
    mean_spread,
)
from medvlp.evaluate.metrics.statistics import Auroc, Floats

CASES = ((2_000, 1_000), (25_000, 1_000), (25_000, 10_000))
LABELS = 14

Case = tuple[Floats, Floats, Floats, int]


def data(rows: int, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    patient = np.unique(rng.integers(rows // 2, size=rows), return_inverse=True)[1]
    positive = rng.random((LABELS, rows)) < np.linspace(0.02, 0.3, LABELS)[:, None]
    score = rng.normal(size=(LABELS, rows)) + positive
    return score, positive, patient, int(patient.max()) + 1


def ours(case: Case, draws: int) -> tuple[float, float, Spread]:
    score, positive, patient, patients = case
    start, cpu = time.perf_counter(), time.process_time()
    statistics = {
        label: Auroc(score[label], positive[label], patient, patients) for label in range(LABELS)
    }
    macro = mean_spread(list(bootstrap(statistics, patients, draws, seed=0).values()))
    return time.perf_counter() - start, time.process_time() - cpu, macro


def loop(case: Case, draws: int) -> tuple[float, Floats]:
    """Seconds and the macro AUROC of each of the first `draws` draws."""
    score, positive, patient, patients = case
    weight_PR = draw_weights(patients, 0, BLOCK, 0)[:, :draws]
    start = time.perf_counter()
    macro = [
        np.mean(
            [
                roc_auc_score(positive[i], score[i], sample_weight=weight_PR[patient, draw])
                for i in range(LABELS)
            ]
        )
        for draw in range(draws)
    ]
    return time.perf_counter() - start, np.array(macro)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop-draws", type=int, default=5)
    probe = parser.parse_args().loop_draws
    print(f"cores: {os.cpu_count()}, load before: {os.getloadavg()[0]:.1f}")
    print(
        "| samples × labels | draws | ours, s | ours, CPU s "
        "| scikit-learn loop, s | ratio | largest gap |"
    )
    print("|---|---|---|---|---|---|---|")
    for rows, draws in CASES:
        case = data(rows)
        seconds, cpu, macro = ours(case, draws)
        loop_seconds, expected = loop(case, probe)
        full = loop_seconds / probe * draws
        gap = np.abs(macro.draws_R[:probe] - expected).max()
        print(
            f"| {rows:,} × {LABELS} | {draws:,} | {seconds:.2f} | {cpu:.2f} "
            f"| {full:,.0f} (from {probe} draws) | {full / seconds:,.0f} | {gap:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
