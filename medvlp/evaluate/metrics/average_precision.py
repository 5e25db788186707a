"""Average precision of labels that may hold together, within recordings and over all windows.

The published convention for surgical tools and action triplets (Nwoye & Padoy 2022,
arXiv:2204.05235): a label's average precision is computed within each recording in which it
occurs, averaged over those recordings, then over labels. A label that never occurs in a recording
is undefined there and left out, which some versions of scikit-learn count as zero.

Shape letters: W windows, L labels, V recordings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvlp.evaluate.metrics.estimate import Measure
from medvlp.evaluate.metrics.statistics import AveragePrecision, Floats, Ints, Ratio
from medvlp.evaluate.predictions import ALL

Bools = NDArray[np.bool_]


def average_precisions(score_WL: Floats, positive_WL: Bools) -> NDArray[np.float64]:
    """(L,) average precision of each column; NaN for one without a positive.

    The sum over distinct scores, from the highest, of the gain in recall times the precision at
    that score: windows of one score are called together. All windows positive gives 1.
    """
    return np.array(
        [_one(score_WL[:, k], positive_WL[:, k]) for k in range(score_WL.shape[1])], np.float64
    )


def _one(score_W: Floats, positive_W: Bools) -> float:
    total = int(positive_W.sum())
    if not total:
        return float("nan")
    order = np.argsort(-score_W, kind="stable")
    score, positive = score_W[order], positive_W[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    hits = np.cumsum(positive)[last]
    gain = np.diff(hits, prepend=0)
    return float((gain * hits / (last + 1)).sum() / total)


class PooledPrecision(AveragePrecision):
    """Average precision over the windows of all recordings, under weights.

    As scikit-learn has it, a draw of windows that are all positive gives 1; undefined without
    positives.
    """

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) average precisions."""
        precision_R = super().__call__(weight_PR)
        positive_R = np.asarray(self.positive_KP.sum(axis=0)).ravel() @ weight_PR
        found: Floats = np.where(np.isnan(precision_R) & (positive_R > 0), 1.0, precision_R)
        return found


def video_precisions(
    score_WL: Floats, positive_WL: Bools, video_W: Ints, videos: int
) -> NDArray[np.float64]:
    """(V,L) `average_precisions` within each recording; NaN for recordings without windows."""
    table = np.full((videos, score_WL.shape[1]), np.nan)
    for video in np.unique(video_W):
        own = video_W == video
        table[video] = average_precisions(score_WL[own], positive_WL[own])
    return table


def precision_measures(
    suffix: str,
    names: tuple[str, ...],
    score_WL: Floats,
    positive_WL: Bools,
    video_W: Ints,
    patient_V: Ints,
    clusters: int,
) -> list[Measure]:
    """Average precision of each label and its macro means, both ways.

    `average_precision_video`: within each recording, averaged over recordings that have the
    label; `average_precision`: over the windows of all recordings. Macro means leave out labels
    that never occur.

    Args:
        suffix: Of the metrics' names, such as ``_ivt``.
        names: The labels.
        score_WL: Higher is surer.
        positive_WL: The truth.
        video_W: Recording of each window.
        patient_V: Cluster of each recording.
        clusters: How many clusters there are.
    """
    within_VL = video_precisions(score_WL, positive_WL, video_W, len(patient_V))
    patient_W = patient_V[video_W]
    found: list[Measure] = []
    for k, name in enumerate(names):
        positive = positive_WL[:, k]
        if not positive.any():
            continue
        defined = ~np.isnan(within_VL[:, k])
        within = Ratio(np.where(defined, within_VL[:, k], 0), defined * 1.0, patient_V, clusters)
        pooled = PooledPrecision(score_WL[:, k], positive, patient_W, clusters)
        share = Ratio(positive * 1.0, np.ones(len(positive)), patient_W, clusters)
        for metric, statistic, n in (
            ("average_precision_video", within, int(defined.sum())),
            ("average_precision", pooled, len(positive)),
            ("prevalence", share, len(positive)),
        ):
            found.append(Measure(metric=metric + suffix, name=name, n=n, statistic=statistic))
    for metric in ("average_precision_video", "average_precision"):
        members = tuple((m.metric, m.name) for m in found if m.metric == metric + suffix)
        macro = f"{metric}_macro{suffix}"
        found.append(Measure(metric=macro, name=ALL, n=len(members), members=members))
    return found


def first_k(score_WL: Floats, positive_WL: Bools, k: int) -> NDArray[np.float64]:
    """(W,) how many of a window's positive labels are among its `k` best-scored ones.

    A label counts if at most `k` labels, itself included, score as high: ties give no credit
    that depends on their order.
    """
    descending = -np.sort(-score_WL, axis=1)
    # A label that ties with the one after the k-th place does not surely stand among the first.
    limit = (
        descending[:, k : k + 1] if k < score_WL.shape[1] else np.full((len(score_WL), 1), -np.inf)
    )
    hits_W: NDArray[np.float64] = ((score_WL > limit) & positive_WL).sum(axis=1) * 1.0
    return hits_W


def first_k_measure(
    metric: str, score_WL: Floats, positive_WL: Bools, k: int, patient_W: Ints, clusters: int
) -> Measure:
    """The share of all positive labels that `first_k` finds."""
    hits_W = first_k(score_WL, positive_WL, k)
    total_W = positive_WL.sum(axis=1).astype(np.float64)
    statistic = Ratio(hits_W, total_W, patient_W, clusters)
    return Measure(metric=metric, name=ALL, n=int(total_W.sum()), statistic=statistic)
