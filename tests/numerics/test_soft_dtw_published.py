"""PeskaVLP's published loss of frames and steps, written out sample by sample and cell by cell."""

import math

import pytest
import torch
import torch.nn.functional as F

from medvlp_video.soft_dtw import (
    frame_cost,
    order_loss,
    procedural_loss,
    reversed_steps,
    soft_dtw,
)

FRAMES, STEPS, WIDTH = 9, 5, 8
STEPS_B = [5, 3, 1]


def embedded(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64), dim=-1)


def published_value(cost_TK, gamma):
    """R with Python's numbers; infinite neighbours have no part in the mean."""
    frames, steps = cost_TK.shape
    table = {(t, -1): math.inf for t in range(frames)} | {(-1, k): math.inf for k in range(steps)}
    table[-1, -1] = 0.0
    for t in range(frames):
        for k in range(steps):
            near = [table[t, k - 1], table[t - 1, k - 1], table[t - 1, k]]
            near = [value for value in near if value < math.inf]
            weights = [math.exp(-(value - min(near)) / gamma) for value in near]
            mean = sum(w * value for w, value in zip(weights, near, strict=True)) / sum(weights)
            table[t, k] = float(cost_TK[t, k]) + mean
    return table[frames - 1, steps - 1]


def published_loss(frames_BTE, steps_BKE, steps_B, margin):
    right, wrong = [], []
    for video, texts, count in zip(frames_BTE, steps_BKE, steps_B, strict=True):
        for order, values in ((texts[:count], right), (texts[:count].flip(0), wrong)):
            similarity = F.normalize(video, dim=-1) @ F.normalize(order, dim=-1).T
            cost = -torch.log_softmax(similarity / 0.1, dim=0)
            values.append(0.01 * published_value(cost, 0.1))
    hinge = [max(a - b + margin, 0.0) for a, b in zip(right, wrong, strict=True)]
    return sum(right) / len(right) + 0.5 * sum(hinge) / len(hinge)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_the_loss_is_the_published_one(margin):
    video, texts = embedded(0, 3, FRAMES), embedded(1, 3, STEPS)
    similarity_BTK = video @ texts.mT
    # What stands at padded steps makes no difference.
    similarity_BTK[1, :, 3:] = torch.nan
    ours = procedural_loss(similarity_BTK, None, STEPS_B, margin=margin)
    exact = published_loss(video, texts, STEPS_B, margin)
    assert float(ours) == pytest.approx(exact, abs=1e-12)


def test_its_gradient_reaches_frames_and_texts():
    video, texts = embedded(0, 2, 6).requires_grad_(), embedded(1, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda video, texts: procedural_loss(video @ texts.mT, [6, 5], [4, 2], margin=0.05),
        (video, texts), eps=1e-6, atol=1e-6, rtol=1e-6,
    )  # fmt: skip


def test_random_embeddings_cost_what_the_published_code_reports():
    # 64 frames and 8 steps of random embeddings: 2.6, measured on that code.
    generator = torch.Generator().manual_seed(0)
    video, texts = (F.normalize(torch.randn(16, n, 768, generator=generator), dim=2)
                    for n in (64, 8))  # fmt: skip
    assert float(procedural_loss(video @ texts.mT)) == pytest.approx(2.6, abs=0.1)


def test_padded_frames_are_no_part_of_the_softmax():
    similarity_BTK = embedded(0, 2, FRAMES) @ embedded(1, 2, STEPS).mT
    cost_BTK = frame_cost(similarity_BTK, 0.1, [FRAMES, 4])
    torch.testing.assert_close((-cost_BTK).exp().sum(1), torch.ones(2, STEPS, dtype=torch.float64))
    torch.testing.assert_close(cost_BTK[1, :4], frame_cost(similarity_BTK[1:, :4], 0.1)[0])
    assert cost_BTK[1, 4:].isinf().all()


def test_steps_are_reversed_and_padding_stays():
    cost_BTK = torch.arange(2.0 * 3 * 4).reshape(2, 3, 4)
    turned = reversed_steps(cost_BTK, [4, 2])
    assert torch.equal(turned[0], cost_BTK[0].flip(1))
    assert torch.equal(turned[1], cost_BTK[1][:, [1, 0, 2, 3]])
    assert torch.equal(reversed_steps(cost_BTK), cost_BTK.flip(2))


def test_the_right_order_of_clear_steps_costs_less_than_the_wrong_one():
    places = torch.arange(12) // 3
    similarity_BTK = F.one_hot(places, 4).float()[None]
    right = soft_dtw(frame_cost(similarity_BTK, 0.1), 0.1, soft_min="probability")
    wrong = soft_dtw(reversed_steps(frame_cost(similarity_BTK, 0.1)), 0.1, soft_min="probability")
    assert float(right) < float(wrong) - 1
    assert float(order_loss(right, wrong)) == pytest.approx(float(right))
    assert float(order_loss(wrong, right)) == pytest.approx(float(wrong + 0.5 * (wrong - right)))
