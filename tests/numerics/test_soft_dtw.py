"""Soft-DTW against the recursion cell by cell and against every path one by one."""

import math

import pytest
import torch
from aligned import literal_batch, weighed

from medvlp_video.soft_dtw import (
    alignment_path,
    expected_alignment,
    soft_drop_dtw,
    soft_dtw,
    soft_dtw_divergence,
)

SOFT_MINS = ["logsumexp", "probability"]
SHAPES = [(3, 7, 5), (30, 6, 9), (1, 1, 1), (2, 1, 6), (2, 6, 1), (1, 3, 300)]
"""Side by side in several groups, single rows and columns, and steps in two strips."""


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lengths_of(batch, frames, steps):
    generator = torch.Generator().manual_seed(7)
    lengths = [torch.randint(1, n + 1, (batch,), generator=generator) for n in (frames, steps)]
    lengths[0][0], lengths[1][0] = frames, steps
    return lengths


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("soft_min", SOFT_MINS)
@pytest.mark.parametrize("drops", [False, True])
def test_values_and_gradients_equal_the_recursion_cell_by_cell(shape, soft_min, drops):
    leaves = [draw(*shape).requires_grad_()]
    lengths, weight_B = lengths_of(*shape), draw(shape[0], seed=1)
    if drops:
        leaves.append(draw(*shape[:2], seed=2).requires_grad_())
        found = soft_drop_dtw(*leaves, 0.3, *lengths, soft_min)
    else:
        found = soft_dtw(*leaves, 0.3, *lengths, soft_min)
    exact = literal_batch(leaves[0], 0.3, soft_min, lengths, *leaves[1:])
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)
    grads = [torch.autograd.grad((v * weight_B).sum(), leaves, allow_unused=True)
             for v in (found, exact)]  # fmt: skip
    for ours, theirs in zip(*grads, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 3), (3, 5), (1, 4)], ids=str)
@pytest.mark.parametrize("gamma", [0.05, 1.0, 20.0])
def test_value_and_expected_alignment_are_those_of_all_paths(shape, gamma):
    cost_TK = draw(*shape)
    value, expected, _ = weighed(cost_TK, gamma)
    assert abs(float(soft_dtw(cost_TK[None], gamma) - value)) < 1e-10
    ours = expected_alignment(cost_TK[None], gamma)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    assert not ours.requires_grad


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (4, 4), (2, 3)], ids=str)
@pytest.mark.parametrize("gamma", [0.05, 1.0])
def test_with_drops_they_are_those_of_all_paths_over_the_frames_kept(shape, gamma):
    cost_TK, drop_T = draw(*shape), draw(shape[0], seed=1)
    value, expected, _ = weighed(cost_TK, gamma, drop_T)
    assert abs(float(soft_drop_dtw(cost_TK[None], drop_T[None], gamma) - value)) < 1e-10
    ours = expected_alignment(cost_TK[None], gamma, drop_BT=drop_T[None])[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("soft_min", SOFT_MINS)
def test_gradients_pass_gradcheck(soft_min):
    cost, drop = draw(3, 5, 4).requires_grad_(), draw(3, 5, seed=1).requires_grad_()
    lengths = [5, 2, 4], torch.tensor([4, 3, 1])
    settings = {"eps": 1e-6, "atol": 1e-6, "rtol": 1e-6}
    assert torch.autograd.gradcheck(
        lambda cost: soft_dtw(cost, 0.7, *lengths, soft_min), (cost,), **settings
    )
    assert torch.autograd.gradcheck(
        lambda cost, drop: soft_drop_dtw(cost, drop, 0.7, *lengths, soft_min), (cost, drop),
        **settings,
    )  # fmt: skip
    squares = draw(3, 5, 5, seed=2).requires_grad_(), draw(3, 4, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *costs: soft_dtw_divergence(*costs, 0.7, *lengths, soft_min), (cost, *squares),
        **settings,
    )  # fmt: skip


@pytest.mark.parametrize("soft_min", SOFT_MINS)
def test_frames_and_steps_change_places_also_over_strips_of_many_steps(soft_min):
    cost_BTK = draw(2, 23, 517).requires_grad_()
    turned_BKT = cost_BTK.detach().mT.requires_grad_()
    assert not turned_BKT.is_contiguous()
    value_B = soft_dtw(cost_BTK, 0.1, [23, 11], [517, 300], soft_min)
    other_B = soft_dtw(turned_BKT, 0.1, [517, 300], [23, 11], soft_min)
    torch.testing.assert_close(value_B, other_B, rtol=1e-13, atol=1e-10)
    (grad,) = torch.autograd.grad(value_B.sum(), cost_BTK)
    (other,) = torch.autograd.grad(other_B.sum(), turned_BKT)
    torch.testing.assert_close(grad, other.mT, rtol=0, atol=1e-10)


@pytest.mark.parametrize("soft_min", SOFT_MINS)
def test_drops_over_strips_are_those_of_a_table_that_fits_one(soft_min):
    # Steps that cost nothing more in the last frame, where one path alone can take them.
    few_BTK, drop_BT = draw(1, 9, 4).abs(), draw(1, 9, seed=1).abs()
    more = few_BTK.new_full((1, 9, 516), torch.inf)
    more[:, -1] = 0.0
    many_BTK = torch.cat([few_BTK, more], 2).requires_grad_()
    few_BTK, drop_BT = few_BTK.requires_grad_(), drop_BT.requires_grad_()
    last_BT = torch.cat([drop_BT[:, :-1], drop_BT.new_full((1, 1), torch.inf)], 1)
    value_B = soft_drop_dtw(many_BTK, last_BT, 1e-4, soft_min=soft_min)
    # The frame that shows them shows the fourth step or comes right after it.
    shorter = soft_drop_dtw(few_BTK[:, :-1], drop_BT[:, :-1], 1e-4, soft_min=soft_min)
    whole = soft_drop_dtw(few_BTK, last_BT, 1e-4, soft_min=soft_min)
    exact_B = torch.minimum(shorter, whole)
    torch.testing.assert_close(value_B, exact_B, rtol=0, atol=1e-3)
    grads = torch.autograd.grad(value_B.sum(), [many_BTK, drop_BT])
    exact = torch.autograd.grad(exact_B.sum(), [few_BTK, drop_BT])
    torch.testing.assert_close(grads[0][..., :4], exact[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(grads[1], exact[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("filler", [math.nan, math.inf, -math.inf, -1e30])
@pytest.mark.parametrize("drops", [False, True])
def test_what_is_padded_counts_for_nothing(filler, drops):
    cost_BTK, drop_BT, lengths = draw(6, 9, 7), draw(6, 9, seed=1), lengths_of(6, 9, 7)
    for b, (t, k) in enumerate(zip(*lengths, strict=True)):
        cost_BTK[b, t:], cost_BTK[b, :, k:], drop_BT[b, t:] = filler, filler, filler
    leaves = [cost_BTK.requires_grad_(), *([drop_BT.requires_grad_()] if drops else [])]
    form = soft_drop_dtw if drops else soft_dtw
    value_B = form(*leaves, 0.2, *lengths)
    grads = torch.autograd.grad(value_B.sum(), leaves)
    for b, (t, k) in enumerate(zip(*lengths, strict=True)):
        alone = [leaf[b : b + 1, :t].detach() for leaf in leaves]
        alone[0] = alone[0][:, :, :k]
        alone = [part.requires_grad_() for part in alone]
        value = form(*alone, 0.2)
        assert torch.equal(value[0], value_B[b])
        own = torch.autograd.grad(value.sum(), alone)
        assert torch.equal(grads[0][b, :t, :k], own[0][0])
        assert not grads[0][b, t:].any()
        assert not grads[0][b, :, k:].any()
        if drops:
            assert torch.equal(grads[1][b, :t], own[1][0])
            assert not grads[1][b, t:].any()


def test_every_frame_and_step_is_expected_at_least_once():
    cost_BTK, lengths = draw(5, 12, 6), lengths_of(5, 12, 6)
    expected = expected_alignment(cost_BTK, 0.5, *lengths)
    assert (expected >= 0).all()
    for sample, t, k in zip(expected, *lengths, strict=True):
        assert (sample[:t, :k].sum(1) >= 1 - 1e-12).all()
        assert (sample[:t, :k].sum(0) >= 1 - 1e-12).all()
        # Both ends of every path.
        assert sample[0, 0] == pytest.approx(1.0)
        assert sample[t - 1, k - 1] == pytest.approx(1.0)


def test_a_low_temperature_gives_the_cheapest_path():
    cost_TK, drop_T = draw(5, 4), draw(5, seed=3)
    for drop in (None, drop_T):
        cheapest = weighed(cost_TK, 1.0, drop)[2]
        path = alignment_path(cost_TK, drop)
        assert path.dtype == torch.int64
        cells = set(map(tuple, path.tolist()))
        kept = {t for t, _ in cells}
        total = sum(cost_TK[cell] for cell in cells)
        if drop is None:
            assert kept == set(range(5))
        else:
            total = total + sum(drop[t] for t in range(5) if t not in kept)
        assert float(total) == pytest.approx(float(cheapest), abs=1e-12)
        for gamma in (1e-300, 1e-12):
            drops = [] if drop is None else [drop[None]]
            form = soft_dtw if drop is None else soft_drop_dtw
            value = form(cost_TK[None], *drops, gamma)
            assert float(value) == pytest.approx(float(cheapest), abs=1e-10)
            expected = expected_alignment(cost_TK[None], gamma, drop_BT=drops[0] if drops else None)
            assert set(map(tuple, expected[0].round().nonzero().tolist())) == cells


def test_the_path_of_a_known_case():
    cost_TK = torch.tensor([[0.0, 5], [0, 5], [5, 0], [9, 9]])
    assert alignment_path(cost_TK).tolist() == [[0, 0], [1, 0], [2, 1], [3, 1]]
    drop_T = torch.full((4,), 1.0)
    assert alignment_path(cost_TK, drop_T).tolist() == [[0, 0], [1, 0], [2, 1]]
    # All alike: both sequences move on together as long as they can.
    assert alignment_path(torch.zeros(4, 2)).tolist() == [[0, 0], [1, 0], [2, 0], [3, 1]]
    assert alignment_path(torch.ones(1, 3)).tolist() == [[0, 0], [0, 1], [0, 2]]


@pytest.mark.parametrize("soft_min", SOFT_MINS)
def test_infinite_costs_forbid_cells(soft_min):
    cost_BTK = draw(2, 4, 3).abs()
    cost_BTK[0, 2, :2] = torch.inf
    cost_BTK[1, 2] = torch.inf
    cost_BTK.requires_grad_()
    value_B = soft_dtw(cost_BTK, 0.5, soft_min=soft_min)
    assert torch.equal(value_B.isinf(), torch.tensor([False, True]))
    (grad,) = torch.autograd.grad(value_B.sum(), cost_BTK)
    assert not grad[1].any()
    assert not grad[0, 2, :2].any()
    exact = literal_batch(cost_BTK[:1], 0.5, soft_min, ([4], [3]))
    torch.testing.assert_close(value_B[:1], exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        grad[0], torch.autograd.grad(exact.sum(), cost_BTK)[0][0], rtol=0, atol=1e-10
    )
    with pytest.raises(ValueError, match="forbid every path"):
        alignment_path(cost_BTK[1])


def test_drops_that_cost_infinity_change_nothing():
    cost_BTK = draw(3, 6, 4)
    for soft_min in SOFT_MINS:
        drops = soft_drop_dtw(cost_BTK, torch.full((3, 6), torch.inf), 0.4, soft_min=soft_min)
        plain = soft_dtw(cost_BTK, 0.4, soft_min=soft_min)
        torch.testing.assert_close(drops, plain, rtol=0, atol=1e-12)


def test_the_divergence_of_a_sequence_from_itself_is_zero_and_else_positive():
    x, y = draw(2, 6, 8), draw(2, 5, 8, seed=1)
    costs = [torch.cdist(a, b).square() for a, b in ((x, y), (x, x), (y, y))]
    assert (soft_dtw_divergence(*costs, 1.0) > 0.1).all()
    itself = soft_dtw_divergence(costs[1], costs[1], costs[1], 1.0, [6, 4], [6, 4])
    torch.testing.assert_close(itself, torch.zeros_like(itself), rtol=0, atol=1e-12)


@pytest.mark.parametrize("soft_min", SOFT_MINS)
def test_single_precision_and_narrower_types(soft_min):
    cost_BTK = draw(3, 64, 16).abs()
    exact_B = soft_dtw(cost_BTK.requires_grad_(), 0.1, soft_min=soft_min)
    (exact,) = torch.autograd.grad(exact_B.sum(), cost_BTK)
    for dtype in (torch.float32, torch.bfloat16):
        cost = cost_BTK.detach().to(dtype).requires_grad_()
        value_B = soft_dtw(cost, 0.1, soft_min=soft_min)
        assert value_B.dtype == torch.float32
        (grad,) = torch.autograd.grad(value_B.sum(), cost)
        assert grad.dtype == dtype
        if dtype == torch.float32:
            torch.testing.assert_close(value_B.double(), exact_B, rtol=1e-6, atol=0)
            torch.testing.assert_close(grad.double(), exact, rtol=0, atol=1e-4)


def test_threads_and_company_change_no_bit():
    cost_BTK = draw(40, 120, 100, dtype=torch.float32).requires_grad_()
    lengths = lengths_of(40, 120, 100)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            value_B = soft_dtw(cost_BTK, 0.1, *lengths)
            results.append((value_B, *torch.autograd.grad(value_B.sum(), cost_BTK)))
    finally:
        torch.set_num_threads(before)
    for one, several in zip(*results, strict=True):
        assert torch.equal(one, several)
    last = soft_dtw(cost_BTK[-1:], 0.1, lengths[0][-1:], lengths[1][-1:])
    assert torch.equal(results[0][0][-1:], last)


def test_a_second_derivative_is_refused():
    cost_BTK = draw(1, 3, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(soft_dtw(cost_BTK, 1.0).sum(), cost_BTK, create_graph=True)


def test_an_empty_batch_has_no_values():
    cost_BTK = torch.empty(0, 3, 2, requires_grad=True)
    value_B = soft_dtw(cost_BTK, 1.0)
    assert value_B.shape == (0,)
    assert torch.autograd.grad(value_B.sum(), cost_BTK)[0].shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost_BTK": torch.ones(3, 2)}, r"expected floating-point costs \(B,T,K\)"),
        ({"cost_BTK": torch.ones(2, 0, 2)}, "T > 0 and K > 0"),
        ({"cost_BTK": torch.ones(2, 3, 2, dtype=torch.int64)}, "torch.int64"),
        ({"gamma": 0.0}, "above 0, got 0.0"),
        ({"gamma": -1.0}, "above 0"),
        ({"gamma": math.nan}, "above 0"),
        ({"gamma": math.inf}, "above 0"),
        ({"soft_min": "hard"}, "one of logsumexp, probability, got hard"),
        ({"lengths_T": [3, 0]}, "lengths_T are 1 to 3, .*sample 1 has 0"),
        ({"lengths_K": [3, 1]}, "lengths_K are 1 to 2, .*sample 0 has 3"),
        ({"lengths_T": [3]}, r"one whole number a sample, \(2,\)"),
        ({"lengths_K": torch.tensor([1.0, 2.0])}, "torch.float32"),
    ],
)
def test_wrong_input_is_refused_in_one_line(change, message):
    given = {"cost_BTK": torch.ones(2, 3, 2), "gamma": 1.0} | change
    with pytest.raises(ValueError, match=message) as caught:
        soft_dtw(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_costs_that_are_none_are_refused_by_the_sample(wrong):
    for place in ((1, 2, 0), (1, 0, 299)):
        cost_BTK = torch.ones(2, 3, 300, dtype=torch.float64)
        cost_BTK[place] = wrong
        with pytest.raises(ValueError, match="some of sample 1 are NaN or -inf"):
            soft_dtw(cost_BTK, 1.0)
    drop_BT = torch.ones(2, 3)
    drop_BT[0, 1] = wrong
    with pytest.raises(ValueError, match="some of sample 0 are NaN or -inf"):
        soft_drop_dtw(torch.ones(2, 3, 2), drop_BT, 1.0)
    with pytest.raises(ValueError, match=r"expected drop costs of \(2, 3\)"):
        soft_drop_dtw(torch.ones(2, 3, 2), torch.ones(2, 2), 1.0)
    with pytest.raises(ValueError, match=r"go with \(2, 3, 3\) and \(2, 2, 2\)"):
        soft_dtw_divergence(torch.ones(2, 3, 2), torch.ones(2, 3, 2), torch.ones(2, 2, 2), 1.0)
