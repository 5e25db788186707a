"""MeDSLIP's losses against literal loops, its edge cases, and what its gradient reaches."""

import dataclasses
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medvlp.config import validate
from medvlp.data.batch import Batch, TokenIds
from medvlp.data.relations import ABSENT, PRESENT, UNCERTAIN, UNTOLD, Names
from medvlp.encoding import Sizes
from medvlp.errors import ConfigError
from medvlp.losses.medslip.decoder import Stream, grid_positions
from medvlp.losses.medslip.objective import MedslipConfig
from medvlp.losses.medslip.terms import (
    draw_negatives,
    existence_total,
    products,
    prototype_total,
    relation_total,
    told_anywhere,
)
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache

NAMES = Names(
    anatomies=("heart", "left lung", "right lung"), observations=("edema", "big_mass", "clip", "x")
)
SMALL = {"width": 8, "depth": 2, "heads": 2, "hidden": 12, "dropout": 0.0, "count": 2}


def encode(texts):
    """Made-up ids: the length of each word, and of the text."""
    rows = [[min(5 + len(word), 39) for word in text.split()] + [5 + len(text)] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, ids > 0


TOKENS = TokenIds(count=60, mask=4, special=(0, 1, 2, 3, 4), encode=encode)


def relations(count=6, anatomies=3, observations=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, anatomies, observations)
    found = torch.randint(-2, 2, shape, generator=generator).to(torch.int8)
    found[1] = UNTOLD
    found[2, :, 1] = PRESENT
    return found


def model(dropout=0.0, dtype=torch.float64, image=None):
    torch.manual_seed(0)
    tower = image or Vit2dConfig(size=16, patch=8, width=12, depth=1, heads=2)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=12, dropout=dropout)
    return TwoTower(TwoTowerConfig(embed=6), tower.build(1), text.build(60, 0)).to(dtype)


def objective(two_tower, dtype=torch.float64, **options):
    torch.manual_seed(1)
    config = MedslipConfig(**SMALL | options)
    return config.build(two_tower.sizes(NAMES, TOKENS)).to(dtype)


def batch(told, dtype=torch.float64):
    count = len(told)
    torch.manual_seed(2)
    return Batch(
        image=torch.randn(count, 1, 16, 16, dtype=dtype),
        text_BNT=torch.randint(5, 40, (count, 1, 6)),
        text_mask_BNT=torch.ones(count, 1, 6, dtype=torch.bool),
        level_BN=torch.zeros(count, 1, dtype=torch.long),
        labels_BL=torch.zeros(count, 0, dtype=dtype),
        sample=tuple(map(str, range(count))),
        relations_BAQ=told,
    )


# The three sums, literally.


def loop_existence(logits, told):
    total = logits.new_zeros(())
    for b in range(told.shape[0]):
        for m in range(told.shape[1]):
            if told[b, m] in (0, 1):
                exps = [logits[b, m, k].exp() for k in range(2)]
                total = total - (exps[int(told[b, m])] / (exps[0] + exps[1])).log()
    return total


def loop_prototype(found, weight, bias, book, told, index, real):
    total = found.new_zeros(())
    for b in range(told.shape[0]):
        for m in range(told.shape[1]):
            present = [n for n in range(told.shape[2]) if told[b, m, n] == 1]
            chosen = [int(n) for n, ok in zip(index[b, m], real[b, m], strict=True) if ok]
            if not present or not chosen:
                continue
            z = weight @ found[b, m] + bias
            positive = sum(book[n] for n in present) / len(present)
            scores = [positive @ z, *(book[n] @ z for n in chosen)]
            total = total - (scores[0].exp() / sum(s.exp() for s in scores)).log()
    return total


def loop_relation(anatomy, observation, told):
    total = anatomy.new_zeros(())
    for b in range(told.shape[0]):
        for a in range(told.shape[1]):
            for q in range(told.shape[2]):
                p = torch.sigmoid(anatomy[b, a] @ observation[b, q])
                if told[b, a, q] == 1:
                    total = total - p.log()
                elif told[b, a, q] == 0:
                    total = total - (1 - p).log()
    return total


def leaves(*shapes):
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).mul_(0.5).requires_grad_()
        for shape in shapes
    ]


def equal(found, expected, inputs):
    torch.testing.assert_close(found, expected)
    assert expected.abs() > 0
    for one, other in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other)
        assert other.abs().sum() > 0


def test_existence_equals_a_loop():
    (logits,) = leaves((6, 4, 2))
    told = told_anywhere(relations().mT)
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
    assert told_anywhere(told[None]).tolist() == [[1, -1, 0, -2, 1]]


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


def test_the_objective_is_the_weighted_sum_of_three_means():
    two_tower, told = model(), relations()
    weights = {"existence": 0.5, "prototype": 2.0, "relation": 3.0}
    medslip, data = objective(two_tower, **weights), batch(told)
    encodings = two_tower(data)
    torch.manual_seed(3)
    value = medslip(encodings, data)
    torch.manual_seed(3)
    drawn, counts = medslip.targets(data)
    found = medslip._found(encodings.image, medslip._books())
    books = medslip._books()
    means = [value.new_zeros(()) for _ in range(3)]
    terms = [0, 0]
    for i, (stream, relation) in enumerate(
        ((medslip.anatomy, told), (medslip.observation, told.mT))
    ):
        label = told_anywhere(relation)
        means[0] = means[0] + loop_existence(stream.exist(found[i]), label)
        terms[0] += int((label >= 0).sum())
        index, real = drawn[2 * i : 2 * i + 2]
        head = stream.prototype
        means[1] = means[1] + loop_prototype(
            found[i], head.weight, head.bias, books[1 - i], relation, index, real
        )
        terms[1] += int(((relation == 1).any(2) & (real.sum(2) > 0)).sum())
    means[2] = loop_relation(*found, told)
    assert counts.tolist() == [*terms, int((told >= 0).sum())]
    expected = sum(w * mean / n for w, mean, n in zip(weights.values(), means, counts, strict=True))
    torch.testing.assert_close(value, expected)
    # Whatever a logit of two is, the score is their difference.
    torch.testing.assert_close(
        medslip.scores(encodings.image).double(),
        medslip.observation.exist(found[1]).diff(dim=-1)[..., 0], rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_samples_may_stand_in_any_order():
    two_tower, data = model(), batch(relations())
    medslip = objective(two_tower, negatives="unmentioned")
    torch.manual_seed(3)
    drawn, count = medslip.targets(data)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    one = medslip.total(two_tower(data), data, drawn)
    turned = dataclasses.replace(
        data, image=data.image[order], relations_BAQ=data.relations_BAQ[order]
    )
    other = medslip.total(two_tower(turned), turned, tuple(t[order] for t in drawn))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(medslip.targets(turned)[1][[0, 2]], count[[0, 2]])
    halves = [slice(0, 2), slice(2, 6)]
    parts = [
        medslip.total(two_tower(data.part(h)), data.part(h), tuple(t[h] for t in drawn))
        for h in halves
    ]
    torch.testing.assert_close(sum(parts), one)


@pytest.mark.parametrize("value", [UNTOLD, UNCERTAIN, PRESENT])
def test_a_batch_of_which_nothing_is_known_costs_nothing(value):
    """All present: there is nothing to tell a prototype from, but existence and relations count."""
    two_tower = model()
    medslip = objective(two_tower)
    data = batch(torch.full((3, 3, 4), value, dtype=torch.int8))
    before = data.relations_BAQ.clone()
    loss = medslip(two_tower(data), data)
    loss.backward()
    grads = [w.grad for w in medslip.parameters() if w.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    if value == PRESENT:
        assert loss > 0
        assert medslip.targets(data)[1][1] == 0
    else:
        assert loss.item() == 0
        assert all(grad.abs().sum() == 0 for grad in grads)
    torch.testing.assert_close(data.relations_BAQ, before)


class Largest(TorchDispatchMode):
    """The most values that any operation gave back."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return out


def test_no_tensor_is_as_large_as_a_vector_for_every_relation():
    told = relations(16, 51, 75)
    inputs = leaves((16, 51, 32), (96, 32), (96,), (75, 96))
    with Largest() as largest:
        drawn = draw_negatives(told, 7, unmentioned=True)
        loss = prototype_total(*inputs, told, drawn)
        (loss + relation_total(products(inputs[0], inputs[0][:, :1]), told[:, :, :1])).backward()
    # Not even as large as a prototype for every query.
    assert largest.values <= 16 * 51 * 75 < 16 * 51 * 96


def gradients(medslip, two_tower):
    modules = {"objective": medslip, "image": two_tower.image, "text": two_tower.text}
    return {
        f"{part}.{name}": weight.grad
        for part, module in modules.items()
        for name, weight in module.named_parameters()
        if weight.grad is not None
    }


@pytest.mark.parametrize("learn", [False, True])
def test_the_gradient_reaches_everything_but_a_text_tower_that_shall_not_learn(learn):
    two_tower = model()
    medslip, data = objective(two_tower, learn_text=learn), batch(relations())
    medslip(two_tower(data), data).backward()
    reached = {name for name, grad in gradients(medslip, two_tower).items() if grad.abs().sum() > 0}
    own = {f"objective.{name}" for name, _ in medslip.named_parameters()}
    assert own <= reached
    assert any(name.startswith("image.") for name in reached)
    assert any(name.startswith("text.") for name in reached) == learn


def test_two_batches_of_a_step_share_one_backward_pass():
    two_tower = model()
    medslip = objective(two_tower)

    def value(seed):
        told = batch(relations(seed=seed))
        return medslip(two_tower(told), told)

    def grad(losses):
        medslip.zero_grad()
        torch.stack([losses(0), losses(1)]).sum().backward()
        return [w.grad.clone() for w in medslip.parameters()]

    def apart():
        medslip.zero_grad()
        for seed in (0, 1):
            torch.manual_seed(seed)
            value(seed).backward()
        return [w.grad.clone() for w in medslip.parameters()]

    def seeded(seed):
        torch.manual_seed(seed)
        return value(seed)

    for one, other in zip(grad(seeded), apart(), strict=True):
        torch.testing.assert_close(one, other)


def test_learned_queries_need_no_words_and_learn():
    two_tower = model()
    torch.manual_seed(1)
    sizes = dataclasses.replace(two_tower.sizes(NAMES), tokens=None)
    with pytest.raises(ConfigError, match="no tokenizer to ask with"):
        MedslipConfig(**SMALL).build(sizes)
    medslip = MedslipConfig(**SMALL, queries="learned").build(sizes).double()
    data = batch(relations())
    medslip(two_tower(data), data).backward()
    assert (medslip.book.weight_MD.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("learn", [False, True])
def test_micro_batches_give_the_plain_loss_and_gradient(size, learn):
    two_tower, data = model(), batch(relations())
    medslip = objective(two_tower, learn_text=learn, negatives="unmentioned", position="sine")
    torch.manual_seed(3)
    value = medslip(two_tower(data), data)
    (2.0 * value).backward()
    expected = {n: g.clone() for n, g in gradients(medslip, two_tower).items()}
    medslip.zero_grad()
    two_tower.zero_grad()
    torch.manual_seed(3)
    cache = GradientCache(two_tower, {"medslip": medslip}, {"medslip": 2.0}, size)
    found = cache(data, torch.device("cpu"))
    found.pop("loss").backward()
    torch.testing.assert_close(found["medslip"], value.detach())
    grads = gradients(medslip, two_tower)
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad)


class Counting(torch.nn.Module):
    """A text tower that counts how often it reads."""

    def __init__(self, tower):
        super().__init__()
        self.tower, self.times = tower, 0

    def forward(self, ids, mask):
        assert not self.training
        self.times += 1
        return self.tower(ids, mask)


def test_the_book_is_read_once_a_batch_without_dropout_and_once_in_all_if_frozen():
    two_tower, data = model(dropout=0.5), batch(relations())
    medslip = objective(two_tower)
    reader = Counting(two_tower.text).train()
    encodings = dataclasses.replace(two_tower(data), read=reader)
    drawn, _ = medslip.targets(data)
    for _ in range(3):
        medslip.total(encodings, data, drawn)
    assert reader.times == 1
    assert reader.training
    assert two_tower.text.training
    with torch.no_grad():
        two_tower.text.eval()
        plain = two_tower.text(medslip.book.ids_MT, medslip.book.mask_MT).pooled_MD
    torch.testing.assert_close(medslip.book.read_MD, plain)
    medslip(encodings, data)
    assert reader.times == 2
    reader.requires_grad_(False)
    medslip(encodings, data)
    assert reader.times == 2
    # At the end, the book is what the tower is then.
    with torch.no_grad():
        next(two_tower.text.parameters()).add_(1.0)
    reader.requires_grad_(True)
    medslip.settle(reader)
    assert reader.times == 3
    assert not torch.equal(medslip.book.read_MD, plain)


def test_queries_are_worded_by_template_or_in_full():
    config = MedslipConfig(wordings={"clip": "A surgical clip is in place."})
    assert config.texts(("big_mass", "clip"), config.observation_text) == [
        "There is big mass.", "A surgical clip is in place.",
    ]  # fmt: skip


def test_a_stream_is_what_the_mask_leaves_of_a_patch():
    two_tower = model()
    patch = torch.randn(2, 4, 12, dtype=torch.float64)
    for gate, low, high in (("none", -math.inf, math.inf), ("sigmoid", 0.0, 1.0)):
        medslip = objective(two_tower, gate=gate)
        anatomy, observed = medslip._streams(patch)
        torch.testing.assert_close(anatomy + observed, patch)
        share = observed / patch
        assert (share >= low).all()
        assert (share <= high).all()
        raw = medslip.mask(patch)
        torch.testing.assert_close(share, raw.sigmoid() if gate == "sigmoid" else raw)


def test_looks_are_the_mean_attention_of_the_layers():
    torch.manual_seed(0)
    stream = Stream(tower=6, book=5, width=8, depth=3, heads=2, hidden=9, dropout=0.1).double()
    patch, query = torch.randn(2, 4, 6).double(), torch.randn(3, 8).double()
    seen = []
    for layer in stream.layers:
        layer.cross.register_forward_hook(lambda *call: seen.append(call[2][1]))
    stream.eval()
    looks = stream.looks(patch, query, None)
    torch.testing.assert_close(looks, torch.stack(seen).mean(0))
    torch.testing.assert_close(looks.sum(2), torch.ones(2, 3).double())
    # A pass that does not look gives the same.
    asked = stream(patch, query, None)
    torch.testing.assert_close(asked, stream._decode(patch, query, None, look=True)[0])


@pytest.mark.parametrize("grid", [(2, 3), (2, 3, 2)])
def test_every_place_has_its_own_waves_on_flat_and_deep_grids(grid):
    waves = grid_positions(grid, 26, torch.zeros((), dtype=torch.float64))
    assert waves.shape == (math.prod(grid), 26)
    assert len({tuple(row) for row in waves.tolist()}) == len(waves)
    row = waves[grid[1] * (grid[2] if len(grid) == 3 else 1)]
    # The first axis comes first: there the second row of the grid is one step from the first.
    assert row[0].item() == pytest.approx(math.sin(1))


def test_without_places_a_decoder_sees_patches_in_any_order():
    two_tower = model()
    features = two_tower.image(torch.randn(2, 1, 16, 16, dtype=torch.float64))
    turned = dataclasses.replace(features, tokens_BPD=features.tokens_BPD.flip(1))
    for position, same in (("none", True), ("sine", False)):
        medslip = objective(two_tower, position=position).eval()
        medslip.settle(two_tower.text)
        close = torch.allclose(medslip.scores(features), medslip.scores(turned), atol=1e-6)
        assert close == same
        places = medslip.places(features)
        assert places.shape == (2, 4, 4)
        assert torch.allclose(places, medslip.places(turned).flip(2), atol=1e-6) == same
        assert medslip.relation_logits(features).shape == (2, 3, 4)
    with pytest.raises(ConfigError, match="under patch dropout"):
        medslip.scores(dataclasses.replace(features, maps=()))


def test_a_convolutional_tower_will_do():
    image = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
    two_tower, data = model(image=image, dtype=torch.float32), batch(relations(), torch.float32)
    loss = objective(two_tower, torch.float32)(two_tower(data), data)
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (Sizes(image=4, text=4, embed=4), "the data has no relations"),
        (
            Sizes(image=4, text=4, embed=4, anatomies=NAMES.anatomies,
                  observations=NAMES.observations, tokens=TOKENS, max_tokens=6),
            "'It is located at left lung.' has 7 tokens, the text tower takes 6",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(sizes, words):
    with pytest.raises(ConfigError, match=words):
        MedslipConfig(**SMALL).build(sizes)


@pytest.mark.parametrize(
    "values", [{"width": 9, "heads": 2}, {"anatomy_text": "somewhere"}, {"count": 0}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError):
        validate(MedslipConfig, values, "objectives")
