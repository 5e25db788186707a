"""MedCutMix: who gives what to whom, what is refused, and what holds afterwards."""

import dataclasses
import math

import pytest
import torch
from exchanged import (
    BOTH_SAID,
    EFFUSION,
    NO_EFFUSION,
    NORMAL,
    PNEUMOTHORAX,
    SILENT,
    A,
    D,
    P,
    U,
    batch,
    drawn,
    towers,
)

from medvlp.data.relations import LEFT, RIGHT
from medvlp.data.tables import LEVELS
from medvlp.train.exchange import exchange_texts, exchange_truth


def test_a_sentence_that_affirms_is_given_up_for_one_of_another_patient():
    data = batch([[SILENT, EFFUSION], [PNEUMOTHORAX, SILENT]])
    exchange = drawn(data)
    assert exchange.mixed_B.tolist() == [True, True]
    assert exchange.slot_B.tolist() == [1, 0]
    assert exchange.donor_B.tolist() == [1, 0]
    assert exchange.source_B.tolist() == [0, 1]


def test_every_allowed_choice_is_drawn_evenly_and_no_other():
    told = [[EFFUSION, PNEUMOTHORAX, SILENT]] * 3
    data = batch(told, patients=[4, 4, 9])
    found = {}
    for k in range(400):
        draw = torch.rand(3, generator=torch.Generator().manual_seed(k)).tolist()
        exchange = drawn(data, draw)
        key = (exchange.slot_B[0].item(), exchange.donor_B[0].item(), exchange.source_B[0].item())
        found[key] = found.get(key, 0) + 1
    assert found.keys() == {(n, 2, m) for n in (0, 1) for m in (0, 1)}
    assert min(found.values()) > 60
    assert drawn(data, (0.4, 0, 0), share=0.4).mixed_B.sum() == 0
    assert drawn(data, (0.39, 0, 0), share=0.4).mixed_B.sum() == 3


@pytest.mark.parametrize(
    ("told", "patients"),
    [
        ([[SILENT, NO_EFFUSION], [EFFUSION, SILENT]], [0, 1]),  # 0 gives nothing, 1 gets nothing
        ([[EFFUSION, SILENT], [PNEUMOTHORAX, SILENT]], [7, 7]),  # one patient
        ([[EFFUSION, SILENT], [BOTH_SAID, SILENT]], [0, 1]),  # what also denies is not pasted
        ([[EFFUSION, SILENT], [(P, D, U), SILENT]], [0, 1]),  # nor what also doubts
    ],
)
def test_who_has_no_sentence_or_no_partner_stays_as_it_is(told, patients):
    exchange = drawn(batch(told, patients=patients))
    assert not exchange.mixed_B[0]
    assert not exchange.contradicted_B.any()


def test_sections_and_absent_texts_are_not_exchanged():
    data = batch([[EFFUSION, PNEUMOTHORAX], [PNEUMOTHORAX, EFFUSION]])
    level = data.level_BN.clone()
    level[:, 0] = LEVELS.index("section")
    exchange = drawn(dataclasses.replace(data, level_BN=level))
    assert exchange.slot_B.tolist() == exchange.source_B.tolist() == [1, 1]
    mask = data.text_mask_BNT.clone()
    mask[:, 0] = False
    exchange = drawn(dataclasses.replace(data, text_mask_BNT=mask))
    assert exchange.slot_B.tolist() == exchange.source_B.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("other", "side", "refused"),
    [
        (SILENT, 0, False),
        (NO_EFFUSION, 0, True),  # an effusion beside "no effusion"
        ((D, U, U), 0, False),  # doubt is no denial
        (EFFUSION, LEFT, False),  # the same side
        (EFFUSION, RIGHT, True),  # another side
        (EFFUSION, 0, False),  # no side
        (PNEUMOTHORAX, RIGHT, False),  # another finding
    ],
)
def test_what_the_other_texts_contradict_is_refused(other, side, refused):
    data = batch([[PNEUMOTHORAX, other], [EFFUSION, SILENT]], side=[[0, side], [LEFT, 0]])
    exchange = drawn(data)
    assert exchange.contradicted_B[0].item() is refused
    assert exchange.mixed_B[0].item() is not refused


def test_a_denial_of_the_removed_sentence_does_not_count_and_a_general_denial_counts_for_all():
    data = batch([[BOTH_SAID, SILENT], [PNEUMOTHORAX, SILENT]])
    assert drawn(data).mixed_B[0]
    data = batch([[EFFUSION, NORMAL], [PNEUMOTHORAX, SILENT]])
    assert drawn(data).mixed_B[0]
    assert drawn(data, deny_all=[2]).contradicted_B[0]
    assert drawn(data, deny_all=[2]).mixed_B.tolist() == [False, True]


def test_the_wrong_side_is_refused_after_the_contradiction():
    data = batch([[EFFUSION, SILENT], [PNEUMOTHORAX, NO_EFFUSION]])
    exchange = drawn(data, on_side=False)
    assert exchange.wrong_side_B.tolist() == [True, False]
    assert exchange.contradicted_B.tolist() == [False, True]


def test_rows_of_texts_move_together_and_nothing_else_does():
    data = batch([[SILENT, EFFUSION], [PNEUMOTHORAX, SILENT], [NO_EFFUSION, SILENT]])
    encodings = towers()(data)
    exchange = drawn(data)
    mixed, told = exchange_texts(data, exchange), exchange_texts(encodings, exchange)
    for before, after in ((data, mixed), (encodings, told)):
        for field in dataclasses.fields(before):
            old, new = getattr(before, field.name), getattr(after, field.name)
            if "_BN" not in field.name or old is None:
                assert old is new
                continue
            expected = old.clone()
            expected[0, 1], expected[1, 0] = old[1, 0], old[0, 1]
            assert torch.equal(new, expected)


def test_truth_by_hand():
    tells = torch.tensor(
        [[True, False, False], [False, True, False], [False, False, True], [False] * 3]
    )
    data = batch(
        [
            [EFFUSION, SILENT],  # gives up its effusion for a pneumothorax
            [PNEUMOTHORAX, EFFUSION],  # gives up its pneumothorax for an effusion, keeps another
            [NORMAL, NO_EFFUSION],
        ],
        labels=[[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        relations=[
            [[P, A, U], [U, A, U]],
            [[U, U, U], [P, P, U]],
            [[A, U, A], [A, U, A]],
        ],
        place=[[[1, 0], [0, 0]], [[0, 1], [0, 1]], [[0, 0], [0, 0]]],
    )
    exchange = drawn(data)
    assert exchange.mixed_B.tolist() == [True, True, False]
    truth = exchange_truth(data, exchange, tells)
    nan = math.nan
    expected = torch.tensor([[nan, 1.0, 1.0, nan], [1.0, nan, 1.0, nan], [0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(truth.labels_BL, expected, equal_nan=True)
    assert truth.relations_BAQ.tolist() == [
        [[U, A, U], [U, P, U]],
        [[P, U, U], [P, U, U]],
        [[A, U, A], [A, U, A]],
    ]
    assert truth.told_BNQ is data.told_BNQ
