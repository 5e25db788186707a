"""Zero-shot scores: hand cases, ensembles, calibration."""

import numpy as np
import pytest

from medvlp.data.prompts import Prompts, PromptSet
from medvlp.models.zero_shot import (
    Calibration,
    PromptEmbeddings,
    fit_calibration,
    margins,
    prompt_embeddings,
    score,
)

WORDS = {
    "yes": [1.0, 0.0, 0.0],
    "yes too": [0.0, 1.0, 0.0],
    "no": [0.0, 0.0, 1.0],
    "phase a": [1.0, 0.0, 0.0],
    "phase b": [0.0, 1.0, 0.0],
}
FINDINGS = PromptSet(
    mode="independent", labels={"edema": Prompts(positive=("yes", "yes too"), negative=("no",))}
)
PHASES = PromptSet(
    mode="exclusive",
    labels={"a": Prompts(positive=("phase a",)), "b": Prompts(positive=("phase b",))},
)


def embed_words(texts):
    return np.array([WORDS[text] for text in texts], np.float32)


def test_an_ensemble_is_the_renormalised_mean_of_its_prompts():
    embedded = prompt_embeddings(embed_words, FINDINGS)
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(embedded.positive_LE, [[half, half, 0]], atol=1e-6)
    np.testing.assert_allclose(embedded.negative_LE, [[0, 0, 1]])
    assert embedded.names == ("edema",)


def test_independent_scores_by_hand():
    embedded = prompt_embeddings(embed_words, FINDINGS)
    image = np.array([[1, 0, 0], [0, 0, 1], [0.6, 0, 0.8]], np.float32)
    result = score(image, embedded, scale=10.0)
    half = 1 / np.sqrt(2)
    expected = 10 * np.array([half, -1, 0.6 * half - 0.8])
    np.testing.assert_allclose(result.logits_NL[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(result.probability_NL[:, 0], 1 / (1 + np.exp(-expected)), rtol=1e-4)
    # The same as the softmax over both sides.
    sides = np.exp(10 * np.array([0.6 * half, 0.8]))
    assert result.probability_NL[2, 0] == pytest.approx(sides[0] / sides.sum(), rel=1e-5)
    assert result.thresholds_L is None


def test_exclusive_scores_sum_to_one():
    embedded = prompt_embeddings(embed_words, PHASES)
    assert embedded.negative_LE is None
    result = score(np.array([[0.6, 0.8, 0]], np.float32), embedded, scale=5.0)
    weights = np.exp([3.0, 4.0])
    np.testing.assert_allclose(result.probability_NL[0], weights / weights.sum(), rtol=1e-5)


def test_calibration_applies_to_its_own_prompt_set_only():
    embedded = prompt_embeddings(embed_words, FINDINGS)
    image = np.array([[1, 0, 0]], np.float32)
    calibration = Calibration(prompts=FINDINGS.digest, temperature=2.0, thresholds={"edema": 0.3})
    bare = score(image, embedded, 10.0)
    calibrated = score(image, embedded, 10.0, calibration)
    np.testing.assert_allclose(calibrated.logits_NL, bare.logits_NL / 2)
    np.testing.assert_allclose(calibrated.thresholds_L, [0.3])
    other = score(image, prompt_embeddings(embed_words, PHASES), 10.0, calibration)
    np.testing.assert_array_equal(
        other.logits_NL, score(image, prompt_embeddings(embed_words, PHASES), 10.0).logits_NL
    )


def embedded_as(mode, names):
    unit = np.eye(len(names), 3, dtype=np.float32)
    negative = None if mode == "exclusive" else -unit
    return PromptEmbeddings(
        mode=mode, names=names, digest="d", positive_LE=unit, negative_LE=negative
    )


def test_temperature_recovers_the_one_that_made_the_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 6, (20000, 2)).astype(np.float32)
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits / 3))).astype(np.float32)
    labels[:100] = np.nan
    labels[100:200] = -1
    found = fit_calibration(logits, labels, embedded_as("independent", ("a", "b")))
    assert found.temperature == pytest.approx(3, rel=0.05)
    # Where the logits are honest, the cut between the classes of most gain is the base rate.
    assert found.thresholds["a"] == pytest.approx(0.5, abs=0.1)


def test_exclusive_temperature_recovers_the_one_that_made_the_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (20000, 3)).astype(np.float32)
    weights = np.exp(logits / 2)
    chosen = (
        rng.random((len(logits), 1)) < np.cumsum(weights / weights.sum(1, keepdims=True), 1)
    ).argmax(1)
    labels = np.eye(3, dtype=np.float32)[chosen]
    labels[:50] = 0
    found = fit_calibration(logits, labels, embedded_as("exclusive", ("a", "b", "c")))
    assert found.temperature == pytest.approx(2, rel=0.05)
    assert found.thresholds == {}


def test_threshold_by_hand():
    logits = np.array([[-3], [-1], [1], [3]], np.float32)
    labels = np.array([[0], [0], [1], [1]], np.float32)
    found = fit_calibration(logits, labels, embedded_as("independent", ("a",)))
    probability = 1 / (1 + np.exp(-logits / found.temperature))
    np.testing.assert_array_equal(probability >= found.thresholds["a"], labels == 1)


def test_labels_of_one_class_get_no_threshold_and_nothing_known_leaves_all_as_it_is():
    logits = np.zeros((3, 1), np.float32)
    embedded = embedded_as("independent", ("a",))
    assert fit_calibration(logits, np.ones((3, 1), np.float32), embedded).thresholds == {}
    unknown = fit_calibration(logits, np.full((3, 1), np.nan, np.float32), embedded)
    assert unknown.temperature == 1
    assert margins(np.eye(3, dtype=np.float32), embedded, 2.0).shape == (3, 1)
