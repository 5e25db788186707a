"""Objectives on batches: absent texts, label masks, and their registry."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import medvlp
from medvlp.config import one_of_kinds, validate
from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.objectives import CORE_OBJECTIVES, ClipConfig, LabelsConfig, SigLipConfig
from medvlp.train.experiment import load_experiment

SIZES = Sizes(image=3, text=4, embed=4, labels=("a", "b"))


def nowhere(*_):
    raise AssertionError("these objectives look at nothing a second time")


def encodings(count, texts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(count, 4, generator=generator), dim=-1).requires_grad_()
    text = F.normalize(torch.randn(count, texts, 4, generator=generator), dim=-1).requires_grad_()
    pooled = torch.randn(count, 3, generator=generator).requires_grad_()
    return Encodings(
        image=ImageFeatures(pooled_BD=pooled, tokens_BPD=pooled[:, None], grid=(1, 1), maps=()),
        image_BE=image,
        patch_BPE=image[:, None],
        text_BNE=text,
        token_BNTE=text[:, :, None],
        scale=torch.tensor(8.0, requires_grad=True),
        bias=torch.tensor(-2.0, requires_grad=True),
        see=nowhere,
        read=nowhere,
    )


def batch(count, texts, absent=(), labels=None):
    mask = torch.ones(count, texts, 3, dtype=torch.bool)
    for row, column in absent:
        mask[row, column] = False
    return Batch(
        image=torch.zeros(count, 1, 2, 2),
        text_BNT=torch.ones(count, texts, 3, dtype=torch.long),
        text_mask_BNT=mask,
        level_BN=torch.zeros(count, texts, dtype=torch.long),
        labels_BL=torch.zeros(count, 2) if labels is None else torch.tensor(labels),
        sample=tuple(map(str, range(count))),
    )


def test_one_text_a_sample_is_the_plain_loss():
    enc = encodings(5, 1)
    torch.testing.assert_close(
        ClipConfig().build(SIZES)(enc, batch(5, 1)),
        medvlp.losses.clip_loss(enc.image_BE, enc.text_BNE[:, 0], 8.0),
    )
    torch.testing.assert_close(
        SigLipConfig().build(SIZES)(enc, batch(5, 1)),
        medvlp.losses.siglip_loss(enc.image_BE, enc.text_BNE[:, 0], 8.0, -2.0),
    )


@pytest.mark.parametrize("config", [ClipConfig(), SigLipConfig()])
def test_absent_texts_play_no_part(config):
    objective, enc = config.build(SIZES), encodings(4, 2)
    absent = [(0, 1), (2, 0), (3, 0), (3, 1)]
    loss = objective(enc, batch(4, 2, absent))
    (grad,) = torch.autograd.grad(loss, enc.text_BNE)
    for row, column in absent:
        assert grad[row, column].abs().sum() == 0
    other = encodings(4, 2)
    text = other.text_BNE.detach().clone()
    text[tuple(zip(*absent, strict=True))] = 99.0
    changed = Encodings(**{**other.__dict__, "text_BNE": text})
    torch.testing.assert_close(objective(changed, batch(4, 2, absent)), loss)


@pytest.mark.parametrize("config", [ClipConfig(), SigLipConfig()])
def test_a_batch_without_any_text_gives_zero_with_a_gradient(config):
    enc = encodings(2, 1)
    loss = config.build(SIZES)(enc, batch(2, 1, [(0, 0), (1, 0)]))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, enc.image_BE)[0].abs().sum() == 0


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("ignore", (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2),
        ("positive", (2 * math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 3),
        ("negative", (math.log1p(math.exp(-1)) + 2 * math.log1p(math.exp(1))) / 3),
    ],
)
def test_labels_by_hand(uncertain, expected):
    objective = LabelsConfig(uncertain=uncertain).build(SIZES)
    with torch.no_grad():
        objective.head.weight.zero_()
        objective.head.bias.fill_(1.0)
    enc = encodings(2, 1)
    labels = [[1.0, 0.0], [-1.0, math.nan]]
    loss = objective(enc, batch(2, 1, labels=labels))
    assert loss.item() == pytest.approx(expected)
    logits = objective.scores(enc.image)
    grad = torch.autograd.grad(loss, objective.head.bias)[0]
    assert grad.isfinite().all()
    assert logits.shape == (2, 2)


def test_unknown_labels_give_no_gradient():
    objective, enc = LabelsConfig().build(SIZES), encodings(2, 1)
    labels = [[math.nan, math.nan], [math.nan, 1.0]]
    loss = objective(enc, batch(2, 1, labels=labels))
    (grad,) = torch.autograd.grad(loss, enc.image.pooled_BD)
    assert grad[0].abs().sum() == 0
    assert grad[1].abs().sum() > 0
    nothing = objective(enc, batch(2, 1, labels=[[math.nan] * 2] * 2))
    assert nothing.item() == 0


def test_labels_objective_needs_labels():
    with pytest.raises(ConfigError, match="no labels"):
        LabelsConfig().build(Sizes(image=3, text=4, embed=4))


def test_kinds_choose_their_configuration():
    union = one_of_kinds(CORE_OBJECTIVES.values())
    for kind, config_class in CORE_OBJECTIVES.items():
        assert isinstance(validate(union, {"kind": kind}, "test"), config_class)
    with pytest.raises(ConfigError):
        validate(union, {"kind": "other"}, "test")


@pytest.mark.parametrize("config_class", [ClipConfig, SigLipConfig])
def test_options_reach_the_loss(config_class):
    """Two samples share a text and two a patient; a sentence weighs half."""
    enc, one = encodings(4, 1), batch(4, 1)
    ids = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 8], [9, 9, 9]])[:, None]
    level = torch.tensor([[0], [0], [2], [0]])
    patient = torch.tensor([0, 1, 2, 2])
    one = dataclasses.replace(one, text_BNT=ids, level_BN=level, patient_B=patient)
    both = {"duplicates": "leave-out", "same_patient": "leave-out"}
    options = [{}, {"duplicates": "share"}, both, {"level_weights": {"sentence": 0.5}}]
    plain, shared, left_out, weighted = (
        config_class(**option).build(SIZES)(enc, one) for option in options
    )
    logits = (8.0 * enc.image_BE @ enc.text_BNE[:, 0].T).double()
    if config_class is ClipConfig:
        gone = torch.zeros(4, 4, dtype=torch.bool)
        for i, m in ((0, 1), (1, 0), (2, 3), (3, 2)):
            gone[i, m] = True
        open_pairs = logits.masked_fill(gone, -torch.inf)
        terms = open_pairs.logsumexp(1) + open_pairs.logsumexp(0) - 2 * logits.diag()
        torch.testing.assert_close(left_out, (terms.mean() / 2).float())
        rows = logits.logsumexp(1) - logits.diag()
        columns = (logits.logsumexp(0) - logits.diag()) @ torch.tensor([1, 1, 0.5, 1]).double()
        torch.testing.assert_close(weighted, ((rows.mean() + columns / 3.5) / 2).float())
    else:
        further = (logits[0, 1] + logits[1, 0] - 4.0) / 4
        torch.testing.assert_close(shared, (plain - further).float())
        assert left_out < plain
    assert len({loss.item() for loss in (plain, shared, left_out, weighted)}) == 4


def test_patients_must_be_known_to_be_left_out():
    objective = ClipConfig(same_patient="leave-out").build(SIZES)
    with pytest.raises(ValueError, match="patient_B"):
        objective(encodings(2, 1), batch(2, 1))


PUBLISHED = {
    "gloria": ["clip", "local"],
    "make": ["multi-text"],
    "dlilp": ["clip", "label-text"],
    "unimodal": ["label-text"],
    "ptunifier": ["masked-text", "prompt-pool", "clip"],
    "biomedclip": ["clip"],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_of_published_systems_name_their_paper_and_their_departures(name):
    file = Path(__file__).resolve().parents[2] / f"configs/cxr/{name}.yaml"
    words = file.read_text(encoding="utf-8")
    assert any(mark in words for mark in ("arXiv:", "ICCV", "et al."))
    assert "# Departs from the paper" in words
    experiment = load_experiment(file)
    assert [o.kind for o in experiment.active_objectives] == PUBLISHED[name]
    tokens = TokenIds(count=9, mask=3, special=(0, 1, 2, 3))
    sizes = Sizes(image=3, text=4, embed=4, labels=experiment.data.labels, tokens=tokens)
    for config in experiment.active_objectives:
        assert config.build(sizes).reads


def test_the_class_activation_map_averages_to_the_images_logit():
    torch.manual_seed(0)
    head = LabelsConfig().build(SIZES)
    tokens = torch.randn(4, 6, 3)
    features = ImageFeatures(pooled_BD=tokens.mean(1), tokens_BPD=tokens, grid=(2, 3), maps=())
    places = head.places(features)
    assert places.shape == (4, 2, 6)
    torch.testing.assert_close(places.logit().mean(2), head.scores(features))
    alone = tokens[1, 4] @ head.head.weight.T + head.head.bias
    torch.testing.assert_close(places[1, :, 4], alone.sigmoid())
