"""The best partition in order against all partitions, and what wrong orders count."""

import itertools

import numpy as np
import pytest

from medvlp_video.tasks.order import best_in_order


def literal_best(score_WK):
    """Over all ways to cut the windows into K runs."""
    windows, texts = score_WK.shape
    return max(
        np.mean([score_WK[w, sum(w >= cut for cut in cuts)] for w in range(windows)])
        for cuts in itertools.combinations(range(1, windows), texts - 1)
    )


@pytest.mark.parametrize(("windows", "texts"), [(1, 1), (3, 3), (7, 2), (8, 4), (6, 1)])
def test_the_best_partition_equals_the_best_of_all(windows, texts):
    rng = np.random.default_rng(windows)
    score_WOK = rng.normal(size=(windows, 5, texts))
    literal = [literal_best(score_WOK[:, o]) for o in range(5)]
    np.testing.assert_allclose(best_in_order(score_WOK), literal, atol=1e-12)


def test_the_order_of_what_is_seen_is_worth_most():
    score_WK = np.repeat(np.eye(4), 3, axis=0)
    orders = list(itertools.permutations(range(4)))
    worth = best_in_order(score_WK[:, orders])
    assert orders[int(worth.argmax())] == (0, 1, 2, 3)
    assert worth.max() == 1
    assert (worth == 1).sum() == 1
