"""Prompt pools (PTUnifier): what is chosen, and that the pools learn."""

import pytest
import torch
from encoded import SIZES, altered, batch, encodings, gradients, permuted

from medvlp.config import validate
from medvlp.errors import ConfigError
from medvlp.losses.prompt_pool import PromptPoolConfig, stand_in

CONFIG = PromptPoolConfig(visual=9, language=7, visual_chosen=3, language_chosen=2)
READ = ("image_BE", "text_BNE", "scale")
ABSENT = ((0, 1), (2, 0))


def objective():
    torch.manual_seed(0)
    return CONFIG.build(SIZES).double()


def literal_stand_in(query, pool, chosen):
    products = [
        sum(q * e for q, e in zip(query.tolist(), entry, strict=True)) for entry in pool.tolist()
    ]
    best = sorted(range(len(pool)), key=lambda k: -products[k])[:chosen]
    return best, sum(pool[k] for k in best) / chosen


def literal_loss(head, one, data):
    def unit(vector):
        return vector / vector.norm()

    images = [unit(v + literal_stand_in(v, head.language_KE, 2)[1]) for v in one.image_BE]
    mask = data.text_mask_BNT.any(2).tolist()
    texts = [(i, n) for i, row in enumerate(mask) for n, here in enumerate(row) if here]
    words = [
        unit(v + literal_stand_in(v, head.visual_KE, 3)[1])
        for v in map(one.text_BNE.__getitem__, texts)
    ]
    logit = one.scale * torch.stack(images) @ torch.stack(words).T
    rows, columns = [], []
    for i in range(len(images)):
        own = [logit[i].logsumexp(0) - logit[i, m] for m, (j, _) in enumerate(texts) if i == j]
        rows.extend([sum(own) / len(own)] if own else [])
    for m, (i, _) in enumerate(texts):
        columns.append(logit[:, m].logsumexp(0) - logit[i, m])
    return (sum(rows) / len(rows) + sum(columns) / len(columns)) / 2


@pytest.mark.parametrize("absent", [(), ABSENT])
def test_equals_literal_loops(absent):
    head, one, data = objective(), encodings(4, 2), batch(4, 2, absent=absent)
    found, expected = head(one, data), literal_loss(head, one, data)
    torch.testing.assert_close(found, expected)
    weights = [*head.parameters(), *(getattr(one, name) for name in READ)]
    torch.testing.assert_close(
        torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights)
    )


def test_the_chosen_entries_are_the_largest_products_and_they_alone_learn():
    torch.manual_seed(3)
    query, pool = torch.randn(4, 5), torch.randn(8, 5, requires_grad=True)
    found = stand_in(query, pool, 3)
    chosen = [literal_stand_in(row, pool, 3) for row in query]
    torch.testing.assert_close(found, torch.stack([mean for _, mean in chosen]))
    (grad,) = torch.autograd.grad(found.sum(), pool)
    used = {k for best, _ in chosen for k in best}
    assert {k for k in range(8) if grad[k].abs().sum() > 0} == used
    assert 3 <= len(used) < 8


def test_both_pools_learn():
    """In the released code neither does: they are read where no gradient is kept."""
    head, one = objective(), encodings(4, 2)
    head(one, batch(4, 2)).backward()
    assert head.visual_KE.grad.abs().sum() > 0
    assert head.language_KE.grad.abs().sum() > 0


def test_absent_texts_and_order_play_no_part():
    head, one, data = objective(), encodings(4, 2), batch(4, 2, absent=ABSENT)
    loss = head(one, data)
    torch.testing.assert_close(head(altered(one, ABSENT), data), loss)
    torch.testing.assert_close(head(*permuted(one, data, [2, 0, 3, 1], [1, 0])), loss)
    none = head(one, batch(4, 2, absent=tuple((i, n) for i in range(4) for n in range(2))))
    assert none.item() == 0
    assert all((grad == 0).all() for grad in gradients(none, one, *READ).values())


def test_no_more_can_be_chosen_than_there_are():
    with pytest.raises(ConfigError, match="visual_chosen exceeds the pool's 4 entries"):
        validate(PromptPoolConfig, {"visual": 4, "visual_chosen": 5}, "test")
