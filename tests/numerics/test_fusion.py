"""The objective `fusion` against literal loops: partners, pairs, texts, answers."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from transformers.loss.loss_utils import ForCausalLMLoss

from medvlp.data.batch import Batch, TokenIds
from medvlp.data.relations import Names
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses import objective as objective_module
from medvlp.losses.fusion.decoder import (
    DecoderConfig,
    TextDecoder,
    grid_places,
    next_token_losses,
)
from medvlp.losses.fusion.matching import barred_pairs, draw_pairs
from medvlp.losses.fusion.objective import FusionConfig
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache

NAN = math.nan
COUNT = 40


def encode(texts):
    """A letter a token, between begin (2) and end (3)."""
    rows = [[2, *(5 + ord(c) % 35 for c in text), 3] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, ids != 0


TOKENS = TokenIds(count=COUNT, mask=4, special=(0, 1, 2, 3, 4), begin=2, end=3, encode=encode)
SIZES = Sizes(image=6, text=8, embed=4, labels=("a", "b"), tokens=TOKENS)
DECODER = DecoderConfig(depth=2, width=12, heads=2, dropout=0.0, max_tokens=32)
WORDS = ("ab", "b", "abc", "d", "b", "ee", "f")
OWNER = (0, 0, 1, 2, 3, 4, 5)
PATIENTS = (0, 1, 1, 2, 3, 4)
LABELS = ((1, 0), (0, 0), (0, 1), (1, 0), (NAN, NAN), (NAN, NAN))


def batch(dtype=torch.float64, told=None):
    """Six samples, the first with two texts; "b" is told of two of them."""
    ids, mask = encode(WORDS)
    text = torch.zeros(6, 2, ids.shape[1], dtype=torch.long)
    present = torch.zeros(text.shape, dtype=torch.bool)
    seen = {}
    for m, b in enumerate(OWNER):
        n = seen[b] = seen.get(b, -1) + 1
        text[b, n], present[b, n] = ids[m], mask[m]
    return Batch(
        image=torch.zeros(6, 1, 1, 1),
        text_BNT=text,
        text_mask_BNT=present,
        level_BN=torch.zeros(6, 2, dtype=torch.long),
        labels_BL=torch.tensor(LABELS, dtype=dtype),
        told_BNQ=told,
        patient_B=torch.tensor(PATIENTS),
        sample=tuple("uvwxyz"),
    )


def encodings(data, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    count, texts, length = data.text_BNT.shape
    tokens = draw(count, 6, 6)
    image = ImageFeatures(
        pooled_BD=tokens.mean(1), tokens_BPD=tokens, grid=(2, 3), maps=(draw(count, 6, 2, 3),)
    )
    return Encodings(
        image=image,
        image_BE=F.normalize(draw(count, 4), dim=-1),
        patch_BPE=draw(count, 6, 4),
        text_BNE=F.normalize(draw(count, texts, 4), dim=-1),
        token_BNTE=draw(count, texts, length, 4),
        scale=torch.tensor(scale, dtype=dtype),
        bias=torch.tensor(0.0, dtype=dtype),
        see=None,
        read=None,
    )


def build(dtype=torch.float64, sizes=SIZES, **config):
    torch.manual_seed(0)
    return FusionConfig(decoder=DECODER, **config).build(sizes).to(dtype)


def flat(data):
    """Present texts as (sample, row of text) in the order of M."""
    return [tuple(at) for at in data.text_mask_BNT.any(2).nonzero().tolist()]


def words_of(data, b, n):
    return data.text_BNT[b, n][data.text_mask_BNT[b, n]].tolist()


# The decoder


def test_a_later_token_changes_nothing_before_it():
    torch.manual_seed(0)
    decoder = TextDecoder(DECODER, COUNT, 6).double().eval()
    memory = decoder.memory(torch.randn(1, 6, 6, dtype=torch.float64), (2, 3))
    ids = torch.tensor([[2, 7, 8, 9, 10]])
    first = decoder(ids, memory)
    for at in range(1, 5):
        other = ids.clone()
        other[0, at] = 30
        second = decoder(other, memory)
        assert torch.equal(second[0, :at], first[0, :at])
        assert not torch.allclose(second[0, at], first[0, at])


def test_both_ways_every_token_counts_and_padding_does_not():
    torch.manual_seed(0)
    decoder = TextDecoder(DECODER, COUNT, 6).double().eval()
    memory = decoder.memory(torch.randn(1, 6, 6, dtype=torch.float64), (2, 3))
    token = torch.randn(1, 5, 12, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False, False]])
    whole = decoder.both_ways(token, mask, memory)[0, 0]
    torch.testing.assert_close(
        whole, decoder.both_ways(token[:, :3], mask[:, :3], memory)[0, 0], rtol=1e-12, atol=1e-12
    )
    whole.sum().backward()
    assert (token.grad[0, :3].abs().sum(1) > 0).all()
    assert not token.grad[0, 3:].any()


@pytest.mark.parametrize("grid", [(2, 3), (2, 2, 3), (7,), (1, 1)])
def test_every_cell_has_its_own_place(grid):
    count = math.prod(grid)
    place = grid_places(grid, torch.zeros(1, count, 13))
    assert place.shape == (count, 13)
    assert len(torch.unique(place, dim=0)) == count


def test_without_a_grid_there_are_no_places():
    assert not grid_places((), torch.ones(2, 5, 12)).any()
    decoder = TextDecoder(DECODER, COUNT, 6)
    tokens = torch.randn(2, 5, 6)
    scattered = ImageFeatures(pooled_BD=tokens[:, 0], tokens_BPD=tokens, grid=(5,), maps=())
    assert torch.equal(decoder.look(scattered), decoder.memory(tokens, ()))


def test_next_token_losses_are_those_of_transformers():
    torch.manual_seed(1)
    decoder = TextDecoder(DECODER, COUNT, 6).double().eval()
    memory = decoder.memory(torch.randn(3, 6, 6, dtype=torch.float64), (2, 3))
    ids, mask = encode(["abcd", "b", "cd"])
    learnt = mask.clone()
    learnt[:, :2] = False
    labels = ids.masked_fill(~learnt, -100)
    expected = ForCausalLMLoss(decoder(ids, memory), labels, COUNT)
    found = next_token_losses(decoder, ids, learnt, memory)
    assert found.mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_hand_made_decoder_gives_a_hand_made_loss():
    class Hand(TextDecoder):
        def one_way(self, ids_BT, memory_BPW):
            # The next token is the third with probability 1/2, whatever went before.
            return torch.tensor([0.0, 0.0, math.log(2.0)]).expand(*ids_BT.shape, 3)

    hand = Hand(DecoderConfig(depth=1, width=3, heads=1, max_tokens=4), 3, 1)
    with torch.no_grad():
        hand.token.weight.copy_(torch.eye(3))
    ids = torch.tensor([[0, 2, 1]])
    learnt = torch.tensor([[False, True, True]])
    losses = next_token_losses(hand, ids, learnt, torch.zeros(1, 1, 3))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4)], rel=1e-6)


# Partners


def told_values(*rows):
    """(6,2,2): what the seven texts tell, -2 for an absent one."""
    told = torch.full((6, 2, 2), -2, dtype=torch.int8)
    for (b, n), row in zip(flat(batch()), rows, strict=True):
        told[b, n] = torch.tensor(row)
    return told


TOLD = told_values((1, -2), (-2, -2), (0, 1), (-2, 1), (1, -2), (-2, 1), (-2, -2))


def barred_loop(data):
    """Pair by pair, by the words of the docstring."""
    texts = flat(data)
    barred = torch.zeros(len(data.sample), len(texts), dtype=torch.bool)
    for b, (m, (owner, n)) in itertools.product(range(len(barred)), enumerate(texts)):
        own = [k for o, k in texts if o == b]
        labels, others = data.labels_BL[b], data.labels_BL[owner]
        same = all(x == y or (x != x and y != y) for x, y in zip(labels, others, strict=True))
        known = any(x == x for x in labels)
        alike = any(words_of(data, b, k) == words_of(data, owner, n) for k in own)
        if data.told_BNQ is not None:
            told = data.told_BNQ[owner, n].tolist()
            alike |= any(data.told_BNQ[b, k].tolist() == told and set(told) != {-2} for k in own)
        barred[b, m] = (
            owner == b or data.patient_B[b] == data.patient_B[owner] or alike or (same and known)
        )
    return barred


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


def pairs_loop(data, found, scale, seed):
    """The same draws, pair by pair: right ones, other images, other texts."""
    texts, barred = flat(data), barred_loop(data)
    image_BE = found.image_BE.detach()
    text_ME = found.text_BNE[data.text_mask_BNT.any(2)].detach()
    torch.manual_seed(seed)
    images_by_text = torch.rand(len(texts), len(data.sample), dtype=torch.float64)
    texts_by_text = torch.rand(len(texts), len(texts), dtype=torch.float64)

    def best(candidates, score):
        return max(candidates, key=score, default=None)

    def gumbel(uniform):
        return -math.log(-math.log(uniform))

    right = [(owner, m, True) for m, (owner, _) in enumerate(texts)]
    images, others = [], []
    for m, (owner, _) in enumerate(texts):

        def image_score(b, m=m):
            return float(scale * image_BE[b] @ text_ME[m]) + gumbel(images_by_text[m, b])

        def text_score(j, m=m, owner=owner):
            return float(scale * image_BE[owner] @ text_ME[j]) + gumbel(texts_by_text[m, j])

        b = best([b for b in range(len(data.sample)) if not barred[b, m]], image_score)
        j = best([j for j in range(len(texts)) if not barred[owner, j]], text_score)
        images += [] if b is None else [(b, m, False)]
        others += [] if j is None else [(owner, j, False)]
    return right + images + others


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
            assert right == (owner == b and right)
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


# The objective


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
    torch.rand(len(texts), len(texts) + len(data.sample), dtype=torch.float64)
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


def test_a_single_patient_gives_right_pairs_alone():
    data = batch()
    one = Batch(**{**data.__dict__, "patient_B": torch.zeros(6, dtype=torch.long)})
    pairs = drawn(0, data=one)
    assert pairs.right_K.all()
    assert len(pairs.right_K) == len(OWNER)


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
