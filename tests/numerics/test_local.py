"""Word-to-place contrast against literal loops; words alone count; order and memory do not."""

import dataclasses
import math

import pytest
import torch
from encoded import IDS, SIZES, altered, batch, encodings, gradients, permuted
from looking import literal_contrast

from medvlp.encoding import Sizes
from medvlp.errors import ConfigError
from medvlp.losses.local import LocalConfig, Words, contrast_local, text_agreement, word_places

READ = ("patch_BPE", "token_BNTE")
ABSENT = ((0, 1), (2, 0), (2, 1))


def literal_loss(one, data, aggregate, duplicates="negative"):
    texts, said = [], []
    for i, row in enumerate(data.text_BNT.tolist()):
        for n, ids in enumerate(row):
            real = data.text_mask_BNT[i, n].tolist()
            places = [t for t, x in enumerate(ids) if real[t] and x not in IDS.special]
            if places:
                texts.append((i, [one.token_BNTE[i, n, t] for t in places]))
                said.append(tuple(x for t, x in enumerate(ids) if real[t]))
    twins = said if duplicates == "leave-out" else None
    return literal_contrast(one.patch_BPE, texts, aggregate, twins)


@pytest.mark.parametrize("absent", [(), ABSENT])
@pytest.mark.parametrize(("texts", "aggregate"), [(1, "sum"), (2, "sum"), (2, "mean")])
def test_equals_literal_loops(texts, aggregate, absent):
    absent = tuple(pair for pair in absent if pair[1] < texts)
    one, data = encodings(4, texts), batch(4, texts, absent=absent)
    found = LocalConfig(aggregate=aggregate).build(SIZES)(one, data)
    expected = literal_loss(one, data, aggregate)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, one, *READ), gradients(expected, one, *READ))


@pytest.mark.parametrize("duplicates", ["negative", "leave-out"])
def test_equal_texts_of_others_are_negatives_or_left_out(duplicates):
    """Sample 2 says what 0 does, and 3 what 1 does twice over; 0 repeats itself."""
    one, data = encodings(4, 2), batch(4, 2)
    ids, mask = data.text_BNT.clone(), data.text_mask_BNT.clone()
    for to, source in (((2, 1), (0, 0)), ((3, 0), (1, 1)), ((3, 1), (1, 1)), ((0, 1), (0, 0))):
        ids[to], mask[to] = ids[source], mask[source]
    data = dataclasses.replace(data, text_BNT=ids, text_mask_BNT=mask)
    found = LocalConfig(duplicates=duplicates).build(SIZES)(one, data)
    expected = literal_loss(one, data, "sum", duplicates)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, one, *READ), gradients(expected, one, *READ))


def test_one_word_and_one_place_by_hand():
    """One word, one place: the word sees the place, and agreement is 5 times their cosine."""
    patch = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
    words = Words(
        word_KE=torch.tensor([[3.0, 0.0], [1.0, 1.0]]),
        length_M=torch.tensor([1, 1]),
        owner_M=torch.tensor([0, 1]),
    )
    half = math.sqrt(0.5)
    logit = [[50.0, 50 * half], [0.0, 50 * half]]
    rows = [math.log1p(math.exp(logit[0][1] - logit[0][0])), math.log1p(math.exp(-50 * half))]
    columns = [math.log1p(math.exp(-50.0)), math.log(2)]
    assert contrast_local(patch, words).item() == pytest.approx(sum(rows + columns) / 4, rel=1e-5)


def test_repeated_words_count_in_the_sum_and_not_in_the_mean():
    """All words see the only place: as many again add log 2 to the sum, and nothing to the mean."""
    torch.manual_seed(1)
    patch = torch.randn(2, 1, 3)
    word = torch.randn(2, 3)
    once = Words(word_KE=word, length_M=torch.tensor([1, 1]), owner_M=torch.arange(2))
    twice = Words(
        word_KE=word.repeat_interleave(2, 0), length_M=torch.tensor([2, 2]), owner_M=torch.arange(2)
    )
    for aggregate, more in (("sum", math.log(2)), ("mean", 0.0)):
        found = [text_agreement(patch, words, aggregate=aggregate) for words in (once, twice)]
        torch.testing.assert_close(found[1], found[0] + more)


def test_special_tokens_and_padding_say_nothing():
    one, data = encodings(4, 2), batch(4, 2)
    objective = LocalConfig().build(SIZES)
    special = torch.isin(data.text_BNT, torch.tensor(IDS.special)) | ~data.text_mask_BNT
    token = one.token_BNTE.detach().clone()
    token[special] = 50.0
    other = dataclasses.replace(one, token_BNTE=token)
    torch.testing.assert_close(objective(other, data), objective(one, data))
    # The words are counted, not the letters or the padded length.
    longer = dataclasses.replace(
        data,
        text_BNT=torch.nn.functional.pad(data.text_BNT, (0, 3)),
        text_mask_BNT=torch.nn.functional.pad(data.text_mask_BNT, (0, 3)),
    )
    padded = torch.nn.functional.pad(one.token_BNTE, (0, 0, 0, 3), value=3.0)
    torch.testing.assert_close(
        objective(dataclasses.replace(one, token_BNTE=padded), longer), objective(one, data)
    )


def test_absent_texts_and_texts_without_a_word_play_no_part():
    objective = LocalConfig().build(SIZES)
    one, data = encodings(4, 2), batch(4, 2, absent=ABSENT)
    loss = objective(one, data)
    torch.testing.assert_close(objective(altered(one, ABSENT), data), loss)
    ids, mask = data.text_BNT.clone(), data.text_mask_BNT.clone()
    for row, column in ABSENT:
        ids[row, column, :2], mask[row, column, :2] = torch.tensor([1, 2]), True
    wordless = dataclasses.replace(data, text_BNT=ids, text_mask_BNT=mask)
    torch.testing.assert_close(objective(one, wordless), loss)


def test_the_order_of_samples_and_texts_does_not_matter():
    objective = LocalConfig().build(SIZES)
    one, data = encodings(5, 3), batch(5, 3, absent=((1, 0), (4, 2)))
    loss = objective(one, data)
    for samples, texts in (([4, 2, 0, 1, 3], [0, 1, 2]), ([0, 1, 2, 3, 4], [2, 0, 1])):
        torch.testing.assert_close(objective(*permuted(one, data, samples, texts)), loss)


@pytest.mark.parametrize("values", [1, 100, 10**9])
def test_few_texts_at_a_time_give_the_same(values):
    """With 1, every text is by itself and computed anew; gradients of the parts add up."""
    one, data = encodings(4, 3), batch(4, 3)
    word = data.text_mask_BNT & ~torch.isin(data.text_BNT, torch.tensor(IDS.special))
    assert len(word.sum(2).unique()) > 1
    found = []
    for limit in ({}, {"values": values}):
        words = Words(
            word_KE=one.token_BNTE[word],
            length_M=word.sum(2).flatten(),
            owner_M=torch.arange(4).repeat_interleave(3),
        )
        agreement = text_agreement(one.patch_BPE, words, **limit)
        found.append((agreement, gradients(agreement.square().sum(), one, *READ)))
    torch.testing.assert_close(found[1], found[0])


def test_nothing_to_read_is_zero_with_a_gradient():
    one, data = encodings(2, 1), batch(2, 1, absent=((0, 0), (1, 0)))
    loss = LocalConfig().build(SIZES)(one, data)
    assert loss.item() == 0
    assert all(grad.abs().sum() == 0 for grad in gradients(loss, one, *READ).values())


def test_half_precision_is_computed_in_single():
    one, data = encodings(4, 2, dtype=torch.float32), batch(4, 2)
    objective = LocalConfig().build(SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(one, data)
    torch.testing.assert_close(found, objective(one, data))


def test_it_needs_to_know_what_a_word_is():
    with pytest.raises(ConfigError, match="special tokens are not known"):
        LocalConfig().build(Sizes(image=4, text=4, embed=4))


def test_words_look_where_they_agree_and_their_looks_sum_to_one():
    torch.manual_seed(3)
    patch_PE, word_TE = (
        torch.randn(9, 5, dtype=torch.float64),
        torch.randn(4, 5, dtype=torch.float64),
    )
    place_P = word_places(patch_PE, word_TE)
    assert place_P.shape == (9,)
    assert place_P.min() >= 0
    torch.testing.assert_close(place_P.sum(), torch.ones((), dtype=torch.float64))
    # Literally.
    expected = torch.zeros(9, dtype=torch.float64)
    looks, agreements = [], []
    for t in range(4):
        found = torch.stack([torch.softmax(word_TE @ patch, 0)[t] for patch in patch_PE])
        look = torch.softmax(4 * found, 0)
        context = sum(look[p] * patch_PE[p] for p in range(9))
        agreements.append(5 * torch.cosine_similarity(context, word_TE[t], dim=0))
        looks.append(look)
    for weight, look in zip(torch.softmax(torch.stack(agreements), 0), looks, strict=True):
        expected += weight * look
    torch.testing.assert_close(place_P, expected)
    # Patches in another order are looked at in that order.
    order = torch.randperm(9)
    torch.testing.assert_close(word_places(patch_PE[order], word_TE), place_P[order])
