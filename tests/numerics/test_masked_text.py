import math

import pytest
import torch
import torch.nn.functional as F

from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Sizes, TextFeatures
from medvlp.errors import ConfigError
from medvlp.losses.masked_text import MaskedTextConfig, hide

TOKENS = TokenIds(count=50, mask=4, special=(0, 1, 2, 3, 4))
SIZES = Sizes(image=1, text=8, embed=4, tokens=TOKENS)


def texts(rows=200, length=40):
    torch.manual_seed(0)
    ids = torch.randint(5, 50, (rows, length))
    ids[:, 0], ids[:, -1] = 2, 3
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[::2, 30:] = False
    return ids.masked_fill(~mask, 0), mask


def test_hidden_tokens_are_words_at_the_papers_rates():
    ids, mask = texts()
    altered, hidden = hide(ids, mask, 0.15, TOKENS)
    words = mask & (ids > 4)
    assert not (hidden & ~words).any()
    assert torch.equal(altered[~hidden], ids[~hidden])
    assert hidden.any(1).all()
    assert hidden.sum() / words.sum() == pytest.approx(0.15, abs=0.02)
    masked = (altered[hidden] == 4).float().mean()
    kept = (altered[hidden] == ids[hidden]).float().mean()
    assert masked == pytest.approx(0.8, abs=0.04)
    assert kept == pytest.approx(0.1, abs=0.04)
    assert not torch.isin(altered[hidden], torch.tensor([0, 1, 2, 3])).any()


def test_a_text_of_one_word_still_hides_it_and_an_empty_one_hides_nothing():
    ids = torch.tensor([[2, 9, 3], [0, 0, 0]])
    mask = torch.tensor([[True] * 3, [False] * 3])
    for _ in range(5):
        _, hidden = hide(ids, mask, 0.01, TOKENS)
        assert hidden.tolist() == [[False, True, False], [False] * 3]


class Spy:
    """A text tower that remembers what it read."""

    def __init__(self):
        self.table = torch.nn.Embedding(50, 8)

    def __call__(self, ids, mask):
        self.ids = ids
        tokens = self.table(ids)
        return TextFeatures(pooled_MD=tokens.mean(1), tokens_MTD=tokens)


class Read:
    def __init__(self, tower):
        self.read = tower


def batch(ids, mask):
    return Batch(
        image=torch.zeros(len(ids), 1, 1, 1),
        text_BNT=ids[:, None],
        text_mask_BNT=mask[:, None],
        level_BN=torch.zeros(len(ids), 1, dtype=torch.long),
        labels_BL=torch.zeros(len(ids), 0),
        sample=tuple(map(str, range(len(ids)))),
    )


def test_loss_is_the_mean_cross_entropy_of_what_was_hidden():
    objective = MaskedTextConfig().build(SIZES)
    ids, mask = texts(rows=6, length=12)
    tower = Spy()
    torch.manual_seed(3)
    loss = objective(Read(tower), batch(ids, mask))
    torch.manual_seed(3)
    altered, hidden = hide(ids, mask, 0.15, TOKENS)
    assert torch.equal(tower.ids, altered)
    logits = objective.decoder(objective.transform(tower.table(altered)))
    terms = [
        -F.log_softmax(logits[m, t], 0)[ids[m, t]]
        for m in range(6)
        for t in range(12)
        if hidden[m, t]
    ]
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-6)
    loss.backward()
    assert tower.table.weight.grad.abs().sum() > 0


def test_a_fresh_head_knows_nothing():
    objective = MaskedTextConfig().build(SIZES)
    torch.nn.init.zeros_(objective.decoder.weight)
    torch.nn.init.zeros_(objective.decoder.bias)
    loss = objective(Read(Spy()), batch(*texts(rows=8)))
    assert loss.item() == pytest.approx(math.log(50), rel=1e-5)


def test_a_batch_without_words_gives_zero_and_a_gradient():
    objective = MaskedTextConfig().build(SIZES)
    tower = Spy()
    loss = objective(
        Read(tower), batch(torch.zeros(2, 3).long(), torch.zeros(2, 3, dtype=torch.bool))
    )
    loss.backward()
    assert loss.item() == 0
    assert tower.table.weight.grad is not None


def test_a_tokenizer_without_mask_is_refused():
    bare = Sizes(image=1, text=8, embed=4, tokens=TokenIds(count=9, mask=None, special=()))
    with pytest.raises(ConfigError, match="mask token"):
        MaskedTextConfig().build(bare)
