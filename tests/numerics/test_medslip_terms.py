"""MeDSLIP's three sums against literal loops, and the draw of its negatives."""

import pytest
import torch
from medslip_parts import equal, leaves, loop_existence, loop_prototype, loop_relation, relations

from medvlp.data.presence import ABSENT, PRESENT, UNCERTAIN, UNTOLD
from medvlp.losses.medslip.terms import (
    draw_negatives,
    existence_total,
    products,
    prototype_total,
    relation_total,
)
from medvlp.losses.told import strongest


def test_existence_equals_a_loop():
    (logits,) = leaves((6, 4, 2))
    told = strongest(relations().mT, 2)
    assert {int(v) for v in told.unique()} == {UNTOLD, UNCERTAIN, ABSENT, PRESENT}
    equal(existence_total(logits, told), loop_existence(logits, told), [logits])


@pytest.mark.parametrize("unmentioned", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_prototypes_equal_a_loop(unmentioned, turned):
    told = relations().mT if turned else relations()
    torch.manual_seed(0)
    drawn = draw_negatives(told, 2, unmentioned=unmentioned)
    inputs = leaves((*told.shape[:2], 5), (7, 5), (7,), (told.shape[2], 7))
    equal(prototype_total(*inputs, told, drawn), loop_prototype(*inputs, told, *drawn), inputs)


def test_relations_equal_a_loop():
    inputs = leaves((6, 3, 5), (6, 4, 5))
    equal(
        relation_total(products(*inputs), relations()), loop_relation(*inputs, relations()), inputs
    )


def test_stream_labels_by_hand():
    told = torch.tensor([[1, 0, -2], [-1, 0, -2], [0, -2, 0], [-2, -2, -2], [1, -1, 0]])
    # What may be in one place is not absent because it is denied in another.
    assert strongest(told[None], 2).tolist() == [[1, -1, 0, -2, 1]]


@pytest.mark.parametrize("unmentioned", [False, True])
def test_negatives_are_never_positive_nor_uncertain(unmentioned):
    told = relations(200, 5, 6)
    torch.manual_seed(0)
    index, real = draw_negatives(told, 4, unmentioned=unmentioned)
    values = told.gather(2, index)[real]
    assert {int(v) for v in values.unique()} == ({ABSENT, UNTOLD} if unmentioned else {ABSENT})
    # As many as there are, at most four, none twice.
    there = (told == ABSENT) | ((told == UNTOLD) & unmentioned)
    torch.testing.assert_close(real.sum(2), there.sum(2).clamp(max=4))
    for row, ok in zip(index.flatten(0, 1), real.flatten(0, 1), strict=True):
        assert len(set(row[ok].tolist())) == int(ok.sum())
    torch.manual_seed(0)
    again = draw_negatives(told, 4, unmentioned=unmentioned)
    torch.testing.assert_close((index, real), again)
