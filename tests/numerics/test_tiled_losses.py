"""Contrastive losses in tiles against the written-out matrix in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from medvlp.losses.gather import contrast_clip, contrast_siglip
from medvlp.losses.ties import Ties, exclusion, group_slots, text_groups
from medvlp.losses.tiled import Exclusion, Keys, cross_logsumexp, cross_softplus

OWNER = [0, 0, 1, 3, 3, 4, 5, 5]
GROUP = [7, 2, 7, 2, 2, 9, 4, 7]
PATIENT = [1, 1, 2, 3, 3, 3, 4]
WEIGHT_B = [1.0, 2.0, 1.0, 0.5, 0.0, 3.0, 1.0]
WEIGHT_M = [1.0, 0.5, 2.0, 1.0, 3.0, 1.0, 0.0, 0.7]


def unit(rows, width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=dtype), dim=1)


def everything(share, **leave_out):
    values = {
        "weight_B": torch.tensor(WEIGHT_B, dtype=torch.float64),
        "weight_M": torch.tensor(WEIGHT_M, dtype=torch.float64),
        "group_M": torch.tensor(GROUP),
        "patient_B": torch.tensor(PATIENT),
    }
    return Ties(share=share, **{k: v for k, v in values.items() if leave_out.get(k, True)})


def left_out(ties, images):
    """Pair by pair, from the definitions."""
    mask = torch.zeros(images, len(OWNER), dtype=torch.bool)
    for i, m in itertools.product(range(images), range(len(OWNER))):
        groups = {GROUP[k] for k, o in enumerate(OWNER) if o == i}
        same_text = ties.group_M is not None and GROUP[m] in groups
        same_patient = ties.patient_B is not None and PATIENT[i] == PATIENT[OWNER[m]]
        kept = OWNER[m] == i or (same_text and ties.share)
        mask[i, m] = (same_text or same_patient) and not kept
    return mask


def written_out(name, image, text, scale, bias, ties):
    """Both losses with N×M matrices of logits, masks and targets."""
    images, texts = len(image), len(text)
    w = torch.ones(images).double() if ties.weight_B is None else ties.weight_B
    u = torch.ones(texts).double() if ties.weight_M is None else ties.weight_M
    own = torch.arange(images)[:, None] == torch.tensor(OWNER)
    spread = torch.eye(texts).double()
    if ties.share:
        same = torch.tensor(GROUP)[:, None] == torch.tensor(GROUP)
        spread = same.double() / same.sum(1)
    logits = scale * image @ text.T + bias
    logits = logits.masked_fill(left_out(ties, images), -torch.inf)
    if name == "siglip":
        positive = (own.double() @ spread > 0).double()
        terms = F.softplus(logits, threshold=500) - torch.where(positive > 0, logits, 0.0)
        return (w[:, None] * u * terms).sum() / u.sum()
    mass = (own * u).sum(1)
    by_image = ((own * u) / mass.clamp(min=1e-300)[:, None]) @ spread
    by_text = spread @ own.T.double()
    row, column = logits.logsumexp(1), logits.logsumexp(0)
    w = torch.where(mass > 0, w, 0.0)
    row = torch.where(mass > 0, row, 0.0)
    images_loss = row - torch.where(by_image > 0, by_image * logits, 0.0).sum(1)
    texts_loss = column - torch.where(by_text.T > 0, by_text.T * logits, 0.0).sum(0)
    return ((w * images_loss).sum() / w.sum() + (u * texts_loss).sum() / u.sum()) / 2


TIES = {
    "none": Ties(),
    "weights": everything(False, group_M=False, patient_B=False),
    "left out": everything(False),
    "shared": everything(True),
    "shared, no patients": everything(True, patient_B=False, weight_B=False),
}


@pytest.mark.parametrize("ties", TIES.values(), ids=TIES)
@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("size", [3.0, 100.0, 5e3])
def test_value_and_gradients_equal_the_matrix(name, ties, size):
    inputs = [unit(7, 6, 0), unit(8, 6, 1), torch.tensor(size), torch.tensor(-2.0)]
    inputs = [value.double().requires_grad_() for value in inputs]
    image, text, scale, bias = inputs
    owner = torch.tensor(OWNER)
    if name == "clip":
        mine = contrast_clip(image, text, owner, scale, ties)
        inputs = inputs[:3]
        reference = written_out(name, image, text, scale, 0.0, ties)
    else:
        mine = contrast_siglip(image, text, owner, scale, bias, ties)
        reference = written_out(name, image, text, scale, bias, ties)
    torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(loss, inputs) for loss in (mine, reference))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * size)


def random_exclusion(rows, columns):
    generator = torch.Generator().manual_seed(5)

    def draw(count, width, values):
        return torch.randint(values, (count, width), generator=generator)

    return Exclusion(
        Keys(draw(rows, 2, 4), draw(columns, 2, 4)), Keys(draw(rows, 1, 3), draw(columns, 1, 3))
    )


@pytest.mark.parametrize("size", [5.0, 400.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_of_any_size_give_the_same(size, dtype):
    image, text = unit(37, 5, 0, dtype).requires_grad_(), unit(29, 5, 1, dtype).requires_grad_()
    excluded = random_exclusion(37, 29)
    weights = torch.rand(37, dtype=dtype), torch.rand(29, dtype=dtype)
    results = []
    for tile in (64, 16, 7):
        row, column = cross_logsumexp(image, text, size, excluded, tile=tile)
        pairs = cross_softplus(image, text, size, -3.0, *weights, excluded, tile=tile)
        total = (row * weights[0]).sum() + (column * weights[1]).sum() + pairs
        results.append([total, *torch.autograd.grad(total, [image, text])])
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 0}
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, **close)


def test_numerical_gradients():
    image, text = unit(5, 3, 2).requires_grad_(), unit(4, 3, 3).requires_grad_()
    scale, bias = (torch.tensor(v).double().requires_grad_() for v in (3.0, -1.0))
    excluded, one = random_exclusion(5, 4), torch.rand(5).double()
    assert torch.autograd.gradcheck(
        lambda x, y, s: cross_logsumexp(x, y, s, excluded, tile=2), (image, text, scale)
    )
    assert torch.autograd.gradcheck(
        lambda x, y, s, b: cross_softplus(x, y, s, b, one, one[:4], excluded, tile=2),
        (image, text, scale, bias),
    )


@pytest.mark.parametrize("size", [1.0, 90.0, 300.0, 1e4])
def test_float32_holds_at_any_scale_and_norm(size):
    """Neither overflow nor loss, whichever form the sizes call for."""
    image, text = unit(50, 16, 4), unit(60, 16, 5)
    image[3] *= -40
    text[7] = -image[3]
    exact = cross_logsumexp(image, text, size)
    single = cross_logsumexp(image.float(), text.float(), size)
    for a, b in zip(single, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-5 * size)


def test_rows_without_a_pair():
    keys = Keys(torch.tensor([[0], [1]]), torch.tensor([[0], [0]]))
    excluded = Exclusion(keys, Keys(torch.tensor([[-1], [-1]]), torch.tensor([[0], [0]])))
    image, text = unit(2, 3, 6).requires_grad_(), unit(2, 3, 7).requires_grad_()
    row, column = cross_logsumexp(image, text, 5.0, excluded)
    assert row[0] == -torch.inf
    torch.testing.assert_close(column, 5 * image[1] @ text.T)
    grads = torch.autograd.grad(row[1] + column.sum(), [image, text])
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0][0].abs().sum() == 0


def test_order_of_samples_does_not_matter():
    image, text, ties = unit(7, 6, 0), unit(8, 6, 1), everything(True)
    owner = torch.tensor(OWNER)
    images, texts = torch.randperm(7), torch.randperm(8)
    moved = Ties(
        share=True,
        weight_B=ties.weight_B[images],
        weight_M=ties.weight_M[texts],
        group_M=ties.group_M[texts],
        patient_B=ties.patient_B[images],
    )
    new_owner = images.argsort()[owner[texts]]
    for loss in (contrast_clip, lambda *a: contrast_siglip(*a[:4], -2.0, a[4])):
        torch.testing.assert_close(
            loss(image[images], text[texts], new_owner, 9.0, moved),
            loss(image, text, owner, 9.0, ties),
        )


def test_left_out_duplicates_by_hand():
    # Two samples of one text: each pair has no negative left, so nothing is to be learned.
    image, text = unit(2, 4, 8), unit(1, 4, 9).expand(2, 4)
    loss = contrast_clip(image, text, torch.arange(2), 10.0, Ties(group_M=torch.tensor([3, 3])))
    assert abs(loss.item()) < 1e-12


def test_same_tokens_are_one_group_whatever_the_padding():
    ids = torch.tensor([[5, 6, 0], [5, 6, 9], [6, 5, 0], [5, 6, 0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0]]).bool()
    group = text_groups(ids, mask)
    assert group[0] == group[1]
    assert len(set(group.tolist())) == 3
    assert (group >= 0).all()
    assert torch.equal(text_groups(ids[:, :2], mask[:, :2]), group)


def test_groups_of_each_image():
    slots = group_slots(torch.tensor([4, 5, 6]), torch.tensor([2, 0, 2]), 3)
    assert slots.tolist() == [[5, -1], [-1, -1], [4, 6]]
    assert exclusion(torch.arange(3), torch.tensor([2, 0, 2]), Ties(), Ties()) is None
