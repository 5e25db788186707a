"""Mean ranks by hand, and against a literal loop."""

import numpy as np

from medvlp.evaluate.suite.ranks import Column, mean_ranks, rank_draws


def column(name, *, low_is_better=False, domain="cxr"):
    return Column(protocol=name, domain=domain, metric="m", name="all", low_is_better=low_is_better)


def test_ties_share_a_rank_and_a_missing_value_has_none():
    value_MR = np.array([[0.9, 0.5], [0.9, np.nan], [0.1, 0.7]])
    np.testing.assert_array_equal(
        rank_draws(value_MR, low_is_better=False), [[1.5, 2], [1.5, np.nan], [3, 1]]
    )
    np.testing.assert_array_equal(rank_draws(value_MR, low_is_better=True)[:, 0], [2.5, 2.5, 1])


def test_mean_rank_equals_a_loop_over_draws():
    rng = np.random.default_rng(0)
    models = ["a", "b", "c"]
    columns = [
        (column("p"), {m: rng.random(41) for m in models}),
        (column("q", low_is_better=True), {m: rng.random(41) for m in models}),
    ]
    rows = {row["model"]: row for row in mean_ranks(columns, 0.9)}
    for model in models:
        ranks = [
            np.mean([
                1 + sum(
                    (other[r] < own[model][r]) if c.low_is_better else (other[r] > own[model][r])
                    for other in own.values()
                )
                for c, own in columns
            ])
            for r in range(41)
        ]  # fmt: skip
        assert rows[model]["rank"] == ranks[0]
        np.testing.assert_allclose(
            [rows[model]["low"], rows[model]["high"]], np.quantile(ranks[1:], [0.05, 0.95])
        )


def test_models_are_ranked_within_their_domain_over_the_columns_they_have():
    one = np.array([0.5])
    columns = [
        (column("p"), {"a": one, "b": one + 0.1}),
        (column("q"), {"b": one}),
        (column("r", domain="video"), {"v": one}),
    ]
    rows = [(r["domain"], r["model"], r["rank"], r["columns"], r["low"])
            for r in mean_ranks(columns, 0.95)]  # fmt: skip
    assert rows == [
        ("cxr", "b", 1.0, 2, None), ("cxr", "a", 2.0, 1, None), ("video", "v", 1.0, 1, None)
    ]  # fmt: skip


def test_a_column_without_any_value_takes_no_draws_from_the_others():
    rng = np.random.default_rng(1)
    known = (column("p"), {"a": rng.random(31), "b": rng.random(31)})
    empty = (column("q"), {"a": np.array([np.nan]), "b": np.array([np.nan])})
    assert mean_ranks([known, empty], 0.95) == mean_ranks([known], 0.95)
