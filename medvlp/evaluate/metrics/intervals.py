"""Confidence intervals from draws of patients.

Both constructions widen their tails for small samples. The draws of a mean over n patients vary by
the factor (n−1)/n too little, and a normal quantile stands where Student's would: instead of z,
they use ``t(n−1)·sqrt(n/(n−1))`` (the expanded percentile interval of Hesterberg 2015,
doi:10.1080/00031305.2015.1089789). What each of them covers was simulated: `benchmarks/results`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm, t

from medvlp.evaluate.metrics.resampling import Spread
from medvlp.evaluate.metrics.statistics import Floats

Method = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Interval:
    """An interval and the construction that it came from; NaN and None where there is none."""

    low: float
    high: float
    method: str | None


NONE = Interval(math.nan, math.nan, None)


def interval(spread: Spread, confidence: float, method: Method = "bca") -> Interval:
    """The interval of a statistic.

    - ``percentile``: quantiles of the draws.
    - ``bca``: quantiles moved by the draws' bias and the jackknife's skewness (bias-corrected and
      accelerated; Efron 1987, doi:10.1080/01621459.1987.10478410).

    Draws that are of the truth itself (`Spread.inverted`) give their quantiles (``inverted``); the
    estimate of a statistic that is biased may lie outside.

    Draws that leave the statistic undefined do not count. Where no draw differs from the estimate:

    - a proportion at 0 or 1 gets Wilson's score interval over the patients that it rests on
      (``wilson``; Wilson 1927): fifty of fifty does not make a failure impossible;
    - otherwise the estimate is both ends, since it does not depend on who was drawn (the AUROC
      of a constant score is 0.5 in every sample).

    Fewer than two patients, or no draws, give no interval.

    Args:
        spread: The estimate and its draws.
        confidence: Such as 0.95.
        method: How, where the draws differ.
    """
    kept = spread.draws_R[~np.isnan(spread.draws_R)]
    if not len(kept) or spread.support < 2 or math.isnan(spread.value):
        return NONE
    if not varies(spread):
        return _certain(spread, confidence)
    z = _expanded(confidence, spread.support)
    plain = spread.inverted or method == "percentile"
    ends = norm.cdf([-z, z]) if plain else _bca_levels(spread, kept, z)
    low, high = np.quantile(kept, ends)
    return Interval(float(low), float(high), "inverted" if spread.inverted else method)


def varies(spread: Spread) -> bool:
    """Whether any draw differs from the estimate, by more than rounding."""
    kept = spread.draws_R[~np.isnan(spread.draws_R)]
    return not np.allclose(kept, spread.value, rtol=1e-9, atol=1e-12)


def _certain(spread: Spread, confidence: float) -> Interval:
    if spread.proportion and spread.value in (0, 1):
        return Interval(*wilson(spread.value, spread.support, confidence), "wilson")
    return Interval(spread.value, spread.value, None)


def wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `n`."""
    z = float(norm.ppf((1 + confidence) / 2))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (middle - half) / scale, (middle + half) / scale
    # Exactly 0 and 1 there, which rounding may miss.
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def p_value(spread: Spread) -> float:
    """Two-sided p of a statistic that is 0 under the hypothesis, such as a difference.

    The least level at which the percentile interval leaves 0 out, so that interval and p agree.
    With R draws it is about 2/(R+1) at least. NaN without draws or with fewer than two patients.
    """
    kept = spread.draws_R[~np.isnan(spread.draws_R)]
    if not len(kept) or spread.support < 2:
        return math.nan
    z = abs(norm.ppf(_rank(kept, 0.0)))
    n = spread.support
    tail = norm.sf(z) if math.isinf(n) else t.sf(z / math.sqrt(n / (n - 1)), n - 1)
    return float(min(1.0, 2 * tail))


def _expanded(confidence: float, n: float) -> float:
    if math.isinf(n):
        return float(norm.ppf((1 + confidence) / 2))
    return float(t.ppf((1 + confidence) / 2, n - 1) * math.sqrt(n / (n - 1)))


def _bca_levels(spread: Spread, kept: Floats, z: float) -> Floats:
    """(2,) which quantiles of the draws are the ends."""
    bias = norm.ppf(_rank(kept, spread.value))
    moved = bias + np.array([-z, z])
    # An acceleration is at most 1/6, which turns the divisor only far out in the tails.
    level: Floats = norm.cdf(bias + moved / np.maximum(1 - _acceleration(spread) * moved, 1e-6))
    return level


def _acceleration(spread: Spread) -> float:
    """A sixth of the skewness of the patients' influences on the statistic."""
    kept = spread.jackknife_G[~np.isnan(spread.jackknife_G)]
    influence = kept.mean() - kept if len(kept) else kept
    power = (influence**2).sum() ** 1.5
    return float((influence**3).sum() / (6 * power)) if power > 0 else 0.0


def _rank(kept: Floats, value: float) -> float:
    """The share of draws below `value`, ties half, kept away from 0 and 1."""
    share = ((kept < value).sum() + (kept == value).sum() / 2) / len(kept)
    least = 1 / (len(kept) + 1)
    return float(np.clip(share, least, 1 - least))
