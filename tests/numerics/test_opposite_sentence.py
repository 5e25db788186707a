"""Opposite sentences: what is asked, which sentence holds, and the loss of the answer."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from encoded import batch, encodings

from medvlp.data.batch import TokenIds
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.encoding import Sizes
from medvlp.errors import ConfigError
from medvlp.losses.opposite_sentence import OppositeSentenceConfig

NAN = math.nan
PROMPTS = PromptSet(
    mode="independent",
    labels={
        "b": Prompts(positive=("b is there", "there is b"), negative=("no b",)),
        "c": Prompts(positive=("c is there",), negative=("no c", "c is not there", "free of c")),
        "z": Prompts(positive=("z",), negative=("no z",)),
    },
)
SENTENCES = [
    text
    for name in ("b", "c")
    for text in (*PROMPTS.labels[name].positive, *PROMPTS.labels[name].negative)
]


def encode(texts):
    rows = [[1, *(5 + ord(c) % 30 for c in text), 2] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, ids != 0


TOKENS = TokenIds(count=40, mask=None, special=(0, 1, 2), encode=encode)
SIZES = Sizes(
    image=5, text=5, embed=4, labels=("a", "b", "c"), tokens=TOKENS, prompts=PROMPTS, max_tokens=20
)
LABELS = [[1.0, 1.0, 0.0], [NAN, 0.0, -1.0], [0.0, NAN, NAN], [NAN, NAN, 1.0]]
HOLDS = {0: {"b": 0, "c": 1}, 1: {"b": 1}, 2: {}, 3: {"c": 0}}


class Space:
    """The joint space of sentences: a vector of each, by its tokens."""

    def __init__(self):
        ids, _ = encode(SENTENCES)
        self.rows = ids.tolist()
        generator = torch.Generator().manual_seed(7)
        raw = torch.randn(len(SENTENCES), 4, generator=generator, dtype=torch.float64)
        self.vectors = F.normalize(raw, dim=1).requires_grad_()
        self.read = []

    def __call__(self, ids, mask):
        assert torch.equal(mask, ids != 0)
        self.read = [self.rows.index(row) for row in ids.tolist()]
        return self.vectors[self.read]


def asked(objective, data, draws=60):
    """(sample, name, which, positive, negative) of all pairs of many draws."""
    found = set()
    torch.manual_seed(0)
    for _ in range(draws):
        (pair, which), count = objective.targets(data)
        rows = (which >= 0).nonzero().tolist()
        assert count == len(rows)
        for b, k in rows:
            texts = [SENTENCES[s] for s in pair[b, k].tolist()]
            (name,) = (n for n, p in PROMPTS.labels.items() if texts[0] in p.positive)
            assert texts[1] in PROMPTS.labels[name].negative
            found.add((b, name, int(which[b, k]), *texts))
    return found


def test_only_what_is_known_is_asked_with_every_pair_of_its_sentences():
    data = batch(4, 1, labels=LABELS)
    found = asked(OppositeSentenceConfig().build(SIZES), data)
    pairs = {"b": 2, "c": 3}
    assert len(found) == sum(pairs[name] for names in HOLDS.values() for name in names)
    assert all(HOLDS[b][name] == which for b, name, which, *_ in found)
    (_, which), count = OppositeSentenceConfig(pairs=1).build(SIZES).targets(data)
    assert which.shape == (4, 1)
    assert count == 3


@pytest.mark.parametrize("unknown", ["ignore", "others"])
def test_silence_counts_as_absence_only_beside_other_patients_who_have_it(unknown):
    data = batch(4, 1, labels=LABELS)
    found = asked(OppositeSentenceConfig(unknown="others").build(SIZES), with_patients(data, 0))
    holds = {(b, name): which for b, name, which, *_ in found}
    # The second sample's c is uncertain, and stays so; the fourth's b is the first's patient's.
    expected = {(b, n): w for b, names in HOLDS.items() for n, w in names.items()}
    assert holds == expected | {(2, "b"): 1, (2, "c"): 1}
    found = asked(OppositeSentenceConfig(unknown=unknown).build(SIZES), with_patients(data, 3))
    assert (3, "b", 1) in {row[:3] for row in found} or unknown == "ignore"
    with pytest.raises(ValueError, match="needs patients"):
        OppositeSentenceConfig(unknown="others").build(SIZES).targets(data)


def with_patients(data, last):
    return dataclasses.replace(data, patient_B=torch.tensor([0, 1, 2, last]))


def test_the_loss_and_its_gradient_are_those_of_a_loop():
    objective = OppositeSentenceConfig().build(SIZES)
    data, space = batch(4, 1, labels=LABELS), Space()
    one = dataclasses.replace(encodings(4, 1), embed=space)
    torch.manual_seed(4)
    loss = objective(one, data)
    torch.manual_seed(4)
    (pair, which), _ = objective.targets(data)
    terms = []
    for b in range(4):
        for k in range(which.shape[1]):
            if which[b, k] >= 0:
                yes, no = (
                    (one.scale * (one.image_BE[b] @ space.vectors[s])).exp()
                    for s in pair[b, k].tolist()
                )
                terms.append(-((yes, no)[which[b, k]] / (yes + no)).log())
    assert len(terms) == 4
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected)
    wanted = [one.image_BE, one.scale, space.vectors]
    torch.testing.assert_close(
        torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted)
    )
    # A sentence is read once, however many pairs it is in.
    assert len(space.read) == len(set(space.read))


def test_nothing_known_is_zero_with_a_gradient():
    objective = OppositeSentenceConfig().build(SIZES)
    read = []

    def embed(ids_ST, mask_ST):
        read.append(ids_ST)
        return torch.ones(len(ids_ST), 4, dtype=torch.float64)

    one = dataclasses.replace(encodings(2, 1), embed=embed)
    loss = objective(one, batch(2, 1, labels=[[1.0, NAN, -1.0]] * 2))
    assert loss == 0
    assert len(read) == 1, "other ranks read sentences, and sharded weights are gathered together"
    assert torch.autograd.grad(loss, one.image_BE)[0].abs().sum() == 0


def test_entities_tell_as_labels_do():
    sizes = dataclasses.replace(SIZES, labels=(), observations=("b", "c"))
    objective = OppositeSentenceConfig(source="entities").build(sizes)
    data = dataclasses.replace(
        batch(3, 1),
        # Absent at one place and present at another, untold; uncertain, absent; told in words only.
        relations_BAQ=torch.tensor(
            [[[-2, 0], [-2, 1]], [[0, -1], [-2, -2]], [[-2, -2]] * 2], dtype=torch.int8
        ),
        told_BNQ=torch.tensor([[[-2, -2]], [[-2, 0]], [[1, -2]]], dtype=torch.int8),
    )
    holds = {row[:3] for row in asked(objective, data)}
    assert holds == {(0, "c", 0), (1, "b", 1), (2, "b", 0)}
    with pytest.raises(ValueError, match="no relations"):
        objective.targets(batch(3, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": None}, "no prompts that affirm and deny"),
        ({"labels": ("q",)}, r"no name of the prompts is in data\.labels"),
        ({"tokens": None}, "no tokenizer"),
        ({"max_tokens": 12}, "'c is not there' has 16 tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        OppositeSentenceConfig().build(dataclasses.replace(SIZES, **changes))
