"""The tower tribert: its mask, its levels, and weights from a local folder."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from marked import BEGIN, IDS, MARK, REPORTS, batch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from medvlp.config import plain, validate
from medvlp.errors import ConfigError
from medvlp.models.text import CORE_TEXT_TOWERS, TextTowerConfig
from medvlp.models.tribert import TribertConfig, sentence_mask

TINY = TribertConfig(width=16, depth=2, heads=2, max_tokens=14, max_sentences=3)
FULL = torch.tensor([[BEGIN, MARK, 7, 8, MARK, 9, 10, MARK, 11, 12, 13, 14, 15, 16]])
"""As long as the tower allows, cut within its last sentence: no padding."""


def build(config=TINY, vocabulary=IDS.count):
    torch.manual_seed(0)
    return config.build(vocabulary, 0, MARK).double().eval()


def texts():
    """Those of `REPORTS`, and one without any padding (M,T)."""
    data = batch(REPORTS, longest=14)
    ids = torch.cat([data.text_BNT.flatten(0, 1), FULL])
    mask = torch.cat([data.text_mask_BNT.flatten(0, 1), torch.ones_like(FULL, dtype=torch.bool)])
    return ids, mask


def numbers(row):
    """The sentence of each token, by counting."""
    found, sentence = [], 0
    for token in row:
        sentence += token == MARK
        found.append(sentence)
    return found


def looked_at(row):
    """Pair by pair: who attends to whom in a text without padding."""
    number = numbers(row)
    allowed = torch.zeros(len(row), len(row), dtype=torch.bool)
    for q in range(len(row)):
        for k in range(len(row)):
            begin = k == 0
            allowed[q, k] = row[q] != MARK or begin or number[k] == number[q]
    return allowed


def test_the_mask_is_that_of_plain_loops_also_in_a_cut_text():
    ids, mask = texts()
    found = sentence_mask(ids, mask, MARK)
    for row, real, seen in zip(ids, mask, found, strict=True):
        length = int(real.sum())
        assert not seen[:, length:].any()
        assert torch.equal(seen[:length, :length], looked_at(row[:length].tolist()))
        # What is padded sees what is real, so that no softmax is over nothing.
        assert seen[length:, :length].all()
    last = found[-1, 7]
    assert FULL[0, 7] == MARK
    assert last.nonzero()[:, 0].tolist() == [0, 7, 8, 9, 10, 11, 12, 13]


def literal_states(tower, row):
    """One text, without padding, layer by layer and head by head."""
    bert, heads = tower.backbone, tower.backbone.config.num_attention_heads
    tables, number = bert.embeddings, numbers(row)
    state = torch.stack([
        tables.word_embeddings.weight[token]
        + tables.position_embeddings.weight[t]
        + tables.token_type_embeddings.weight[number[t]]
        for t, token in enumerate(row)
    ])  # fmt: skip
    state = tables.LayerNorm(state)
    barred = ~looked_at(row)
    for layer in bert.encoder.layer:
        inner = layer.attention.self
        query, key, value = inner.query(state), inner.key(state), inner.value(state)
        parts = []
        for q, k, v in zip(*(x.chunk(heads, 1) for x in (query, key, value)), strict=True):
            score = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(barred, -torch.inf)
            parts.append(score.softmax(1) @ v)
        out = layer.attention.output
        state = out.LayerNorm(out.dense(torch.cat(parts, 1)) + state)
        wide = F.gelu(layer.intermediate.dense(state))
        state = layer.output.LayerNorm(layer.output.dense(wide) + state)
    return state


def test_all_levels_are_those_of_a_literal_computation():
    tower, (ids, mask) = build(), texts()
    found = tower(ids, mask)
    assert found.sentence_MSD.shape == (len(ids), 3, 16)
    for m, (row, real) in enumerate(zip(ids, mask, strict=True)):
        row = row[real].tolist()
        if not row:
            assert found.pooled_MD[m].isfinite().all()
            assert not found.sentence_MSD[m].any()
            continue
        state = literal_states(tower, row)
        torch.testing.assert_close(found.pooled_MD[m], state[0])
        torch.testing.assert_close(found.tokens_MTD[m, : len(row)], state)
        number = numbers(row)
        for s in range(1, 4):
            own = [state[t] for t in range(len(row)) if number[t] == s]
            expected = sum(own) / len(own) if own else torch.zeros(16, dtype=torch.float64)
            torch.testing.assert_close(found.sentence_MSD[m, s - 1], expected)


def test_a_mark_knows_nothing_of_other_sentences():
    tower = build(dataclasses.replace(TINY, depth=1))
    mask = torch.ones_like(FULL, dtype=torch.bool)
    other = FULL.clone()
    other[0, 5] = 20  # a word of the second sentence
    before, after = (tower(ids, mask).tokens_MTD[0] for ids in (FULL, other))
    same = (before - after).abs().amax(1) < 1e-12
    assert same[FULL[0] == MARK].tolist() == [True, False, True]
    assert not same[[0, 2, 3, 8]].any()


def test_padding_plays_no_part():
    tower, data = build(), batch(REPORTS)
    ids, mask = data.text_BNT.flatten(0, 1), data.text_mask_BNT.flatten(0, 1)
    short = tower(ids, mask)
    long = tower(F.pad(ids, (0, 3)), F.pad(mask, (0, 3)))
    torch.testing.assert_close(long.pooled_MD, short.pooled_MD)
    torch.testing.assert_close(long.sentence_MSD, short.sentence_MSD)
    torch.testing.assert_close(long.tokens_MTD[:, :-3][mask], short.tokens_MTD[mask])


def test_more_sentences_than_it_counts_are_read_and_not_told_apart():
    tower = build(dataclasses.replace(TINY, max_sentences=2))
    found = tower(FULL, torch.ones_like(FULL, dtype=torch.bool))
    assert found.sentence_MSD.shape == (1, 2, 16)
    torch.testing.assert_close(found.sentence_MSD[0, 1], found.tokens_MTD[0, 4:7].mean(0))


def test_blocks_computed_twice_give_the_same_gradient():
    ids, mask = texts()
    found = []
    for again in (False, True):
        tower = build(dataclasses.replace(TINY, checkpoint_activations=again)).train()
        tower(ids, mask).sentence_MSD.square().sum().backward()
        found.append({name: weight.grad for name, weight in tower.named_parameters()})
    torch.testing.assert_close(found[1], found[0])


@pytest.fixture
def folder(tmp_path):
    """A BERT of 29 tokens, to which the mark is the thirtieth; and the model itself."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=IDS.count - 1, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=14,
    )  # fmt: skip
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert", model


def test_weights_come_from_a_local_folder(folder):
    path, model = folder
    config = dataclasses.replace(TINY, pretrained=str(path))
    last = IDS.count - 1
    tower = config.build(IDS.count, 0, last).eval()
    # A text without marks is read as the folder's own model reads it.
    ids = torch.tensor([[BEGIN, 7, 8, 9]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    torch.testing.assert_close(tower(ids, mask).tokens_MTD, model(ids).last_hidden_state)
    tables = tower.backbone.embeddings
    words = model.embeddings.word_embeddings.weight
    torch.testing.assert_close(tables.word_embeddings.weight[last], words.mean(0))
    assert tables.token_type_embeddings.weight.shape == (4, 16)
    assert all(weight.requires_grad for weight in tower.parameters())
    # A bundle rebuilds it without the folder, heads included.
    portable = validate(TribertConfig, plain(tower.portable), "text")
    assert portable.pretrained is None
    again = portable.build(IDS.count, 0, last).eval()
    again.load_state_dict(tower.state_dict())
    marked = torch.tensor([[BEGIN, last, 8, 9, last, 5]])
    mask = torch.ones_like(marked, dtype=torch.bool)
    torch.testing.assert_close(again(marked, mask).sentence_MSD, tower(marked, mask).sentence_MSD)
    assert again.backbone.config.num_attention_heads == 4


def test_what_does_not_fit_is_refused(folder, tmp_path):
    path, _ = folder

    def refused(match, changes, known=(IDS.count, 0, MARK)):
        with pytest.raises(ConfigError, match=match):
            dataclasses.replace(TINY, **changes).build(*known)

    refused("marks no sentences", {}, (IDS.count, 0, None))
    refused("knows 29 tokens, the tokenizer has 31", {"pretrained": str(path)}, (31, 0, 30))
    refused("max_tokens is 15", {"pretrained": str(path), "max_tokens": 15})
    own = build().backbone.config.to_dict() | {"model_type": "bert"}
    refused("numbers 3", {"architecture": own, "max_sentences": 4})
    small = DistilBertConfig(vocab_size=30, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    DistilBertModel(small).save_pretrained(tmp_path / "distil")
    refused("cannot be loaded as BertModel", {"pretrained": str(tmp_path / "distil")})


def test_other_towers_take_marked_texts_and_tell_no_sentences_apart():
    ids, mask = texts()
    tower = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=14).build(IDS.count, 0, MARK)
    assert tower(ids, mask).sentence_MSD is None
    assert tower.max_sentences is None
    assert CORE_TEXT_TOWERS["tribert"] is TribertConfig
    assert not TINY.cache
