"""MeDSLIP's losses against literal loops, its edge cases, and what its gradient reaches."""

import dataclasses
import math

import pytest
import torch
from medslip_parts import (
    NAMES,
    SMALL,
    TOKENS,
    batch,
    leaves,
    loop_existence,
    loop_prototype,
    loop_relation,
    model,
    objective,
    relations,
)
from torch.utils._python_dispatch import TorchDispatchMode

from medvlp.config import validate
from medvlp.data.presence import PRESENT, UNCERTAIN, UNTOLD
from medvlp.encoding import Sizes
from medvlp.errors import ConfigError
from medvlp.losses.medslip.decoder import Stream, grid_positions
from medvlp.losses.medslip.objective import MedslipConfig
from medvlp.losses.medslip.terms import (
    draw_negatives,
    products,
    prototype_total,
    relation_total,
)
from medvlp.losses.told import strongest
from medvlp.models.image2d import ResNet2dConfig
from medvlp.train.gradient_cache import GradientCache


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
        label = strongest(relation, 2)
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
