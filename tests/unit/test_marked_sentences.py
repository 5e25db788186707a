"""Texts whose sentences are marked: ids, limits, draws, and a tokenizer that keeps the mark."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from medvlp.data.dataset import PairDataset
from medvlp.data.items import Item
from medvlp.data.randomness import generator
from medvlp.data.text_draw import choose_texts
from medvlp.data.text_nodes import TextNode
from medvlp.data.text_policy import TextPolicy
from medvlp.data.tokenizer import (
    encode,
    encode_padded,
    encode_parts,
    encode_words,
    load_tokenizer,
    mark_sentences,
    save_tokenizer,
    sentence_id,
    token_ids,
    train_tokenizer,
)
from medvlp.errors import ConfigError

REPORT = "Nodule of 3.5 cm in the left lobe. No effusion. Heart size is 1.2 x normal."
SENTENCES = [
    "Nodule of 3.5 cm in the left lobe.",
    "No effusion.",
    "Heart size is 1.2 x normal.",
]


@pytest.fixture
def tokenizer():
    made = train_tokenizer([REPORT] * 3, 320)
    mark_sentences(made)
    return made


def words(tokenizer, sentence):
    return tokenizer(sentence, add_special_tokens=False)["input_ids"]


def expected(tokenizer, sentences):
    mark = sentence_id(tokenizer)
    ids = [tokenizer.cls_token_id]
    for sentence in sentences:
        ids += [mark, *words(tokenizer, sentence)]
    return ids


def test_each_sentence_stands_behind_a_mark_and_nothing_at_the_end(tokenizer):
    ids = encode(tokenizer, REPORT, 500)
    assert ids == expected(tokenizer, SENTENCES)
    assert tokenizer.sep_token_id not in ids
    assert ids.count(sentence_id(tokenizer)) == 3


def test_the_mark_comes_behind_all_tokens_and_stands_for_no_word(tokenizer):
    known = token_ids(tokenizer)
    assert known.sentence == sentence_id(tokenizer) == len(tokenizer) - 1 == known.count - 1
    assert known.sentence in known.special
    assert known.begin == tokenizer.cls_token_id
    plain = train_tokenizer([REPORT] * 3, 320)
    assert sentence_id(plain) is None
    assert token_ids(plain).sentence is None
    assert encode(plain, REPORT, 500)[-1] == plain.sep_token_id


def test_a_text_is_cut_at_its_end_and_no_mark_is_left_alone(tokenizer):
    whole = encode(tokenizer, REPORT, 500)
    second = 1 + 1 + len(words(tokenizer, SENTENCES[0]))
    assert whole[second] == sentence_id(tokenizer)
    assert encode(tokenizer, REPORT, second) == whole[:second]
    assert encode(tokenizer, REPORT, second + 1) == whole[:second]
    assert encode(tokenizer, REPORT, second + 2) == whole[: second + 2]
    assert encode(tokenizer, REPORT, 500, 2) == expected(tokenizer, SENTENCES[:2])
    assert encode(tokenizer, REPORT, 2) == whole[:1]


@pytest.mark.parametrize("text", ["", " ", "...", "\n"])
def test_a_text_without_words_is_its_beginning(tokenizer, text):
    assert encode(tokenizer, text, 9) == [tokenizer.cls_token_id]
    assert encode_words(tokenizer, text, 9)[1].tolist() == [False]


def test_a_report_that_spells_the_mark_has_no_further_sentence(tokenizer):
    ids = encode(tokenizer, "No [SEN] effusion.", 50)
    assert ids.count(sentence_id(tokenizer)) == 1
    assert ids[1] == sentence_id(tokenizer)


def test_saved_and_loaded_it_still_marks(tokenizer, tmp_path: Path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert token_ids(loaded).special == token_ids(tokenizer).special
    assert encode(loaded, REPORT, 500, 2) == encode(tokenizer, REPORT, 500, 2)
    mark_sentences(loaded)
    assert len(loaded) == len(tokenizer)


def test_padded_texts_are_the_same_texts(tokenizer):
    texts = [REPORT, "No effusion.", ""]
    ids, mask = encode_padded(tokenizer, texts, 40, 2)
    for row, real, text in zip(ids, mask, texts, strict=True):
        assert row[real].tolist() == encode(tokenizer, text, 40, 2)
        assert (row[~real] == tokenizer.pad_token_id).all()
        assert (real.int().diff() <= 0).all()
    whole, _ = encode_padded(tokenizer, [REPORT])
    assert whole[0].tolist() == encode(tokenizer, REPORT, None)
    one, word = encode_words(tokenizer, REPORT, 40)
    assert one[word].tolist() == [i for s in SENTENCES for i in words(tokenizer, s)][: word.sum()]


def test_a_vocabulary_without_a_beginning_is_refused(tokenizer):
    tokenizer.cls_token = None
    with pytest.raises(ConfigError, match="no token for a text's beginning"):
        mark_sentences(tokenizer)


class Nothing:
    """A contract of empty images."""

    def read(self, paths, span=None, flags=()):
        return np.zeros((2, 2), np.uint8)

    def draw(self, rng):
        return np.zeros(1)


def node(name, text):
    return TextNode(
        node=name, level="sentence", source="findings", text=text, start_s=None, end_s=None
    )


def dataset(tokenizer, *, train, most=2):
    item = Item(
        sample="s", patient="p", sha256="0" * 64, source_paths=(), span=None,
        texts=(node("a", REPORT), node("b", REPORT)), labels_L=np.zeros(0, np.float32),
        split="train",
    )  # fmt: skip
    items = [item, dataclasses.replace(item, sample="t", sha256="1" * 64)]
    policy = TextPolicy(choose="all", n=2, mark_sentences=True)
    return PairDataset(
        items, Nothing(), tokenizer, None, policy, 0,
        max_tokens=500, augment=train, max_sentences=most,
    )  # fmt: skip


def test_training_leaves_sentences_out_at_random_and_in_order(tokenizer):
    one, other = dataset(tokenizer, train=True), dataset(tokenizer, train=True)
    _ = other[(5, 1)]  # draws made before must not matter
    assert one[(3, 0)].ids == other[(3, 0)].ids
    pairs = [(0, 1), (0, 2), (1, 2)]
    allowed = [expected(tokenizer, [SENTENCES[i] for i in pair]) for pair in pairs]
    drawn = {}
    for epoch in range(30):
        for item in (0, 1):
            for text, ids in enumerate(one[(epoch, item)].ids):
                drawn.setdefault((item, text), []).append(allowed.index(ids))
    # Each text of each sample is drawn by itself.
    assert len({tuple(found) for found in drawn.values()}) == 4
    assert all(set(found) == {0, 1, 2} for found in drawn.values())


def test_evaluation_leaves_the_last_sentences_out(tokenizer):
    data = dataset(tokenizer, train=False)
    for epoch in range(3):
        assert data[(epoch, 0)].ids == (expected(tokenizer, SENTENCES[:2]),) * 2
    enough = dataset(tokenizer, train=True, most=3)
    assert enough[(0, 0)].ids == (expected(tokenizer, SENTENCES),) * 2


def test_sentences_that_are_joined_stay_apart_without_full_stops(tokenizer):
    said = ("No effusion", "heart size is normal", "left lobe")
    item = dataclasses.replace(
        dataset(tokenizer, train=False).items[0], texts=tuple(node(s, s) for s in said)
    )
    policy = TextPolicy(choose="join", mark_sentences=True)
    [joined] = choose_texts(item.texts, policy, generator(0, 0, "s", "text"))
    assert len(encode_parts(tokenizer, joined.text, 500)) == 4
    plain = dataclasses.replace(policy, mark_sentences=False)
    [joined] = choose_texts(item.texts, plain, generator(0, 0, "s", "text"))
    assert joined.text == " ".join(said)


def test_a_batch_is_padded_behind_its_sentences(tokenizer):
    ids, mask = encode_padded(tokenizer, ["", REPORT])
    assert torch.equal(mask[0].nonzero()[:, 0], torch.tensor([0]))
    assert ids.shape[1] == mask[1].sum()
