"""Wrong pairs: which may be drawn, and that they are drawn by likeness."""

import pytest
import torch
import torch.nn.functional as F
from paired import TOLD, barred_loop, batch, encodings, flat, pairs_loop, words_of

from medvlp.data.batch import Batch
from medvlp.losses.fusion.matching import barred_pairs, draw_pairs


@pytest.mark.parametrize("told", [None, TOLD])
def test_barred_pairs_are_those_of_a_loop(told):
    data = batch(told=told)
    barred = barred_pairs(data)
    assert torch.equal(barred, barred_loop(data))
    # 0 and 3: one vector of labels; 4 and 5: nothing known, which says nothing.
    assert barred[0, 4]
    assert not barred[4, 6]
    # 2 and 4 share no label vector, but what they tell.
    assert barred[4, 3] == (told is not None)


def test_texts_of_one_patient_are_never_partners_without_any_other_likeness():
    data = batch()
    assert data.patient_B[1] == data.patient_B[2]
    assert barred_pairs(data)[1, 3]
    assert barred_pairs(data)[2, 2]


def test_a_batch_without_patients_is_refused():
    data = batch()
    bare = Batch(**{**data.__dict__, "patient_B": None})
    with pytest.raises(ValueError, match="no patient_B"):
        barred_pairs(bare)


def drawn(seed, scale=3.0, data=None):
    data = batch(told=TOLD) if data is None else data
    found, present = encodings(data), data.text_mask_BNT.any(2)
    owner = present.nonzero()[:, 0]
    torch.manual_seed(seed)
    barred = barred_pairs(data)
    return draw_pairs(found.image_BE, found.text_BNE[present], owner, barred, scale)


def listed(pairs):
    return list(
        zip(pairs.image_K.tolist(), pairs.text_K.tolist(), pairs.right_K.tolist(), strict=True)
    )


@pytest.mark.parametrize("seed", range(5))
def test_drawn_pairs_are_those_of_a_loop(seed):
    data = batch(told=TOLD)
    found = encodings(data)
    assert listed(drawn(seed)) == pairs_loop(data, found, 3.0, seed)
    assert listed(drawn(seed)) == listed(drawn(seed))


def test_wrong_pairs_are_never_of_one_patient_text_or_vector():
    data = batch(told=TOLD)
    texts, seen = flat(data), set()
    for seed in range(200):
        for b, m, right in listed(drawn(seed)):
            owner, n = texts[m]
            assert not right or owner == b
            if right:
                continue
            seen.add((b, m))
            assert data.patient_B[b] != data.patient_B[owner]
            for k in (k for o, k in texts if o == b):
                assert words_of(data, b, k) != words_of(data, owner, n)
                told = data.told_BNQ[owner, n].tolist()
                assert told == [-2, -2] or data.told_BNQ[b, k].tolist() != told
            vector = data.labels_BL[b]
            if not vector.isnan().any():
                assert not torch.equal(vector, data.labels_BL[owner])
    allowed = (~barred_pairs(data)).nonzero().tolist()
    assert seen == set(map(tuple, allowed))


def test_likelier_partners_are_drawn_as_often_as_their_weights():
    image = F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    owner = torch.arange(4)
    barred = torch.eye(4, dtype=torch.bool)
    torch.manual_seed(0)
    counts = torch.zeros(4, 4)
    for _ in range(3000):
        pairs = draw_pairs(image, image, owner, barred, 2.0)
        counts[pairs.text_K[4:8], pairs.image_K[4:8]] += 1
    expected = (2.0 * image @ image.T).masked_fill(barred, -torch.inf).softmax(1)
    torch.testing.assert_close(counts / 3000, expected, atol=0.03, rtol=0)


def test_a_single_patient_gives_right_pairs_alone():
    data = batch()
    one = Batch(**{**data.__dict__, "patient_B": torch.zeros(6, dtype=torch.long)})
    pairs = drawn(0, data=one)
    assert pairs.right_K.all()
    assert len(pairs.right_K) == len(flat(one))
