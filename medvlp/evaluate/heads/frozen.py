"""Heads on frozen features: logistic regression and nearest neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from medvlp.data.items import Item
from medvlp.evaluate.heads.entrants import Entrant
from medvlp.evaluate.predict import Scorer

Floats = NDArray[np.float32]

PRIOR = 16
"""Samples' worth of belief that all features spread alike: few shots say little of each one."""

SHARPNESS = 1 / 0.07
"""Factor on cosines in the neighbours' weights (Wu et al. 2018, arXiv:1805.01978, section 3.4)."""

NEVER = -1e4
"""Logit of a label that no training sample has."""

_BLOCK = 512


class FeatureBank:
    """A frozen encoder's features, computed once an image and kept in memory."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._rows: dict[Any, NDArray[np.float32]] = {}

    def of(self, items: Sequence[Item]) -> Floats:
        """(N,D) pooled features."""
        missing = list({_image(i): i for i in items if _image(i) not in self._rows}.values())
        if missing:
            found = self._scorer.features(missing)
            self._rows.update(zip(map(_image, missing), found, strict=True))
        return np.stack([self._rows[_image(item)] for item in items])


def _image(item: Item) -> Any:
    """What decides an item's features: its files, whoever they are said to belong to."""
    return item.source_paths, item.span, item.flags


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Mean and spread of each feature over the training samples."""

    mean_D: Floats
    spread_D: Floats

    def __call__(self, feature_ND: Floats) -> Floats:
        """Standardised features."""
        return (feature_ND - self.mean_D) / self.spread_D


def fit_scale(feature_ND: Floats) -> Scale:
    """Mean and spread of training features; the spread leans towards that of all features.

    The variance is ``(N var_d + PRIOR mean(var)) / (N + PRIOR)``: of two samples, each feature's
    own would make all features equal.
    """
    own_D = feature_ND.var(axis=0)
    count = len(feature_ND)
    variance_D = (count * own_D + PRIOR * own_D.mean()) / (count + PRIOR)
    return Scale(mean_D=feature_ND.mean(axis=0), spread_D=np.sqrt(np.maximum(variance_D, 1e-12)))


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a head is fitted and chosen on: standardised features, and labels."""

    train_ND: Floats
    train_NL: Floats
    others: tuple[Floats, Floats]
    """Of the validation and of the evaluated items."""

    valid_NL: Floats


def features_of_each() -> Callable[[Entrant], Features]:
    """What gives the features of entrants; images are encoded once for each bundle."""
    banks: dict[Any, FeatureBank] = {}

    def of(entrant: Entrant) -> Features:
        bundle, splits = entrant.scorer.bundle, entrant.splits
        if bundle not in banks:
            banks[bundle] = FeatureBank(entrant.scorer)
        train_ND, valid_ND, test_ND = (
            banks[bundle].of(items) for items in (splits.train, splits.valid, splits.test)
        )
        scale = fit_scale(train_ND)
        train_NL, valid_NL = (
            np.stack([item.labels_L for item in items]) for items in (splits.train, splits.valid)
        )
        return Features(
            train_ND=scale(train_ND),
            train_NL=train_NL,
            others=(scale(valid_ND), scale(test_ND)),
            valid_NL=valid_NL,
        )

    return of


def linear_logits(
    train_ND: Floats, label_NL: Floats, others: Sequence[Floats], strength: float
) -> list[NDArray[np.float64]]:
    """(M,L) logits of other samples by one L2-penalised logistic regression a label (L-BFGS).

    Args:
        train_ND: Standardised features.
        label_NL: 1 and 0; all else is left out. A label of one class gets logits 0.
        others: Standardised features, (M,D) each.
        strength: C, the inverse of the penalty, as scikit-learn has it.
    """
    logits = [np.zeros((len(other), label_NL.shape[1])) for other in others]
    for k in range(label_NL.shape[1]):
        known_N = (label_NL[:, k] == 0) | (label_NL[:, k] == 1)
        label = label_NL[known_N, k]
        if len(np.unique(label)) < 2:
            continue
        model = _regression(train_ND[known_N], label, strength)
        for found, other in zip(logits, others, strict=True):
            found[:, k] = model.decision_function(other)
    return logits


def choice_logits(
    train_ND: Floats, label_NL: Floats, others: Sequence[Floats], strength: float
) -> list[NDArray[np.float64]]:
    """(M,L) logits of other samples by one multinomial L2-penalised logistic regression (L-BFGS).

    Args:
        train_ND: Standardised features.
        label_NL: Exactly one 1 a row, the rest 0 or unknown. A label that occurs in no row is never
            chosen.
        others: Standardised features, (M,D) each.
        strength: C, the inverse of the penalty, as scikit-learn has it.
    """
    choice_N = (label_NL == 1).argmax(axis=1)
    logits = [np.full((len(other), label_NL.shape[1]), NEVER) for other in others]
    if len(classes := np.unique(choice_N)) == 1:
        for found in logits:
            found[:, classes] = 0.0
        return logits
    model = _regression(train_ND, choice_N, strength)
    for found, other in zip(logits, others, strict=True):
        found[:, classes] = np.log(np.maximum(model.predict_proba(other), 1e-300))
    return logits


def _regression(train_ND: Floats, label_N: NDArray[Any], strength: float) -> LogisticRegression:
    model = LogisticRegression(C=strength, max_iter=1000)
    with warnings.catch_warnings():
        # A weak penalty on separable features has no finite optimum: the budget of
        # iterations is part of the fit, the same for every model.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(train_ND, label_N)


def neighbour_logits(
    train_ND: Floats, label_NL: Floats, others: Sequence[Floats], neighbours: int
) -> list[NDArray[np.float64]]:
    """(M,L) log-odds of the nearest training samples' vote, by cosine.

    A sample votes with weight ``exp(SHARPNESS * cosine)``; for each label only samples that know
    it vote, at most as many as there are.

    Args:
        train_ND: Standardised features.
        label_NL: 1 and 0; all else has no vote.
        others: Standardised features, (M,D) each.
        neighbours: k.
    """
    unit_ND = _unit(train_ND)
    return [
        np.concatenate(
            [
                _votes(_unit(other[start : start + _BLOCK]) @ unit_ND.T, label_NL, neighbours)
                for start in range(0, len(other), _BLOCK)
            ]
        )
        for other in others
    ]


def _votes(cosine_MN: Floats, label_NL: Floats, neighbours: int) -> NDArray[np.float64]:
    logits = np.zeros((len(cosine_MN), label_NL.shape[1]))
    for k in range(label_NL.shape[1]):
        known = np.flatnonzero((label_NL[:, k] == 0) | (label_NL[:, k] == 1))
        if not len(known):
            continue
        near_MN = cosine_MN[:, known].astype(np.float64)
        count = min(neighbours, len(known))
        top_MK = np.argsort(-near_MN, axis=1, kind="stable")[:, :count]
        weight_MK = np.exp(SHARPNESS * (np.take_along_axis(near_MN, top_MK, axis=1) - 1))
        share_M = (weight_MK * label_NL[known, k][top_MK]).sum(axis=1) / weight_MK.sum(axis=1)
        share_M = share_M.clip(1e-6, 1 - 1e-6)
        logits[:, k] = np.log(share_M / (1 - share_M))
    return logits


def _unit(feature_ND: Floats) -> Floats:
    length_N1 = np.linalg.norm(feature_ND, axis=1, keepdims=True)
    unit_ND: Floats = feature_ND / np.maximum(length_N1, 1e-12)
    return unit_ND
