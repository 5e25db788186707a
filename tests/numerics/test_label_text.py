"""The head of label prototypes (DLILP): masked cross-entropy, learned and read prototypes."""

import dataclasses
import math

import pytest
import torch
from encoded import EMBED, SIZES, WIDTH, batch, encodings

from medvlp.data.batch import TokenIds
from medvlp.encoding import Sizes, TextFeatures
from medvlp.errors import ConfigError
from medvlp.losses.label_text import LabelTextConfig

NAN = math.nan
LABELS = [[1.0, 0.0, NAN], [NAN, NAN, NAN], [-1.0, 1.0, NAN], [0.0, NAN, NAN]]
NAMED = dataclasses.replace(
    SIZES,
    labels=("a", "pleural_effusion", "c"),
    tokens=TokenIds(
        count=20, mask=3, special=(0,),
        encode=lambda texts: (
            torch.tensor([[len(text), 1] for text in texts]),
            torch.ones(len(texts), 2, dtype=torch.bool),
        ),
    ),
)  # fmt: skip


def objective(config, sizes=SIZES):
    torch.manual_seed(0)
    return config.build(sizes).double()


def tower(weight):
    """A text tower whose vector for a text is one row of `weight` by the text's length."""

    def read(ids_MT, mask_MT):
        pooled = weight[ids_MT[:, 0]]
        return TextFeatures(pooled_MD=pooled, tokens_MTD=pooled[:, None])

    return read


def literal_loss(head, one, labels, prototypes, uncertain):
    terms = []
    for features, row in zip(one.image.pooled_BD, labels, strict=True):
        image = head.projection.weight @ features
        known = []
        for value, prototype in zip(row, prototypes, strict=True):
            if math.isnan(value) or (value == -1 and uncertain == "ignore"):
                continue
            target = {"positive": 1.0, "negative": 0.0}.get(uncertain, 0.0)
            target = target if value == -1 else value
            cosine = (image * prototype).sum() / (image.norm() * prototype.norm())
            p = torch.sigmoid(head.log_scale.exp() * cosine)
            known.append(-target * p.log() - (1 - target) * (1 - p).log())
        if known:
            terms.append(sum(known) / (len(known) + 1e-3))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("uncertain", ["ignore", "positive", "negative"])
def test_learned_prototypes_equal_literal_loops(uncertain):
    head = objective(LabelTextConfig(uncertain=uncertain))
    one, data = encodings(4, 1), batch(4, 1, labels=LABELS)
    found = head(one, data)
    expected = literal_loss(head, one, LABELS, head.prototype_LE, uncertain)
    torch.testing.assert_close(found, expected)
    weights = [*head.parameters(), one.image.pooled_BD]
    torch.testing.assert_close(
        torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights)
    )


def test_classes_that_nobody_labels_get_no_gradient():
    head = objective(LabelTextConfig())
    one, data = encodings(4, 1), batch(4, 1, labels=LABELS)
    loss = head(one, data)
    prototypes, features = torch.autograd.grad(loss, [head.prototype_LE, one.image.pooled_BD])
    assert (prototypes[2] == 0).all()
    assert (prototypes[:2].norm(dim=1) > 0).all()
    assert (features[1] == 0).all()
    assert (features[[0, 2, 3]].norm(dim=1) > 0).all()


def test_nothing_known_is_zero_with_a_gradient():
    head = objective(LabelTextConfig())
    one, data = encodings(2, 1), batch(2, 1, labels=[[NAN] * 3] * 2)
    loss = head(one, data)
    assert loss.item() == 0
    grads = torch.autograd.grad(loss, [*head.parameters(), one.image.pooled_BD])
    assert all((grad == 0).all() for grad in grads)


def test_by_hand():
    """At right angles every label is even odds: log 2 each, over 3 + 10⁻³."""
    head = objective(LabelTextConfig())
    with torch.no_grad():
        head.projection.weight.zero_()[0, 0] = 1.0
        head.prototype_LE.zero_()[:, 1] = 2.0
    data = batch(2, 1, labels=[[1.0, 0.0, 1.0], [NAN, NAN, NAN]])
    expected = 3 * math.log(2) / 3.001
    assert head(encodings(2, 1), data).item() == pytest.approx(expected)


def test_the_order_of_samples_does_not_matter():
    head = objective(LabelTextConfig())
    one, data = encodings(4, 1), batch(4, 1, labels=LABELS)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(head(one.rows(order), data.rows(order)), head(one, data))


def test_read_prototypes_equal_literal_loops_and_teach_the_text_tower():
    head = objective(LabelTextConfig(prototypes="text"), NAMED)
    torch.manual_seed(1)
    weight = torch.randn(20, WIDTH, dtype=torch.float64, requires_grad=True)
    one = dataclasses.replace(encodings(4, 1), read=tower(weight))
    found = head(one, batch(4, 1, labels=LABELS))
    rows = [weight[len(name)] for name in ("a", "pleural effusion", "c")]
    expected = literal_loss(head, one, LABELS, rows, "ignore")
    torch.testing.assert_close(found, expected)
    weights = [*head.parameters(), weight, one.image.pooled_BD]
    torch.testing.assert_close(
        torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights)
    )


def test_a_trained_head_answers_by_its_last_reading():
    head = objective(LabelTextConfig(prototypes="text"), NAMED)
    weight = torch.randn(20, WIDTH, dtype=torch.float64)
    one = dataclasses.replace(encodings(4, 1), read=tower(weight))
    head.settle(one.read)
    scores = head.scores(one.image)
    assert head.answers == NAMED.labels
    assert scores.dtype == torch.float32
    image = torch.nn.functional.normalize(head.projection(one.image.pooled_BD), dim=1)
    names = torch.nn.functional.normalize(weight[[1, 16, 1]], dim=1)
    torch.testing.assert_close(scores, (head.log_scale.exp() * image @ names.T).float())
    # What a bundle stores is enough; ids are made anew from the tokenizer.
    assert set(head.state_dict()) == {"projection.weight", "log_scale", "prototype_LD"}
    again = LabelTextConfig(prototypes="text").build(NAMED).double()
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again.scores(one.image), scores)


def test_the_scale_stays_below_its_ceiling():
    head = objective(LabelTextConfig(init_temperature=0.01))
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    head(encodings(4, 1), batch(4, 1, labels=LABELS))
    assert head.log_scale.exp().item() == pytest.approx(100.0)


def test_what_it_needs():
    with pytest.raises(ConfigError, match="no labels"):
        LabelTextConfig().build(Sizes(image=3, text=4, embed=EMBED))
    with pytest.raises(ConfigError, match="no tokenizer"):
        LabelTextConfig(prototypes="text").build(SIZES)
