"""The procedural loss against literal tables and loops, and its published form."""

import dataclasses
import itertools
import math

import clips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from encoded import SIZES, gradients

from medvlp_video.losses.orders import wrong_orders
from medvlp_video.losses.procedural import (
    ProceduralConfig,
    Steps,
    cheaper,
    frame_embeddings,
    procedural,
)
from medvlp_video.soft_dtw import procedural_loss

PUBLISHED = ProceduralConfig(
    soft_min="probability", scale=0.01, negatives=("reverse",), contrast="hinge"
)
ABSENT = ((0, 2), (0, 3), (1, 1), (3, 1), (3, 2), (3, 3), (4, 3))
"""The first sample has one step, the second two of which the first is missing, the fourth none."""


def literal_dtw(cost, gamma, soft_min):
    """The table, cell by cell."""
    frames, steps = cost.shape
    table = {(-1, -1): cost.new_zeros(())}
    for t, k in itertools.product(range(frames), range(steps)):
        before = [table[p] for p in ((t - 1, k), (t - 1, k - 1), (t, k - 1)) if p in table]
        x = torch.stack(before)
        soft = -gamma * torch.logsumexp(-x / gamma, 0)
        if soft_min == "probability":
            soft = (torch.softmax(-x / gamma, 0) * x).sum()
        table[t, k] = cost[t, k] + soft
        table.pop((-1, -1), None)
    return table[frames - 1, steps - 1]


def literal(config, one, data):
    """Every video, every sort of negative, one after the other."""
    frames = F.normalize(one.patch_BPE.reshape(len(one.patch_BPE), clips.FRAMES, 2, -1).mean(2),
                         dim=2)  # fmt: skip
    steps = {
        i: [n for j, n in clips.owners(data, slice(1, None)) if j == i] for i in range(len(frames))
    }
    words = {t: tuple(data.text_BNT[t][data.text_mask_BNT[t]].tolist()) for t in clips.owners(data)}
    recording = data.recording_B.tolist()

    def told(i, places):
        return [words[i, n] for n in places]

    def value(i, j, places):
        cosine = frames[i] @ one.text_BNE[j, places].T
        cost = {
            "frames": lambda: -(cosine / config.temperature).log_softmax(0),
            "steps": lambda: -(cosine / config.temperature).log_softmax(1),
            "cosine": lambda: (1 - cosine) / config.temperature,
        }[config.cost]()
        scale = config.scale or 1 / (len(cosine) + len(places))
        return scale * literal_dtw(cost, config.gamma, config.soft_min)

    losses = []
    for i in (i for i in steps if steps[i]):
        own = steps[i]
        right = value(i, i, own)
        loss = config.alignment * right
        for kind in config.negatives:
            if kind == "cross-video":
                others = [(j, steps[j]) for j in steps if steps[j] and recording[j] != recording[i]]
            else:
                length, seed = torch.tensor([len(own)]), data.seed_B[i : i + 1]
                orders = wrong_orders(kind, length, seed, config.draws, len(own))[0].tolist()
                others = [(i, [own[k] for k in order]) for order in orders]
            wrong = [value(i, j, p) for j, p in others if told(j, p) != told(i, own)]
            more = [right - w + config.margin for w in wrong]
            if config.contrast == "hinge":
                term = sum(d.clamp(min=0) for d in more) / max(1, len(more))
            else:
                term = torch.log1p(sum((d.exp() for d in more), torch.zeros(())))
            loss = loss + config.order / len(config.negatives) * term
        losses.append(loss)
    return torch.stack(losses).mean()


CONFIGS = {
    "default": ProceduralConfig(),
    "published": PUBLISHED,
    "hinge": ProceduralConfig(contrast="hinge", margin=0.3, draws=3, order=2.0),
    "steps": ProceduralConfig(cost="steps", negatives=("swap", "cross-video"), alignment=0.3),
    "cosine": ProceduralConfig(cost="cosine", gamma=0.5, negatives=("shuffle",), draws=2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_that_of_a_loop(name):
    one, data = clips.encodings(6, 4), clips.batch(6, 4, absent=ABSENT)
    config = CONFIGS[name]
    objective = config.build(SIZES)
    found, expected = objective(one, data), literal(config, one, data)
    torch.testing.assert_close(found, expected)
    fields = ("patch_BPE", "text_BNE")
    assert set(fields) <= objective.reads
    torch.testing.assert_close(gradients(found, one, *fields), gradients(expected, one, *fields))


def test_the_published_form_is_that_of_the_kernels_room():
    one, data = clips.encodings(4, 4), clips.batch(4, 4, absent=((1, 3),))
    frames = frame_embeddings(one.patch_BPE, one.image.grid)
    cosine = frames @ one.text_BNE[:, 1:].transpose(1, 2)
    expected = procedural_loss(cosine, None, data.text_mask_BNT.any(2)[:, 1:].sum(1))
    torch.testing.assert_close(PUBLISHED.build(SIZES)(one, data), expected)


def test_random_embeddings_cost_what_the_published_loop_measured():
    # 2.6 for 64 frames and 8 steps of width 768: ../shared/specs/surgical.md, section 2.
    generator = torch.Generator().manual_seed(0)
    frames, steps = (
        F.normalize(torch.randn(1, n, 768, generator=generator), dim=2) for n in (64, 8)
    )
    told = Steps(
        step_BKE=steps,
        length_B=torch.tensor([8]),
        text_BK=torch.arange(8)[None],
        recording_B=torch.zeros(1, dtype=torch.long),
        seed_B=torch.zeros(1, dtype=torch.long),
    )
    assert procedural(PUBLISHED, frames, told).item() == pytest.approx(2.6, abs=0.1)


def test_steps_in_order_are_cheaper_than_in_any_wrong_one():
    # Four frames that show four steps, one each.
    eye = torch.eye(4, dtype=torch.float64)[None]
    for kind in ("reverse", "shuffle", "swap"):
        config = ProceduralConfig(negatives=(kind,), contrast="hinge", alignment=0.0, order=1.0)
        told = Steps(
            step_BKE=eye,
            length_B=torch.tensor([4]),
            text_BK=torch.arange(4)[None],
            recording_B=torch.zeros(1, dtype=torch.long),
            seed_B=torch.tensor([3]),
        )
        assert procedural(config, eye, told) == 0
        assert procedural(config, eye.flip(1), told) > (0 if kind == "swap" else 0.1) - 1e-9
        # Where all steps read alike, no order is wrong.
        alike = dataclasses.replace(told, text_BK=torch.zeros(1, 4, dtype=torch.long))
        assert procedural(config, eye.flip(1), alike) == 0


def test_wrong_orders_are_wrong_and_follow_from_each_seed():
    length, seed = torch.tensor([1, 2, 5, 4, 5]), torch.tensor([3, 1, 4, 1, 5])
    right = torch.arange(6)
    for kind, draws in (("reverse", 3), ("shuffle", 3), ("swap", 3)):
        orders = wrong_orders(kind, length, seed, draws, 6)
        assert orders.shape == (5, 1 if kind == "reverse" else 3, 6)
        assert torch.equal(orders.sort(2).values, right.expand_as(orders))
        assert (orders[0] == right).all()
        for b, n in enumerate(length.tolist()):
            assert torch.equal(orders[b, :, n:], right[n:].expand(orders.shape[1], -1))
            assert n == 1 or (orders[b] != right).any(1).all()
        again = wrong_orders(kind, length[2:3], seed[2:3], draws, 6)
        assert torch.equal(again, orders[2:3])
    assert wrong_orders("reverse", length, seed, 1, 6)[2, 0].tolist() == [4, 3, 2, 1, 0, 5]
    swaps = wrong_orders("swap", torch.tensor([5]), torch.tensor([0]), 40, 5)[0]
    moved = {tuple(np.flatnonzero(row != np.arange(5))) for row in swaps.numpy()}
    assert moved == {(0, 1), (1, 2), (2, 3), (3, 4)}
    shuffles = wrong_orders("shuffle", torch.tensor([3]), torch.tensor([0]), 60, 3)[0]
    assert len({tuple(row) for row in shuffles.tolist()}) == 5


def test_contrasts_by_hand():
    right, wrong = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([[0.5, 2.0], [0.0, 0.0], [9, 9]])
    counts = torch.tensor([[True, True], [True, False], [False, False]])
    hinge = dataclasses.replace(PUBLISHED, margin=0.25)
    assert cheaper(hinge, right, wrong, counts).tolist() == [0.375, 1.25, 0.0]
    smooth = cheaper(ProceduralConfig(), right, wrong, counts)
    expected = [math.log(1 + math.exp(0.5) + math.exp(-1)), math.log(1 + math.e), 0.0]
    assert smooth.tolist() == pytest.approx(expected)


def test_a_batch_without_steps_has_no_loss_and_a_gradient_of_zero():
    one = clips.encodings(2, 3)
    for data in (
        clips.batch(2, 3, absent=((0, 1), (0, 2), (1, 1), (1, 2))),
        dataclasses.replace(clips.batch(2, 1)),
    ):
        texts = data.text_BNT.shape[1]
        few = dataclasses.replace(one, text_BNE=one.text_BNE[:, :texts])
        loss = ProceduralConfig(cost="steps").build(SIZES)(few, data)
        assert loss == 0
        for grad in gradients(loss, one, "patch_BPE", "text_BNE").values():
            assert grad.abs().sum() == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="a sort is named twice"):
        ProceduralConfig(negatives=("swap", "swap"))
    with pytest.raises(ValueError, match="neither alignment nor order"):
        ProceduralConfig(alignment=0, negatives=())
    bare = dataclasses.replace(clips.batch(2, 3), seed_B=None)
    with pytest.raises(ValueError, match="no seed_B"):
        ProceduralConfig().build(SIZES)(clips.encodings(2, 3), bare)
