"""Where models stand: ranks with intervals, and groups that cannot be told apart."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from medvlp.evaluate.metrics.comparison import Comparison, What
from medvlp.evaluate.metrics.estimate import Estimate, number
from medvlp.evaluate.metrics.statistics import Floats


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One line of ``ranks`` in `metrics.json`: a model among the models, by one metric."""

    domain: str
    protocol: str
    metric: str
    name: str
    model: str
    value: float
    rank: float
    """From 1, the best; ties share their mean rank."""

    low: float | None
    high: float | None
    """Where the rank lies over the draws, between the quantiles of the confidence."""

    first: float | None
    """The share of draws in which the model is the best; ties for it share the draw."""

    group: str
    """Letters: two models that share one are not told apart at the confidence by the paired
    differences after Holm's adjustment."""


def standings(
    estimates: Sequence[Estimate],
    comparisons: Sequence[Comparison],
    chosen: Sequence[What],
    *,
    domain: str,
    confidence: float,
) -> list[Standing]:
    """The order of the models, controls aside, by each metric.

    Args:
        estimates: Of one bootstrap.
        comparisons: Between these models.
        chosen: Metrics to order by.
        domain: For the lines.
        confidence: Of rank intervals; groups are at the level of one less it.
    """
    found: list[Standing] = []
    for what in chosen:
        models = [
            one
            for one in estimates
            if one.what == what and not one.control and not np.isnan(one.spread.value)
        ]
        if len(models) > 1:
            apart = {
                frozenset((c.first, c.second))
                for c in comparisons
                if (c.metric, c.name) == what and _tells(c, 1 - confidence)
            }
            found.extend(_ordered(models, apart, domain, confidence))
    return found


def _tells(comparison: Comparison, level: float) -> bool:
    return comparison.p_holm is not None and comparison.p_holm <= level


def _ordered(
    models: Sequence[Estimate], apart: set[frozenset[str]], domain: str, confidence: float
) -> list[Standing]:
    sign = 1 if models[0].measure.low_is_better else -1
    rank_M = rankdata(sign * np.array([one.spread.value for one in models]))
    drawn_MR = np.stack([one.spread.draws_R for one in models])
    drawn_MR = drawn_MR[:, ~np.isnan(drawn_MR).any(axis=0)]
    order = np.argsort(rank_M, kind="stable")
    letters = tie_groups([models[i].model for i in order], apart)
    spans = _rank_spans(sign * drawn_MR, confidence)
    return [
        Standing(
            domain=domain,
            protocol=models[i].protocol,
            metric=models[i].measure.metric,
            name=models[i].measure.name,
            model=models[i].model,
            value=models[i].spread.value,
            rank=float(rank_M[i]),
            low=number(spans[i][0]),
            high=number(spans[i][1]),
            first=number(spans[i][2]),
            group=letters[models[i].model],
        )
        for i in order
    ]


def _rank_spans(cost_MR: Floats, confidence: float) -> list[tuple[float, float, float]]:
    """Of each model: the rank's quantiles over the draws, and its share of first places."""
    if not cost_MR.shape[1]:
        return [(np.nan,) * 3] * len(cost_MR)
    rank_MR = rankdata(cost_MR, axis=0)
    best_MR = rank_MR == rank_MR.min(axis=0)
    first_M = (best_MR / best_MR.sum(axis=0)).mean(axis=1)
    tail = (1 - confidence) / 2
    low_M, high_M = np.quantile(rank_MR, [tail, 1 - tail], axis=1, method="inverted_cdf")
    return [(float(a), float(b), float(c)) for a, b, c in zip(low_M, high_M, first_M, strict=True)]


def tie_groups(ordered: Sequence[str], apart: set[frozenset[str]]) -> Mapping[str, str]:
    """Letters of each model: maximal runs of the order in which no two are told apart.

    Args:
        ordered: Models, best first.
        apart: Pairs that are told apart.

    >>> pairs = {frozenset(("a", "c"))}
    >>> dict(tie_groups(["a", "b", "c"], pairs))
    {'a': 'a', 'b': 'ab', 'c': 'b'}
    """
    ends = [_run_end(ordered, start, apart) for start in range(len(ordered))]
    # A run that ends where an earlier one does lies within it.
    starts = [i for i, end in enumerate(ends) if i == 0 or end > ends[i - 1]]
    return {
        model: "".join(_letter(k) for k, s in enumerate(starts) if s <= i <= ends[s])
        for i, model in enumerate(ordered)
    }


def _run_end(ordered: Sequence[str], start: int, apart: set[frozenset[str]]) -> int:
    end = start
    while end + 1 < len(ordered) and not any(
        frozenset((ordered[k], ordered[end + 1])) in apart for k in range(start, end + 1)
    ):
        end += 1
    return end


def _letter(k: int) -> str:
    letters = string.ascii_letters
    return letters[k] if k < len(letters) else f"({k + 1})"
