"""Average precision of action triplets: ours against loops over the definition, and ivtmetrics.

    python benchmarks/bench_triplets.py [--cases 60]

The package is compared only where it can be imported (``pip install ivtmetrics`` in an
environment of your own, or its folder on PYTHONPATH). Prints one Markdown row a comparison.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlp.evaluate.metrics.average_precision import first_k, video_precisions
from medvlp.evaluate.metrics.triplets import COMPONENTS, disentangle, groups

Array = NDArray[Any]
Arrays = list[Array]
Rng = np.random.Generator
Table = list[tuple[int, int, int]]

INSTRUMENTS, VERBS, TARGETS, CLASSES = 6, 10, 15, 100


def classes(rng: Rng) -> Table:
    """A made-up table of 100 triplets; ivtmetrics' own where it is compared."""
    chosen = rng.choice(INSTRUMENTS * VERBS * TARGETS, CLASSES, replace=False)
    return [(k // (VERBS * TARGETS), k // TARGETS % VERBS, k % TARGETS) for k in sorted(chosen)]


def named(table: Table) -> list[str]:
    return [f"triplet:i{i},v{v:02d},t{t:02d}" for i, v, t in table]


def draw(rng: Rng) -> tuple[Arrays, Arrays]:
    """Recordings of very different length, scores with and without ties, absent classes."""
    lengths = rng.choice([1, 2, 10, 60, 150], size=rng.integers(1, 5))
    rate = rng.choice([0.0, 0.01, 0.1, 0.9], size=CLASSES, p=[0.3, 0.4, 0.25, 0.05])
    levels = int(rng.choice([2, 10, 10**6]))
    positive = [rng.random((n, CLASSES)) < rate for n in lengths]
    score = [
        np.clip(
            rng.integers(0, levels, y.shape) / levels * 0.8 + 0.2 * y * rng.random(y.shape), 0, 1
        )
        for y in positive
    ]
    return positive, score


def ours(positive: Arrays, score: Arrays, group: Array) -> tuple[Array, float]:
    video = np.repeat(np.arange(len(positive)), [len(y) for y in positive])
    truth = disentangle(np.concatenate(positive) * 1.0, group) == 1
    table = video_precisions(disentangle(np.concatenate(score), group), truth, video, len(positive))
    return table, mean(mean(table, 0), 0)


def mean(values: Array, axis: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def literal(positive: Arrays, score: Arrays, group: Array) -> float:
    """Every class, recording and threshold in turn."""
    rows = []
    for truth, value in zip(positive, score, strict=True):
        row = []
        for g in range(group.max() + 1):
            own = np.flatnonzero(group == g)
            label = [any(line[own]) for line in truth]
            told = [max(line[own]) for line in value]
            row.append(one(label, told))
        rows.append(row)
    table = np.array(rows)
    return mean(mean(table, 0), 0)


def one(label: list[bool], told: list[float]) -> float:
    total = sum(label)
    if not total:
        return np.nan
    true, value = np.array(label), np.array(told)
    area, before = 0.0, 0
    for limit in sorted(set(value[true]), reverse=True):
        called = value >= limit
        hits = int((true & called).sum())
        area += (hits - before) / total * hits / int(called.sum())
        before = hits
    return area


def gap(a: float, b: float) -> float:
    return 0.0 if np.isnan(a) and np.isnan(b) else abs(a - b)


def against_loops(cases: int, rng: Rng) -> None:
    gaps, fast, slow = [], 0.0, 0.0
    for _ in range(cases):
        names, (positive, score) = named(classes(rng)), draw(rng)
        for component in COMPONENTS:
            _, group = groups(names, component)
            start = time.perf_counter()
            mine = ours(positive, score, group)[1]
            middle = time.perf_counter()
            gaps.append(gap(mine, literal(positive, score, group)))
            fast, slow = fast + middle - start, slow + time.perf_counter() - middle
    print(f"| loops over the definition | {len(gaps)} | {max(gaps):.1e} | {slow / fast:.0f} |")


def against_package(cases: int, rng: Rng) -> None:
    try:
        from ivtmetrics import recognition
    except ImportError:
        print("| ivtmetrics | not installed | | |")
        return
    own = recognition.average_precision_score
    versions = {
        "as it is": own,
        # What the package looks for; scikit-learn gave it until its sum stopped being negated.
        "an absent class left out": lambda truth, told, average=None: np.where(
            truth.any(axis=0), own(truth, told, average=average), -0.0
        ),
    }
    gaps, depth, spent = {version: [] for version in versions}, [], np.zeros(2)
    for _ in range(cases):
        positive, score = draw(rng)
        judge = recognition.Recognition(CLASSES)
        for truth, told in zip(positive, score, strict=True):
            judge.update(truth * 1, told)
            judge.video_end()
        for version, precision in versions.items():
            recognition.average_precision_score = precision
            found, seconds = components(judge, positive, score)
            gaps[version] += found
            spent += seconds
        if not has_ties(score):
            truth = np.concatenate(positive)
            mine = first_k(np.concatenate(score), truth, 10).sum() / max(truth.sum(), 1)
            depth.append(gap(mine, judge.topK(10)))
    for version, found in gaps.items():
        times = spent[1] / spent[0]
        print(f"| ivtmetrics, {version} | {len(found)} | {max(found):.1e} | {times:.0f} |")
    print(f"| ivtmetrics' top 10, without ties | {len(depth)} | {max(depth, default=0):.1e} | |")


def components(judge: Any, positive: Arrays, score: Arrays) -> tuple[list[float], Array]:
    """Gaps in the mAP of all components, and the seconds that ours and the package took."""
    names = named([tuple(line[1:4]) for line in judge.bank.tolist()])
    gaps, spent = [], np.zeros(2)
    for component in COMPONENTS:
        group = groups(names, component)[1]
        start = time.perf_counter()
        mine = ours(positive, score, group)[1]
        middle = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gaps.append(gap(mine, judge.compute_video_AP(component)["mAP"]))
        spent += middle - start, time.perf_counter() - middle
    return gaps, spent


def has_ties(score: Arrays) -> bool:
    return any(len(np.unique(line)) < len(line) for told in score for line in told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=25)
    cases = parser.parse_args().cases
    print("| against | comparisons | largest gap in mAP | times as fast |\n|---|---|---|---|")
    against_loops(cases, np.random.default_rng(0))
    against_package(cases, np.random.default_rng(1))


if __name__ == "__main__":
    main()
