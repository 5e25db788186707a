"""The objective `knowledge` against literal loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from medvlp.data.batch import Batch
from medvlp.data.relations import Names
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.knowledge import GraphAttention, KnowledgeConfig
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache

NAMES = ("pneumonia", "opacity", "fracture")
EDGES = (("pneumonia", "opacity"), ("opacity", "lung"), ("fracture", "bone"))
SIZES = Sizes(image=5, text=8, embed=4, observations=NAMES)
TOLD = torch.tensor(
    [[[1, -2, 0], [-2, -1, 0]], [[-2, -2, -2], [0, 1, -2]], [[-2] * 3, [-2] * 3]], dtype=torch.int8
)
RELATIONS = torch.tensor(
    [[[1, -2, -2], [0, 0, -2]], [[-2, -2, -1], [-2, -2, 1]], [[-2] * 3, [-2, -2, -1]]],
    dtype=torch.int8,
)
IMAGE = [[1, -1, 0], [0, 1, 1], [-2, -2, -1]]
"""What is told of each sample at all."""


def batch(told=TOLD, relations=RELATIONS):
    count = len(told)
    return Batch(
        image=torch.zeros(count, 1, 1, 1),
        text_BNT=torch.ones(count, 2, 3, dtype=torch.long),
        text_mask_BNT=torch.ones(count, 2, 3, dtype=torch.bool),
        level_BN=torch.zeros(count, 2, dtype=torch.long),
        labels_BL=torch.zeros(count, 0),
        told_BNQ=told,
        relations_BAQ=relations,
        sample=tuple(map(str, range(count))),
        stream=("",) * count,
        failed=((),) * count,
    )


def encodings(count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    image = ImageFeatures(
        pooled_BD=draw(count, 5), tokens_BPD=draw(count, 2, 5), grid=(1, 2), maps=()
    )
    return Encodings(
        image=image, image_BE=draw(count, 4), patch_BPE=draw(count, 2, 4),
        text_BNE=draw(count, 2, 4), token_BNTE=draw(count, 2, 3, 4),
        scale=torch.tensor(1.0), bias=torch.tensor(0.0), see=None, read=None,
    )  # fmt: skip


def build(sizes=SIZES, dtype=torch.float64, **config):
    torch.manual_seed(0)
    return KnowledgeConfig(width=8, heads=2, edges=EDGES, **config).build(sizes).to(dtype)


def graph_loop(layer, nodes, edges):
    """Node by node and head by head, after the paper's equations."""
    heads, size = layer.own_HC.shape
    value = [(layer.value.weight @ node).view(heads, size) for node in nodes]
    found = []
    for i in range(len(nodes)):
        near = [j for j in range(len(nodes)) if j == i or {i, j} in edges]
        parts = []
        for h in range(heads):
            logit = [
                F.leaky_relu(layer.own_HC[h] @ value[i][h] + layer.other_HC[h] @ value[j][h], 0.2)
                for j in near
            ]
            weight = torch.stack(logit).softmax(0)
            parts.append(sum(w * value[j][h] for w, j in zip(weight, near, strict=True)))
        found.append(nodes[i] + F.elu(torch.cat(parts)))
    return found


def literal(objective, found):
    numbers = {name: k for k, name in enumerate((*NAMES, "bone", "lung"))}
    edges = [{numbers[a], numbers[b]} for a, b in EDGES]
    nodes = list(objective.entities.start_KW)
    for layer in objective.entities.layers:
        nodes = graph_loop(layer, nodes, edges)
    terms = ([], [])

    def term(side, seen, q, value):
        if value in (0, 1):
            chance = torch.sigmoid(seen @ nodes[q] / math.sqrt(8) + objective.bias_2Q[side, q])
            terms[side].append(-torch.log(chance if value == 1 else 1 - chance))

    for b in range(3):
        image = objective.image(found.image.pooled_BD[b])
        for q in range(3):
            term(0, image, q, IMAGE[b][q])
            for n in range(2):
                term(1, objective.text(found.text_BNE[b, n]), q, int(TOLD[b, n, q]))
    return sum(torch.stack(side).mean() for side in terms)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_value_and_gradient_are_those_of_a_loop(depth):
    objective, found = build(depth=depth), encodings()
    loss, expected = objective(found, batch()), literal(objective, found)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    inputs = [found.image.pooled_BD, found.text_BNE, *objective.parameters()]
    for one, other in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_without_weights_every_known_observation_costs_log_2():
    objective = build()
    with torch.no_grad():
        objective.image.weight.zero_()
        objective.image.bias.zero_()
        objective.text.weight.zero_()
        objective.text.bias.zero_()
    assert objective(encodings(), batch()).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_the_order_of_samples_and_texts_plays_no_part():
    objective, found, data = build(), encodings(), batch()
    first = objective(found, data)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(objective(found.rows(order), data.rows(order)), first)
    flipped = Encodings(**{**found.__dict__, "text_BNE": found.text_BNE.flip(1)})
    torch.testing.assert_close(objective(flipped, batch(TOLD.flip(1))), first)


def test_nothing_known_gives_zero_and_a_gradient():
    objective, found = build(), encodings()
    unknown = torch.full_like(TOLD, -2)
    uncertain = torch.full_like(RELATIONS, -1)
    loss = objective(found, batch(unknown, uncertain))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_an_unknown_observation_gives_no_gradient():
    objective, found = build(), encodings()
    told, relations = TOLD.clone(), RELATIONS.clone()
    told[..., 2], relations[..., 2] = -2, -1
    objective(found, batch(told, relations)).backward()
    assert not objective.bias_2Q.grad[:, 2].any()
    assert objective.bias_2Q.grad[:, :2].all()


def test_an_observation_takes_in_what_it_is_tied_to_and_nothing_else():
    entities = build(depth=1).entities
    entities()[1].sum().backward()
    reached = entities.start_KW.grad.abs().sum(1) > 0
    # pneumonia, opacity, fracture, bone, lung
    assert reached.tolist() == [True, True, False, False, True]
    deeper = build(depth=2).entities
    deeper()[0].sum().backward()
    assert (deeper.start_KW.grad.abs().sum(1) > 0).tolist() == [True, True, False, False, True]


def test_weights_of_neighbours_sum_to_one():
    layer = GraphAttention(4, 2)
    near = torch.ones(3, 3, dtype=torch.bool)
    same = torch.ones(3, 4)
    torch.testing.assert_close(layer(same, near), same + F.elu(layer.value(same)))


def test_micro_batches_give_the_same_loss_and_gradient():
    torch.manual_seed(0)
    image = Vit2dConfig(size=16, patch=8, width=16, depth=1, heads=2).build(1)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, dropout=0.0).build(20, 0)
    model = TwoTower(TwoTowerConfig(embed=6), image, text)
    sizes = model.sizes(Names(observations=NAMES))
    objectives = torch.nn.ModuleDict({"knowledge": build(sizes, torch.float32)})
    data = Batch(**{**batch().__dict__, "image": torch.randn(3, 1, 16, 16)})
    found = []
    for cached in (False, True):
        model.zero_grad()
        objectives.zero_grad()
        if cached:
            loss = GradientCache(model, objectives, {"knowledge": 1.0}, 2)(
                data, torch.device("cpu")
            )["loss"]
        else:
            loss = objectives["knowledge"](model(data), data)
        loss.backward()
        modules = torch.nn.ModuleList([model, objectives])
        named = {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}
        found.append((loss.detach(), named))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert any(name.startswith("0.image") for name in found[0][1])
    assert any(name.startswith("0.text") for name in found[0][1])


def test_what_cannot_be_built_is_told():
    with pytest.raises(ConfigError, match="no observations"):
        KnowledgeConfig().build(Sizes(image=1, text=1, embed=1))
    with pytest.raises(ConfigError, match="no edge holds an observation"):
        KnowledgeConfig(edges=(("heart", "chest"),)).build(SIZES)
    with pytest.raises(ValueError, match="no multiple"):
        KnowledgeConfig(width=10, heads=4)
    with pytest.raises(ValueError, match="no relations"):
        build().targets(Batch(**{**batch().__dict__, "told_BNQ": None}))
