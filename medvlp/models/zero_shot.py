"""Zero-shot scores: prompt sets against image embeddings, as pure functions of arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.special import expit, log_expit, log_softmax, softmax

from medvlp.config import STRICT
from medvlp.data.prompts import PromptSet

Floats = NDArray[np.float32]

SPECIFICITIES = (90, 95)
"""In percent: for which operating points are set on validation data."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Calibration:
    """What validation data taught about the scores of one prompt set."""

    prompts: str
    """Digest of that prompt set; for another one, this calibration says nothing."""

    temperature: float = Field(default=1.0, gt=0)
    """T; logits are divided by it (arXiv:1706.04599)."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """Probability from which a label counts as present, where validation data could tell."""

    operating: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Specificity in percent -> label -> the least probability that reached it on validation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptEmbeddings:
    """A prompt set in the joint space: one unit vector a label and side."""

    mode: Literal["independent", "exclusive"]
    names: tuple[str, ...]
    digest: str
    positive_LE: Floats
    negative_LE: Floats | None
    """None where labels exclude each other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Zero-shot result of N images and L labels."""

    names: tuple[str, ...]
    logits_NL: Floats
    """Before the sigmoid or softmax, divided by the temperature."""

    probability_NL: Floats
    thresholds_L: Floats | None
    """NaN where a label has none; None without calibration, or where labels exclude each other."""


def prompt_embeddings(
    embed_text: Callable[[Sequence[str]], Floats], prompts: PromptSet
) -> PromptEmbeddings:
    """Each label's prompts as the renormalised mean of their embeddings (an ensemble).

    Args:
        embed_text: Texts to unit vectors (n,E).
        prompts: The labels' prompts.
    """
    labels = prompts.labels.values()
    negative_LE = None
    if prompts.mode == "independent":
        negative_LE = np.stack([_ensemble(embed_text(label.negative)) for label in labels])
    return PromptEmbeddings(
        mode=prompts.mode,
        names=tuple(prompts.labels),
        digest=prompts.digest,
        positive_LE=np.stack([_ensemble(embed_text(label.positive)) for label in labels]),
        negative_LE=negative_LE,
    )


def score(
    image_NE: Floats,
    prompts: PromptEmbeddings,
    scale: float,
    calibration: Calibration | None = None,
) -> Scores:
    """Score every image for every label.

    Independent labels: ``scale·(cos(v,t⁺) − cos(v,t⁻))/T`` and its sigmoid, which is the softmax
    over the two sides. Exclusive labels: ``scale·cos(v,t)/T`` and its softmax over labels.

    Args:
        image_NE: Unit vectors.
        prompts: The prompt set, embedded by the same model.
        scale: The model's inverse temperature.
        calibration: Used if it was fitted for this very prompt set, else left aside.
    """
    if calibration is None or calibration.prompts != prompts.digest:
        calibration = Calibration(prompts=prompts.digest)
    logits_NL = margins(image_NE, prompts, scale) / np.float32(calibration.temperature)
    exclusive = prompts.mode == "exclusive"
    probability_NL = softmax(logits_NL, axis=1) if exclusive else expit(logits_NL)
    limits = [calibration.thresholds.get(name, np.nan) for name in prompts.names]
    return Scores(
        names=prompts.names,
        logits_NL=logits_NL,
        probability_NL=probability_NL.astype(np.float32),
        thresholds_L=np.array(limits, np.float32) if calibration.thresholds else None,
    )


def margins(image_NE: Floats, prompts: PromptEmbeddings, scale: float) -> Floats:
    """The logits of `score` at temperature 1."""
    direction_LE = prompts.positive_LE
    if prompts.negative_LE is not None:
        direction_LE = direction_LE - prompts.negative_LE
    logits_NL: Floats = np.float32(scale) * (image_NE.astype(np.float32) @ direction_LE.T)
    return logits_NL


def fit_calibration(logits_NL: Floats, labels_NL: Floats, prompts: PromptEmbeddings) -> Calibration:
    """Temperature of least negative log-likelihood, then each label's threshold.

    The threshold maximises sensitivity + specificity − 1 (Youden 1950), which does not depend on
    how common the label is; labels of one class alone get none, nor do exclusive labels.

    Args:
        logits_NL: `margins` of validation images.
        labels_NL: 1 present, 0 absent; anything else is left out. For exclusive labels, rows
            without exactly one 1 are left out.
        prompts: What the logits were made with.
    """
    logits_NL, labels_NL = logits_NL.astype(np.float64), labels_NL.astype(np.float64)
    if prompts.mode == "exclusive":
        rows_N = (labels_NL == 1).sum(1) == 1
        temperature = _temperature(
            lambda t: _softmax_loss(logits_NL[rows_N] / t, labels_NL[rows_N] == 1), rows_N.any()
        )
        return Calibration(prompts=prompts.digest, temperature=temperature)
    known_NL = (labels_NL == 0) | (labels_NL == 1)
    signed = np.where(labels_NL == 1, logits_NL, -logits_NL)[known_NL]
    temperature = _temperature(lambda t: -float(log_expit(signed / t).mean()), known_NL.any())
    thresholds = {}
    operating: dict[str, dict[str, float]] = {str(percent): {} for percent in SPECIFICITIES}
    for column, name in enumerate(prompts.names):
        known_N = known_NL[:, column]
        label = labels_NL[known_N, column]
        if len(set(label)) == 2:
            probability = expit(logits_NL[known_N, column] / temperature)
            thresholds[name] = youden(label, probability)
            for percent in SPECIFICITIES:
                limit = at_specificity(label, probability, percent / 100)
                operating[str(percent)][name] = limit
    return Calibration(
        prompts=prompts.digest,
        temperature=temperature,
        thresholds=thresholds,
        operating=operating,
    )


def at_specificity(
    label_N: NDArray[np.float64], probability_N: NDArray[np.float64], specificity: float
) -> float:
    """The least threshold below which at least this share of the negatives lies.

    >>> at_specificity(np.array([0, 0, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.9]), 0.75) > 0.3
    True
    """
    negative = np.sort(probability_N[label_N == 0])
    # The allowance is for products such as 0.9 * 10 alone.
    below = int(np.ceil(specificity * len(negative) - 1e-9))
    return float(np.nextafter(negative[below - 1], np.inf))


def _ensemble(text_ME: Floats) -> Floats:
    mean_E: Floats = text_ME.astype(np.float32).mean(0)
    return mean_E / np.float32(max(float(np.linalg.norm(mean_E)), 1e-12))


def _softmax_loss(logits_NL: NDArray[np.float64], chosen_NL: NDArray[np.bool_]) -> float:
    return -float(log_softmax(logits_NL, axis=1)[chosen_NL].mean())


def _temperature(loss: Callable[[float], float], known: np.bool_) -> float:
    """The T between 1/20 and 20 that minimises `loss`; 1 where nothing is known."""
    # Fitting is rare and its libraries take seconds to import; scoring does without them.
    from scipy.optimize import minimize_scalar

    if not known:
        return 1.0
    bounds = (-np.log(20), np.log(20))
    found = minimize_scalar(lambda log_t: loss(float(np.exp(log_t))), bounds=bounds)
    return float(np.exp(found.x))


def youden(label_N: NDArray[np.float64], probability_N: NDArray[np.float64]) -> float:
    """The threshold of greatest sensitivity + specificity − 1 (Youden 1950); both classes occur."""
    from sklearn.metrics import roc_curve

    false_rate, true_rate, limits = roc_curve(label_N, probability_N)
    # The first point stands for "nothing is present", at an infinite threshold.
    best = 1 + int(np.argmax((true_rate - false_rate)[1:]))
    return float(limits[best])
