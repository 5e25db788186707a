"""The objective `fusion` against a literal loop over pairs, texts and answers."""

import pytest
import torch
from paired import (
    COUNT,
    DECODER,
    NAN,
    SIZES,
    TOKENS,
    TOLD,
    WORDS,
    batch,
    encode,
    encodings,
    flat,
    pairs_loop,
    words_of,
)

from medvlp.data.batch import Batch, TokenIds
from medvlp.data.relations import Names
from medvlp.encoding import Sizes
from medvlp.errors import ConfigError
from medvlp.losses import objective as objective_module
from medvlp.losses.fusion.objective import FusionConfig
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache


def build(dtype=torch.float64, sizes=SIZES, **config):
    torch.manual_seed(0)
    return FusionConfig(decoder=DECODER, **config).build(sizes).to(dtype)


def literal(objective, found, data, seed):
    """Every pair, text and answer by itself, without padding."""
    decoder, terms = objective.decoder, {"matching": [], "writing": [], "answering": []}
    texts = flat(data)

    def memory(b):
        return decoder.memory(found.image.tokens_BPD[b : b + 1], (2, 3))

    pairs = pairs_loop(data, found, float(found.scale), seed)
    for b, m, right in pairs:
        owner, n = texts[m]
        length = int(data.text_mask_BNT[owner, n].sum())
        matcher = objective.matcher
        token = matcher.text_norm(matcher.text(found.token_BNTE[owner, n, :length]))
        token = torch.cat([matcher.first[None], token]) + decoder.place[: length + 1]
        hidden = decoder.layers(token[None], memory(b))
        chance = torch.sigmoid(matcher.head(hidden[0, 0]))[0]
        terms["matching"].append(-torch.log(chance if right else 1 - chance))

    def nll(ids, b, start):
        logits = decoder(torch.tensor([ids]), memory(b))[0]
        return [-logits[t - 1].log_softmax(0)[ids[t]] for t in range(start, len(ids))]

    for owner, n in texts:
        terms["writing"] += nll(words_of(data, owner, n), owner, 1)
    # Pairs are drawn first, then questions.
    torch.manual_seed(seed)
    torch.rand(len(texts), len(data.sample), dtype=torch.float64)
    torch.rand(len(texts), len(texts), dtype=torch.float64)
    draws = torch.rand(len(data.sample), 2)
    for b in range(len(data.sample)):
        known = [k for k in range(2) if data.labels_BL[b, k] in (0, 1)]
        if not known:
            continue
        k = max(known, key=lambda k: draws[b, k])
        question = encode([f"Is there {SIZES.labels[k]}?"])[0][0].tolist()
        answer = encode(["yes" if data.labels_BL[b, k] == 1 else "no"])[0][0].tolist()[1:]
        terms["answering"] += nll(question + answer, b, len(question))
    return {name: torch.stack(values).mean() for name, values in terms.items()}


def test_value_and_gradient_are_those_of_a_loop():
    data = batch(told=TOLD)
    objective = build(matching=0.5, writing=2.0, answering=0.25)
    found = encodings(data)
    inputs = [found.image.tokens_BPD, found.token_BNTE, *objective.parameters()]
    torch.manual_seed(3)
    loss = objective(found, data)
    terms = literal(objective, found, data, 3)
    expected = 0.5 * terms["matching"] + 2 * terms["writing"] + 0.25 * terms["answering"]
    # A mean's factor is kept in single precision.
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    for one, other in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_the_order_of_samples_plays_no_part():
    data, objective = batch(), build(writing=1.0, matching=1.0)
    # One text each, of two patients: there is nothing to draw.
    two = torch.tensor([2, 4])
    found = encodings(data)
    data = Batch(**{**data.__dict__, "stream": ("",) * 6, "failed": ((),) * 6})
    one_way = objective(found.rows(two), data.rows(two))
    other_way = objective(found.rows(two.flip(0)), data.rows(two.flip(0)))
    torch.testing.assert_close(one_way, other_way, rtol=1e-12, atol=0)


def test_long_texts_are_cut_and_do_not_end():
    data = batch()
    long = "a" * 60
    ids, mask = encode([long] * 6)
    data = Batch(**{**data.__dict__, "text_BNT": ids[:, None], "text_mask_BNT": mask[:, None]})
    objective = build(matching=1.0)
    loss = objective(encodings(data), data)
    assert loss.isfinite()
    writing = build(matching=0.0)
    cut = Batch(
        **{**data.__dict__, "text_BNT": ids[:, None, :32], "text_mask_BNT": mask[:, None, :32]}
    )
    torch.testing.assert_close(
        writing(encodings(data), data), writing(encodings(data), cut), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("weights", [{}, {"writing": 0.0}, {"matching": 0.0, "answering": 1.0}])
def test_where_nothing_is_known_the_loss_is_zero_and_has_a_gradient(weights):
    data = batch()
    empty = Batch(
        **{
            **data.__dict__,
            "text_BNT": torch.zeros_like(data.text_BNT),
            "text_mask_BNT": torch.zeros_like(data.text_mask_BNT),
            "labels_BL": torch.full_like(data.labels_BL, NAN),
        }
    )
    objective, found = build(**weights), encodings(empty)
    loss = objective(found, empty)
    loss.backward()
    assert loss.item() == 0
    assert found.image.tokens_BPD.grad is not None
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_the_mean_is_over_all_ranks_terms(monkeypatch):
    data, objective = batch(), build(matching=0.0)
    alone = objective(encodings(data), data)
    count = sum(len(word) + 1 for word in WORDS)
    monkeypatch.setattr(objective_module, "world", lambda: (0, 2))
    monkeypatch.setattr(objective_module, "global_sum", lambda value: value + 10)
    shared = objective(encodings(data), data)
    torch.testing.assert_close(shared, alone * 2 * count / (count + 10))


def test_questions_are_learnt_by_their_answers_alone():
    questions = build(answering=1.0).questions
    row, ids, learnt = questions.draw(torch.tensor([[NAN, 1.0], [NAN, -1.0], [0.0, NAN]]))
    assert row.tolist() == [0, 2]
    for k, (label, answer) in enumerate([("b", "yes"), ("a", "no")]):
        asked, told = (encode([text])[0][0].tolist() for text in (f"Is there {label}?", answer))
        whole = asked + told[1:]
        assert ids[k].tolist()[: len(whole)] == whole
        assert ids[k][learnt[k]].tolist() == told[1:]


def tower():
    torch.manual_seed(0)
    image = Vit2dConfig(size=16, patch=8, width=16, depth=1, heads=2).build(1)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, dropout=0.0).build(COUNT, 0)
    return TwoTower(TwoTowerConfig(embed=6), image, text)


def towers_batch():
    data = batch(torch.float32, told=TOLD)
    generator = torch.Generator().manual_seed(1)
    return Batch(**{**data.__dict__, "image": torch.randn(6, 1, 16, 16, generator=generator)})


@pytest.mark.parametrize(
    ("weights", "text"), [({"writing": 0.0}, True), ({"matching": 0.0}, False)]
)
def test_matching_trains_both_towers_and_writing_the_image_tower(weights, text):
    model = tower()
    sizes = model.sizes(Names(labels=("a", "b")), TOKENS)
    objective = build(torch.float32, sizes, **weights)
    objective(model(towers_batch()), towers_batch()).backward()
    reached = {
        name: sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        for name, part in (("image", model.image), ("text", model.text))
    }
    assert reached["image"] > 0
    assert (reached["text"] > 0) == text


def test_under_autocast_the_loss_is_nearly_the_same_and_in_single_precision():
    model, data = tower(), towers_batch()
    sizes = model.sizes(Names(labels=("a", "b")), TOKENS)
    objective = build(torch.float32, sizes, answering=1.0)
    torch.manual_seed(4)
    plain = objective(model(data), data)
    torch.manual_seed(4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(model(data), data)
    mixed.backward()
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(plain.item(), rel=0.02)


@pytest.mark.parametrize("size", [2, 4])
def test_micro_batches_of_the_towers_give_the_same_loss_and_gradient(size):
    model, data = tower(), towers_batch()
    sizes = model.sizes(Names(labels=("a", "b")), TOKENS)
    objectives = torch.nn.ModuleDict({"fusion": build(torch.float32, sizes, answering=1.0)})
    found = []
    for cached in (False, True):
        model.zero_grad()
        objectives.zero_grad()
        torch.manual_seed(4)
        if cached:
            loss = GradientCache(model, objectives, {"fusion": 1.0}, size)(
                data, torch.device("cpu")
            )["loss"]
        else:
            loss = objectives["fusion"](model(data), data)
        loss.backward()
        modules = torch.nn.ModuleList([model, objectives])
        named = {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}
        found.append((loss.detach(), named))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_built_is_told():
    bare = TokenIds(count=9, mask=None, special=())
    with pytest.raises(ConfigError, match="marks around a text"):
        FusionConfig().build(Sizes(image=1, text=1, embed=1, tokens=bare))
    loose = TokenIds(
        count=9, mask=None, special=(), begin=2, end=3,
        encode=lambda texts: (torch.tensor([[5, 3]]), torch.ones(1, 2, dtype=torch.bool)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="marks around a text"):
        FusionConfig().build(Sizes(image=1, text=1, embed=1, tokens=loose))
    with pytest.raises(ConfigError, match="the data has none"):
        FusionConfig(answering=1.0).build(Sizes(image=1, text=1, embed=1, tokens=TOKENS))
    with pytest.raises(ConfigError, match="longer than decoder"):
        build(sizes=Sizes(image=6, text=8, embed=4, labels=("a" * 40,), tokens=TOKENS), answering=1)
    with pytest.raises(ValueError, match="no weight"):
        FusionConfig(matching=0, writing=0)
