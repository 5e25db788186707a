"""Multi-positive contrast and sub-text alignment (MAKE) against literal loops."""

import dataclasses
import math

import pytest
import torch
from encoded import SIZES, altered, batch, encodings, gradients, permuted

from medvlp.config import validate
from medvlp.errors import ConfigError
from medvlp.losses.multi_text import MultiTextConfig, diagnosis_weights, seen
from medvlp.losses.objectives import ClipConfig

READ = ("image_BE", "patch_BPE", "text_BNE", "scale")
LEVELS = ("section", "sentence", "sentence")
ABSENT = ((0, 2), (1, 0), (3, 0), (3, 1), (3, 2))
PUBLISHED = MultiTextConfig(anchor="section")
OURS = MultiTextConfig(anchor="section", own="leave-out", local_weight=0.4, global_weight=1.5)


def literal_weight(i, n, present, one):
    """exp(cos - max) over the sentences of a sample with a section, else 1."""
    if (i, 0) not in present or LEVELS[n] == "section":
        return 1.0
    cosine = {
        k: (one.text_BNE[i, 0] * one.text_BNE[i, k]).sum().item()
        for k in (1, 2)
        if (i, k) in present
    }
    share = {k: math.exp(c) / sum(map(math.exp, cosine.values())) for k, c in cosine.items()}
    return share[n] / max(share.values())


def literal_seen(text, patches, threshold):
    cosines = [(text * p).sum() / p.norm() for p in patches]
    norm = torch.stack(cosines).norm()
    total = sum(
        (c / norm) * p for c, p in zip(cosines, patches, strict=True) if c / norm > threshold
    )
    return total / total.norm() if torch.is_tensor(total) else None


def literal_terms(rows, pairs, texts, one, config):
    """Cross-entropies of positive pairs: rows are (sample, vector), pairs (row, text)."""
    to_text, to_row = [], []

    def logit(r, m):
        return one.scale * (rows[r][1] * one.text_BNE[texts[m]]).sum()

    for r, m in pairs:
        sample = rows[r][0]
        left_out = config.own == "leave-out"
        row = [
            logit(r, k)
            for k in range(len(texts))
            if k == m or not left_out or texts[k][0] != sample
        ]
        column = [
            logit(q, m) for q in range(len(rows)) if q == r or not left_out or rows[q][0] != sample
        ]
        to_text.append(torch.stack(row).logsumexp(0) - logit(r, m))
        to_row.append(torch.stack(column).logsumexp(0) - logit(r, m))
    return to_text, to_row


def literal_loss(one, data, config):
    mask = data.text_mask_BNT.any(2).tolist()
    texts = [(i, n) for i, row in enumerate(mask) for n, here in enumerate(row) if here]
    weights = [literal_weight(i, n, texts, one) if config.anchor else 1.0 for i, n in texts]
    images = [(i, vector) for i, vector in enumerate(one.image_BE)]
    pairs = [(i, m) for m, (i, _) in enumerate(texts)]
    to_text, to_image = literal_terms(images, pairs, texts, one, config)
    mkcl = sum(w * t for w, t in zip(weights, to_text, strict=True)) / sum(weights)
    mkcl = (mkcl + sum(to_image) / len(to_image)) / 2
    rows, pairs = [], []
    for m, (i, n) in enumerate(texts):
        if LEVELS[n] != "sentence":
            continue
        vector = literal_seen(one.text_BNE[i, n], list(one.patch_BPE[i]), config.threshold)
        if vector is not None:
            pairs.append((len(rows), m))
            rows.append((i, vector))
    to_text, _ = literal_terms(rows, pairs, texts, one, config)
    local = [weights[m] for _, m in pairs]
    slra = sum(w * t for w, t in zip(local, to_text, strict=True)) / sum(local)
    return config.global_weight * mkcl + config.local_weight * slra


@pytest.mark.parametrize("absent", [(), ABSENT])
@pytest.mark.parametrize(
    "config", [PUBLISHED, OURS, MultiTextConfig(threshold=0.6), MultiTextConfig(own="leave-out")]
)
def test_equals_literal_loops(config, absent):
    one, data = encodings(4, 3), batch(4, 3, absent=absent, levels=LEVELS)
    found, expected = config.build(SIZES)(one, data), literal_loss(one, data, config)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, one, *READ), gradients(expected, one, *READ))


@pytest.mark.parametrize("config", [PUBLISHED, OURS])
def test_the_order_of_samples_and_texts_does_not_matter(config):
    """The released code fails both: it flattens by sample and splits by caption."""
    one, data = encodings(5, 3), batch(5, 3, absent=((1, 0), (4, 2)), levels=LEVELS)
    objective = config.build(SIZES)
    loss = objective(one, data)
    for samples, texts in (([4, 2, 0, 1, 3], [0, 1, 2]), ([0, 1, 2, 3, 4], [2, 0, 1])):
        torch.testing.assert_close(objective(*permuted(one, data, samples, texts)), loss)


@pytest.mark.parametrize("config", [PUBLISHED, OURS])
def test_every_text_that_is_there_gets_gradient_and_no_other(config):
    one, data = encodings(4, 3), batch(4, 3, absent=ABSENT, levels=LEVELS)
    loss = config.build(SIZES)(one, data)
    size = gradients(loss, one, "text_BNE")["text_BNE"].norm(dim=2)
    present = data.text_mask_BNT.any(2)
    assert (size[present] > 1e-4).all()
    assert (size[~present] == 0).all()
    changed = altered(one, ABSENT)
    torch.testing.assert_close(config.build(SIZES)(changed, data), loss)


def test_one_text_a_sample_is_the_plain_contrast():
    one, data = encodings(5, 1), batch(5, 1)
    config = MultiTextConfig(local_weight=0.0)
    torch.testing.assert_close(config.build(SIZES)(one, data), ClipConfig().build(SIZES)(one, data))


def test_own_texts_left_out_are_no_negatives():
    """Two texts in the same words: as published they push each other away, left out they do not."""
    one, data = encodings(3, 2), batch(3, 2)
    same = one.text_BNE.detach().clone()
    same[:, 1] = same[:, 0]
    one = dataclasses.replace(one, text_BNE=same)
    values = [
        MultiTextConfig(local_weight=0.0, own=own).build(SIZES)(one, data).item()
        for own in ("leave-out", "negative")
    ]
    single = (
        ClipConfig()
        .build(SIZES)(dataclasses.replace(one, text_BNE=same[:, :1]), batch(3, 1))
        .item()
    )
    assert values[0] < values[1]
    # Every negative text occurs twice, every positive once.
    logits = one.scale * one.image_BE @ same[:, 0].T
    twice = logits + math.log(2) * (1 - torch.eye(3))
    rows = twice.logsumexp(1) - logits.diag()
    columns = logits.logsumexp(0) - logits.diag()
    assert values[0] == pytest.approx(((rows.mean() + columns.mean()) / 2).item())
    assert single < values[0]


def test_diagnosis_weights_by_hand():
    texts = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8], [0, 1]]])
    anchor = torch.tensor([[True, False, False], [False, False, False]])
    sub = torch.tensor([[False, True, True], [False, True, True]])
    weights = diagnosis_weights(texts.requires_grad_(), anchor, sub)
    torch.testing.assert_close(weights, torch.tensor([[1, 1, math.exp(-1)], [1, 1, 1]]))
    assert not weights.requires_grad


def test_a_text_sees_the_places_that_agree_with_it():
    patch = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])
    text = torch.tensor([[[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]])
    expected = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(seen(patch, text, 0.0), expected)
    assert (seen(patch, text, 0.8) == 0).all()


def test_nothing_to_read_is_zero_with_a_gradient():
    one, data = encodings(2, 1), batch(2, 1, absent=((0, 0), (1, 0)))
    loss = PUBLISHED.build(SIZES)(one, data)
    assert loss.item() == 0
    for grad in gradients(loss, one, *READ).values():
        assert grad.abs().sum() == 0


def test_an_anchor_is_no_sub_text():
    with pytest.raises(ConfigError, match="anchor sentence is a level of sub-texts"):
        validate(MultiTextConfig, {"anchor": "sentence"}, "test")
