"""Contrastive losses: hand cases, literal references in float64, invariances."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import medvlp
from medvlp.losses.gather import contrast_clip, contrast_siglip
from medvlp.losses.ties import Ties


def unit(rows, width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=dtype), dim=1)


def literal_clip(image, text, scale):
    total = 0.0
    for i in range(len(image)):
        for a, b in ((image, text), (text, image)):
            weights = [torch.exp(scale * (a[i] @ b[j])) for j in range(len(image))]
            total = total - torch.log(weights[i] / sum(weights))
    return total / (2 * len(image))


def literal_siglip(image, text, scale, bias):
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            z = 1 if i == j else -1
            total = total + torch.log1p(torch.exp(-z * (scale * (image[i] @ text[j]) + bias)))
    return total / len(image)


def literal_multi(image, text, owner, scale):
    """Every image and text with all its positives, one logarithm at a time."""
    images = texts = 0.0
    having = sorted(set(owner))
    for i in having:
        mine = [m for m, o in enumerate(owner) if o == i]
        normaliser = torch.logsumexp(scale * text @ image[i], 0)
        images = images - sum(scale * (text[m] @ image[i]) - normaliser for m in mine) / len(mine)
    for m, o in enumerate(owner):
        texts = texts + torch.logsumexp(scale * image @ text[m], 0) - scale * (text[m] @ image[o])
    return (images / len(having) + texts / len(owner)) / 2


def test_clip_by_hand():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Matched pairs at 1, others at 0, scale log 3: each softmax is 3/(3+1).
    assert medvlp.losses.clip_loss(image, image, math.log(3)).item() == pytest.approx(
        math.log(4 / 3)
    )
    # Swapped pairs: 1/(3+1).
    assert medvlp.losses.clip_loss(image, image.flip(0), math.log(3)).item() == pytest.approx(
        math.log(4)
    )


def test_siglip_by_hand():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Two pairs at logit 2·1-1 = 1 and sign +, two at 2·0-1 = -1 and sign -: all log(1+e^-1).
    loss = medvlp.losses.siglip_loss(image, image, 2.0, -1.0)
    assert loss.item() == pytest.approx(4 * math.log1p(math.exp(-1)) / 2)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_loss_and_gradient_equal_the_literal_formula(name):
    image, text = unit(5, 4, 0).requires_grad_(), unit(5, 4, 1).requires_grad_()
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    inputs = [image, text, scale] if name == "clip" else [image, text, scale, bias]
    mine = getattr(medvlp.losses, f"{name}_loss")(*inputs)
    reference = (literal_clip if name == "clip" else literal_siglip)(*inputs)
    torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(mine, inputs), torch.autograd.grad(reference, inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_clip_equals_cross_entropy():
    image, text = unit(6, 8, 2, torch.float32), unit(6, 8, 3, torch.float32)
    logits = 14.3 * image @ text.T
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(medvlp.losses.clip_loss(image, text, 14.3), expected)


def test_pair_order_does_not_matter_and_pairing_does():
    image, text = unit(6, 8, 4), unit(6, 8, 5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for loss in (
        lambda a, b: medvlp.losses.clip_loss(a, b, 10.0),
        lambda a, b: medvlp.losses.siglip_loss(a, b, 10.0, -2.0),
    ):
        torch.testing.assert_close(loss(image[order], text[order]), loss(image, text))
        assert not torch.isclose(loss(image[order], text), loss(image, text))


def test_losses_are_computed_in_float32():
    image, text = unit(4, 8, 6, torch.bfloat16), unit(4, 8, 7, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        half = medvlp.losses.clip_loss(image, text, 50.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, medvlp.losses.clip_loss(image.float(), text.float(), 50.0))


def test_large_scale_stays_finite():
    image = unit(4, 8, 8, torch.float32).requires_grad_()
    text = -image.detach()
    for loss in (
        medvlp.losses.clip_loss(image, text, 1e4),
        medvlp.losses.siglip_loss(image, text, 1e4, -10.0),
    ):
        assert loss.isfinite()
        assert torch.autograd.grad(loss, image)[0].isfinite().all()


@pytest.mark.parametrize(
    "shapes", [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((4,), (4,)), ((0, 2),) * 2]
)
def test_wrong_shapes_are_refused(shapes):
    image, text = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="shape"):
        medvlp.losses.clip_loss(image, text, 1.0)
    with pytest.raises(ValueError, match="shape"):
        medvlp.losses.siglip_loss(image, text, 1.0, 0.0)


def test_multi_text_losses_equal_their_literal_formula():
    image, text = unit(4, 6, 9).requires_grad_(), unit(5, 6, 10).requires_grad_()
    owner = [0, 0, 1, 3, 3]
    mine = contrast_clip(image, text, torch.tensor(owner), 9.0)
    reference = literal_multi(image, text, owner, 9.0)
    torch.testing.assert_close(mine, reference)
    for a, b in zip(
        torch.autograd.grad(mine, [image, text]),
        torch.autograd.grad(reference, [image, text]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    sign = torch.full((4, 5), -1.0)
    sign[owner, range(5)] = 1.0
    sigmoid = torch.log1p(torch.exp(-sign * (9.0 * image @ text.T - 1.0))).sum() / 5
    torch.testing.assert_close(
        contrast_siglip(image, text, torch.tensor(owner), 9.0, -1.0), sigmoid
    )


def literal_smoothed(image, text, owner, scale, share, left_out):
    """As `literal_multi`, but that a share of each target goes to every pair not left out."""
    images = texts = 0.0
    having = sorted(set(owner))
    for i in having:
        mine = [m for m, o in enumerate(owner) if o == i]
        pairs = [m for m in range(len(owner)) if (i, m) not in left_out]
        chance = {m: scale * (text[m] @ image[i]) for m in pairs}
        whole = torch.stack(list(chance.values())).logsumexp(0)
        images = images - (1 - share) * sum(chance[m] - whole for m in mine) / len(mine)
        images = images - share * sum(chance[m] - whole for m in pairs) / len(pairs)
    for m, o in enumerate(owner):
        pairs = [i for i in range(len(image)) if (i, m) not in left_out]
        chance = {i: scale * (text[m] @ image[i]) for i in pairs}
        whole = torch.stack(list(chance.values())).logsumexp(0)
        texts = texts - (1 - share) * (chance[o] - whole)
        texts = texts - share * sum(chance[i] - whole for i in pairs) / len(pairs)
    return (images / len(having) + texts / len(owner)) / 2


@pytest.mark.parametrize("tied", [False, True])
def test_smoothed_targets_equal_their_literal_formula(tied):
    image, text = unit(4, 6, 9).requires_grad_(), unit(5, 6, 10).requires_grad_()
    owner, patients, groups = [0, 0, 1, 3, 3], [7, 7, 8, 9], [5, 6, 6, 5, 4]
    left_out = set()
    for i, (m, o) in itertools.product(range(4), enumerate(owner)) if tied else ():
        own = {groups[k] for k, other in enumerate(owner) if other == i}
        if i != o and (patients[i] == patients[o] or groups[m] in own):
            left_out.add((i, m))
    ties = Ties(group_M=torch.tensor(groups), patient_B=torch.tensor(patients)) if tied else Ties()
    mine = contrast_clip(image, text, torch.tensor(owner), 9.0, ties, smoothing=0.1)
    reference = literal_smoothed(image, text, owner, 9.0, 0.1, left_out)
    torch.testing.assert_close(mine, reference)
    for a, b in zip(
        torch.autograd.grad(mine, [image, text]),
        torch.autograd.grad(reference, [image, text]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert bool(left_out) == tied


def test_smoothed_targets_are_those_of_the_cross_entropy():
    image, text = unit(6, 8, 2), unit(6, 8, 3)
    logits, own = 14.3 * image @ text.T, torch.arange(6)
    expected = [F.cross_entropy(x, own, label_smoothing=0.1) for x in (logits, logits.T)]
    found = contrast_clip(image, text, own, 14.3, smoothing=0.1)
    torch.testing.assert_close(found, sum(expected) / 2)


def test_one_text_an_image_is_the_plain_loss():
    image, text, owner = unit(4, 6, 11), unit(4, 6, 12), torch.arange(4)
    torch.testing.assert_close(
        contrast_clip(image, text, owner, 5.0), medvlp.losses.clip_loss(image, text, 5.0)
    )
    torch.testing.assert_close(
        contrast_siglip(image, text, owner, 5.0, -1.0),
        medvlp.losses.siglip_loss(image, text, 5.0, -1.0),
    )
