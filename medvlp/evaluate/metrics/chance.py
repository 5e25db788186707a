"""The level of a metric for whoever knows nothing: where theory gives one.

A number means something by its distance from here. Of five classes with 200 images each, a blind
ranking has a class-mate among the first ten in 89.4 % of searches: without the level, such a
figure looks like a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from medvlp.evaluate.metrics.findings import MACRO_MINIMUM

FIXED: Mapping[str, float] = {
    "auroc": 0.5,
    "auroc_macro": 0.5,
    "mcc": 0.0,
    "cohen_kappa": 0.0,
    "lift": 1.0,
    "pair_accuracy": 0.5,
}
"""Metrics whose level is the same for every data set."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the level of a metric may depend on; None where it is not known."""

    prevalence: float | None = None
    classes: int | None = None
    candidates: int | None = None
    """How many answers there are to choose from."""

    right: int | None = None
    """How many of them are right for a query."""


def level(metric: str, facts: Facts) -> float | None:
    """The expected value of `metric` for random scores; None where theory gives none.

    ========================================  ==========================================
    AUROC                                     1/2
    average precision, precision              prevalence
    accuracy, balanced accuracy               1 / classes (a uniform guess)
    recall at k, hit at k                     1 - C(n-r, k) / C(n, k)
    precision at k                            r / n
    mean reciprocal rank, one right answer    H(n) / n
    median rank, one right answer             the lower median of 1..n
    ========================================  ==========================================

    Args:
        metric: As in `metrics.json`.
        facts: What is known of the data.
    """
    if metric in FIXED:
        return FIXED[metric]
    if metric in ("average_precision", "precision"):
        return facts.prevalence
    if metric in ("accuracy", "balanced_accuracy"):
        return None if not facts.classes else 1 / facts.classes
    return _of_ranks(metric, facts)


def _of_ranks(metric: str, facts: Facts) -> float | None:
    if facts.candidates is None or facts.right is None:
        return None
    n, r = facts.candidates, facts.right
    name, _, depth = metric.partition("_at_")
    if name in ("recall", "hit") and depth.isdigit():
        return hit_at(int(depth), n, r)
    if name == "precision" and depth.isdigit():
        return r / n
    if r != 1:
        return None
    if metric == "reciprocal_rank":
        return float(np.sum(1 / np.arange(1, n + 1)) / n)
    return float((n + 1) // 2) if metric == "median_rank" else None


def hit_at(k: int, candidates: int, right: int) -> float:
    """Probability that a random order has a right answer among its first k.

    >>> [round(100 * hit_at(k, 1000, 200), 1) for k in (1, 5, 10)]
    [20.0, 67.3, 89.4]
    """
    wrong = candidates - right
    if k > wrong:
        return 1.0
    missed = gammaln(wrong + 1) - gammaln(wrong - k + 1)
    return 1 - float(np.exp(missed - gammaln(candidates + 1) + gammaln(candidates - k + 1)))


def all_positive_f1(prevalence: float) -> float:
    """F1 of whoever calls everything present: 2p / (1 + p).

    >>> round(100 * all_positive_f1(0.5), 1)
    66.7
    """
    return 2 * prevalence / (1 + prevalence)


def row_levels(
    rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int], classes: int | None = None
) -> dict[tuple[str, str], float]:
    """(metric, name) -> level, for the rows of one `metrics.json`.

    Args:
        rows: The metric rows; the prevalence of a label is among them.
        counts: The evaluation's counts, which tell how many answers a search has.
        classes: How many exclusive classes there are; by default the names that have an F1.
    """
    share = {r["name"]: r["value"] for r in rows if r["metric"] == "prevalence"}
    number = {r["name"]: r["n"] for r in rows if r["metric"] == "prevalence"}
    known = classes or len({r["name"] for r in rows if r["metric"] == "f1"}) or None
    found: dict[tuple[str, str], float] = {}
    for metric, name in dict.fromkeys((str(r["metric"]), str(r["name"])) for r in rows):
        candidates = _candidates(name, counts)
        facts = Facts(
            prevalence=share.get(name),
            classes=known,
            candidates=candidates,
            right=None if candidates is None else 1,
        )
        value = level(metric, facts)
        if metric == "average_precision_macro":
            value = _macro(share, number)
        if value is not None:
            found[metric, name] = value
    return found


def _candidates(name: str, counts: Mapping[str, int]) -> int | None:
    """How many answers a search has, where each query has one right one."""
    direction, _, of = name.partition("/")
    texts, studies = counts.get(f"{of}_distinct_texts"), counts.get(f"{of}_studies")
    if direction == "image-to-text":
        return texts
    # Several studies may share a text: only without such has a text one right study.
    return studies if texts == studies else None


def _macro(share: Mapping[str, float | None], number: Mapping[str, int]) -> float | None:
    counted = [
        p
        for name, p in share.items()
        if p is not None and round(min(p, 1 - p) * number[name]) >= MACRO_MINIMUM
    ]
    return float(np.mean(counted)) if counted else None
