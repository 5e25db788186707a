"""The multinomial head: what it must choose, and labels that nobody has taught."""

import numpy as np

from medvlp.evaluate.heads.frozen import choice_logits


def clusters(rng, labels):
    centre = 6 * np.eye(4, dtype=np.float32)
    feature = centre[labels] + rng.normal(size=(len(labels), 4)).astype(np.float32)
    return feature.astype(np.float32), np.eye(4, dtype=np.float32)[labels]


def test_separate_groups_are_told_apart_and_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    train, label = clusters(rng, rng.integers(0, 4, 80))
    other, truth = clusters(rng, rng.integers(0, 4, 40))
    (logit,) = choice_logits(train, label, [other], 1.0)
    assert (logit.argmax(1) == truth.argmax(1)).mean() > 0.95
    np.testing.assert_allclose(np.exp(logit).sum(1), 1, atol=1e-6)


def test_a_label_that_was_not_taught_is_never_chosen():
    rng = np.random.default_rng(1)
    taught = np.array([0, 2] * 20)
    train, label = clusters(rng, taught)
    other, _ = clusters(rng, rng.integers(0, 4, 40))
    (logit,) = choice_logits(train, label, [other], 1.0)
    assert set(logit.argmax(1).tolist()) <= {0, 2}
    assert np.exp(logit[:, [1, 3]]).max() == 0
    (one,) = choice_logits(train[taught == 2], label[taught == 2], [other], 1.0)
    assert set(one.argmax(1).tolist()) == {2}


def test_a_label_that_nobody_looked_for_is_not_the_choice():
    rng = np.random.default_rng(2)
    train, label = clusters(rng, rng.integers(1, 4, 80))
    unknown = label.copy()
    unknown[:, 0] = np.nan
    (known,), (found,) = (choice_logits(train, y, [train], 1.0) for y in (label, unknown))
    np.testing.assert_array_equal(found, known)
