"""The decoder: what it may look at, and that its search finds what an exhaustive one finds."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medvlp.errors import ConfigError
from medvlp.evaluate.heads.decoder import passage_losses, write
from medvlp.evaluate.heads.learning import fit, mean_loss
from medvlp.evaluate.heads.search import SearchConfig
from medvlp.evaluate.heads.visual import Visual, pooled
from medvlp.losses.fusion.decoder import DecoderConfig, TextDecoder
from medvlp.models.writing import Passage

CONFIG = DecoderConfig(depth=1, width=16, heads=2, dropout=0.0, max_tokens=5)
END = 1


def decoder(config=CONFIG, vocabulary=5, seed=0):
    torch.manual_seed(seed)
    made = TextDecoder(config, vocabulary, 4, 3).eval()
    with torch.no_grad():
        made.token.weight.mul_(40)  # so that an untrained decoder has preferences
    return made


def visual(count=2):
    return Visual(torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(1)))


def losses(model, batch):
    return passage_losses(model, visual(), batch)


def log_likelihood(model, seen, ids):
    logits = model(torch.tensor([ids[:-1]]), model.memory(seen, ()))
    chances = F.log_softmax(logits, -1)[0]
    return [chances[at, token].item() for at, token in enumerate(ids[1:])]


def test_a_token_sees_what_is_before_it_and_nothing_after():
    model, ids = decoder(), torch.tensor([[0, 2, 3, 4]])
    here, there = (model.memory(visual().tokens([i]), ()) for i in range(2))
    whole, part = model(ids, here), model(ids[:, :2], here)
    assert torch.allclose(whole[:, :2], part, atol=1e-6)
    assert not torch.allclose(whole, model(ids, there), atol=1e-3)


def test_greedy_takes_the_likeliest_token_each_time():
    for seed in range(10):
        model = decoder(seed=seed)
        seen = model.memory(visual().tokens([1]), ())
        ids = [0]
        while len(ids) < CONFIG.max_tokens and END not in ids:
            ids.append(int(model(torch.tensor([ids]), seen)[0, -1].argmax()))
        expected = ids[1 : ids.index(END)] if END in ids else ids[1:]
        assert write(model, visual(), [Passage(image=1, ids=(0,))], end=END) == [expected]


def test_a_wide_beam_finds_the_best_of_all_texts():
    for seed in range(5):
        model = decoder(seed=seed)
        seen = visual().tokens([0])
        best, found = -1e9, None
        for length in range(CONFIG.max_tokens):
            for words in product([0, 2, 3, 4], repeat=length):
                ended = length < CONFIG.max_tokens - 1
                ids = [0, *words, END] if ended else [0, *words]
                likelihood = log_likelihood(model, seen, ids)
                mean = sum(likelihood) / len(likelihood)
                if mean > best:
                    best, found = mean, list(words)
        wide = write(model, visual(), [Passage(image=0, ids=(0,))], end=END, beams=600)
        assert wide == [found]


def test_texts_do_not_depend_on_what_is_written_beside_them():
    model = decoder()
    prompts = [Passage(image=0, ids=(0,)), Passage(image=1, ids=(0, 3)), Passage(image=1, ids=(0,))]
    together = write(model, visual(), prompts, end=END, beams=2)
    alone = [write(model, visual(), [one], end=END, beams=2)[0] for one in prompts]
    assert together == alone


def test_forbidden_tokens_are_never_written():
    prompts = [Passage(image=i, ids=(0,)) for i in range(2)]
    for seed in range(10):
        for ids in write(decoder(seed=seed), visual(), prompts, end=END, forbidden=(0, 2)):
            assert not {0, 2} & set(ids)


def test_a_prefix_is_not_learnt():
    model = decoder()
    one = mean_loss(model, losses, [Passage(image=0, ids=(0, 2, 3, END), prefix=3)], 4)
    expected = -log_likelihood(model, visual().tokens([0]), [0, 2, 3, END])[-1]
    assert one == pytest.approx(expected, abs=1e-5)


def test_the_weights_of_the_best_validation_loss_are_kept():
    learnt = [Passage(image=0, ids=(0, 2, END)), Passage(image=1, ids=(0, 3, END))]
    # Validation says the opposite, so what is best comes early.
    valid = [Passage(image=0, ids=(0, 3, END)), Passage(image=1, ids=(0, 2, END))]
    config = SearchConfig(rates=(3e-3,), steps=60, batch_size=2, checks=60, patience=60)
    found = fit(decoder, visual(), losses, learnt, valid, config, seed=0, label="test")
    best = found.trials[found.chosen].score
    assert mean_loss(found.best, losses, valid, 2) == pytest.approx(-best)
    assert mean_loss(found.best, losses, learnt, 2) > 0.05


def test_the_rate_that_validation_prefers_is_chosen():
    cases = [Passage(image=i, ids=(0, 2 + i, END)) for i in range(2)]
    config = SearchConfig(rates=(1e-7, 3e-3), steps=30, batch_size=2)
    found = fit(decoder, visual(), losses, cases, cases, config, seed=0, label="test")
    assert found.chosen == 1
    assert found.trials[1].score > found.trials[0].score


def test_a_search_in_which_all_diverge_is_told():
    cases = [Passage(image=i, ids=(0, 2 + i, END)) for i in range(2)]

    def lost(model, batch):
        # The training loss stays finite, the validation loss does not.
        return losses(model, batch) + (0.0 if model.training else torch.inf)

    config = SearchConfig(rates=(1e-3,), steps=2, batch_size=2)
    with pytest.raises(ConfigError, match="own: no trial gave a validation score"):
        fit(decoder, visual(), lost, cases, cases, config, seed=0, label="own")


def test_training_repeats_with_its_seed_and_leaves_the_global_generator_alone():
    cases = [Passage(image=i, ids=(0, 2 + i, END)) for i in range(2)]
    config = DecoderConfig(depth=1, width=16, heads=2, dropout=0.2, max_tokens=5)
    budget = SearchConfig(rates=(5e-4,), steps=5, batch_size=2, checks=1)
    weights = []
    for _ in range(2):
        torch.manual_seed(9)

        def make():
            return TextDecoder(config, 5, 4, 3)

        found = fit(make, visual(), losses, cases, cases, budget, seed=4, label="test")
        after = torch.rand(1)
        torch.manual_seed(9)
        assert torch.equal(after, torch.rand(1))
        weights.append(nn.utils.parameters_to_vector(found.best.parameters()))
    assert torch.equal(*weights)


def test_neighbouring_tokens_are_averaged_down_to_the_limit():
    token_BPD = torch.arange(8.0).view(1, 8, 1)
    assert pooled(token_BPD, 4).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert pooled(token_BPD, 8) is token_BPD


def test_nothing_can_be_seen_of_a_blank_image():
    blank = visual().blank()
    assert blank.tokens([0, 7]).shape == (2, 3, 4)
    assert not blank.tokens([0, 7]).any()
