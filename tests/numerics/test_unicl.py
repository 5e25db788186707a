"""Contrast with label-overlap targets (UniCL) against literal loops."""

import math

import pytest
import torch
from encoded import SIZES, batch, encodings, gradients, permuted

from medvlp.encoding import Sizes
from medvlp.errors import ConfigError
from medvlp.losses.objectives import ClipConfig
from medvlp.losses.unicl import UniclConfig

NAN = math.nan
READ = ("image_BE", "text_BNE", "scale")
LABELS = [[1.0, 0.0, NAN], [1.0, 1.0, NAN], [0.0, 0.0, 0.0], [NAN, -1.0, 0.0], [0.0, 0.0, 0.0]]
ABSENT = ((0, 1), (1, 0), (1, 1))


def literal_set(row):
    """The findings that are present, or `none` where all are known to be absent."""
    found = {k for k, value in enumerate(row) if value == 1}
    return found or ({"none"} if all(value == 0 for value in row) else set())


def literal_overlap(one, other, *, same):
    if not one or not other:
        return 1.0 if same else 0.0
    return len(one & other) / math.sqrt(len(one) * len(other))


def literal_loss(one, data, labels):
    mask = data.text_mask_BNT.any(2).tolist()
    texts = [(i, n) for i, row in enumerate(mask) for n, here in enumerate(row) if here]
    sets = [literal_set(row) for row in labels]
    logit = [
        [one.scale * (image * one.text_BNE[text]).sum() for text in texts] for image in one.image_BE
    ]
    target = [
        [literal_overlap(sets[i], sets[j], same=i == j) for j, _ in texts] for i in range(len(sets))
    ]
    images, per_text = [], []
    for row, wanted in zip(logit, target, strict=True):
        if sum(wanted):
            whole = torch.stack(row).logsumexp(0)
            images.append(
                sum(w * (whole - x) for w, x in zip(wanted, row, strict=True)) / sum(wanted)
            )
    for m in range(len(texts)):
        column = [row[m] for row in logit]
        wanted = [row[m] for row in target]
        whole = torch.stack(column).logsumexp(0)
        per_text.append(
            sum(w * (whole - x) for w, x in zip(wanted, column, strict=True)) / sum(wanted)
        )
    return (sum(images) / len(images) + sum(per_text) / len(per_text)) / 2


@pytest.mark.parametrize("absent", [(), ABSENT])
@pytest.mark.parametrize("texts", [1, 2])
def test_equals_literal_loops(texts, absent):
    absent = tuple(pair for pair in absent if pair[1] < texts)
    one, data = encodings(5, texts), batch(5, texts, absent=absent, labels=LABELS)
    found, expected = UniclConfig().build(SIZES)(one, data), literal_loss(one, data, LABELS)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, one, *READ), gradients(expected, one, *READ))


def test_without_labels_it_is_the_plain_contrast():
    one, data = encodings(5, 1), batch(5, 1, labels=[[NAN] * 3] * 5)
    torch.testing.assert_close(
        UniclConfig().build(SIZES)(one, data), ClipConfig().build(SIZES)(one, data)
    )


def test_classes_that_nobody_labels_change_nothing():
    """A third class that is unknown for everybody plays no part, nor does an absent one."""
    one = encodings(3, 1)
    values = [
        UniclConfig().build(SIZES)(
            one, batch(3, 1, labels=[[1.0, 0.0, x], [1.0, 1.0, x], [0.0, 1.0, x]])
        )
        for x in (NAN, 0.0)
    ]
    torch.testing.assert_close(*values)


def test_one_class_for_all_spreads_the_targets_evenly():
    """All samples of one class: every text is as good as any other."""
    one, data = encodings(4, 1), batch(4, 1, labels=[[1.0, 0.0, 0.0]] * 4)
    logits = one.scale * one.image_BE @ one.text_BNE[:, 0].T
    expected = (logits.logsumexp(1) + logits.logsumexp(0)).mean() / 2 - logits.mean()
    torch.testing.assert_close(UniclConfig().build(SIZES)(one, data), expected)


def test_the_order_of_samples_and_texts_does_not_matter():
    objective = UniclConfig().build(SIZES)
    one, data = encodings(5, 2), batch(5, 2, absent=ABSENT, labels=LABELS)
    loss = objective(one, data)
    for samples, texts in (([4, 2, 0, 1, 3], [0, 1]), ([0, 1, 2, 3, 4], [1, 0])):
        torch.testing.assert_close(objective(*permuted(one, data, samples, texts)), loss)


def test_nothing_to_read_is_zero_and_labels_are_needed():
    one, data = encodings(2, 1), batch(2, 1, absent=((0, 0), (1, 0)))
    loss = UniclConfig().build(SIZES)(one, data)
    assert loss.item() == 0
    assert all((grad == 0).all() for grad in gradients(loss, one, *READ).values())
    with pytest.raises(ConfigError, match="no labels"):
        UniclConfig().build(Sizes(image=3, text=4, embed=4))
