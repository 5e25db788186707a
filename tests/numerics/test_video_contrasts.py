"""MIL-NCE, EgoNCE and HecVL's hierarchy against loops, and their published forms by hand."""

import dataclasses
import itertools
import math

import clips
import pytest
import torch
import torch.nn.functional as F
from encoded import SIZES, gradients

from medvlp.errors import ConfigError
from medvlp_video.losses.ego_nce import EgoNceConfig
from medvlp_video.losses.hierarchy import HierarchyConfig, mean_text
from medvlp_video.losses.mil_nce import MilNceConfig, mil_nce
from medvlp_video.losses.sums import group_logsumexp

REST = slice(1, None)
ABSENT = ((0, 2), (3, 1), (3, 2), (4, 0))
LABELS = [[1.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 1], [math.nan, 1, 1], [0, 0, 1]]


def log_sum(values):
    return torch.logsumexp(torch.stack(values), 0)


def literal_mil(image, text, texts, scale, own, same=lambda i, j: False):
    terms = []
    for i in sorted({owner for owner, _ in texts}):
        mine = [scale * (image[i] @ text[t]) for t in texts if t[0] == i]
        others = [scale * (image[i] @ text[t]) for t in texts if t[0] != i and not same(i, t[0])]
        back = [
            scale * (image[j] @ text[t])
            for j, t in itertools.product(range(len(image)), texts)
            if t[0] == i != j and not same(i, j)
        ]
        terms.append(log_sum(mine * own + others + back) - log_sum(mine))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("form", ["normalised", "published"])
@pytest.mark.parametrize("negatives", [{}, {"same_recording": "leave-out"}])
def test_mil_nce_is_that_of_a_loop(form, negatives):
    one, data = clips.encodings(6, 3), clips.batch(6, 3, absent=ABSENT)
    raw = form == "published"
    image, text = (one.image_raw_BE, one.text_raw_BNE) if raw else (one.image_BE, one.text_BNE)
    recording = data.recording_B

    def same(i, j):
        return bool(negatives) and recording[i] == recording[j]

    config = MilNceConfig(form=form, **negatives)
    objective = config.build(SIZES)
    found = objective(one, data)
    scale, own = (1.0, 2) if raw else (one.scale, 1)
    expected = literal_mil(image, text, clips.owners(data, REST), scale, own, same)
    torch.testing.assert_close(found, expected)
    fields = ("image_raw_BE", "text_raw_BNE") if raw else ("image_BE", "text_BNE", "scale")
    assert set(fields) <= objective.reads
    torch.testing.assert_close(gradients(found, one, *fields), gradients(expected, one, *fields))


def test_the_published_mil_nce_by_hand():
    # Two clips with a text each: e to the own one, 1 to the other, both counted twice.
    image = torch.eye(2)
    found = mil_nce(image, image, torch.arange(2), 1.0, own=2)
    assert found.item() == pytest.approx(math.log(2 * math.e + 2) - 1)
    found = mil_nce(image, image, torch.arange(2), 1.0)
    assert found.item() == pytest.approx(math.log(math.e + 2) - 1)
    # A lone clip's texts are all there is.
    text = torch.randn(3, 2).requires_grad_()
    alone = mil_nce(image[:1], text, torch.zeros(3, dtype=torch.long), 1.0)
    assert alone.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.autograd.grad(alone, text)[0].isfinite().all()


def test_mil_nce_counts_a_set_that_holds_one_fitting_text():
    image = F.normalize(torch.randn(4, 8, dtype=torch.float64), dim=1)
    text = torch.cat([image, F.normalize(torch.randn(4, 8, dtype=torch.float64), dim=1)])
    owner = torch.arange(4).repeat(2)
    fitting = mil_nce(image, text, owner, 50.0)
    assert fitting < 0.05
    assert mil_nce(image, text, owner.roll(1), 50.0) > 10


def test_clips_without_texts_are_negatives_and_nothing_else():
    one, data = clips.encodings(3, 2), clips.batch(3, 2, absent=((1, 1),))
    (grad,) = gradients(MilNceConfig().build(SIZES)(one, data), one, "image_BE").values()
    assert (grad.norm(dim=1) > 0).all()
    none = clips.batch(3, 2, absent=((0, 1), (1, 1), (2, 1)))
    loss = MilNceConfig().build(SIZES)(one, none)
    assert loss == 0
    assert gradients(loss, one, "image_BE")["image_BE"].abs().sum() == 0


def literal_ego(one, data, config, texts, alike):
    """Positives inside the logarithm, both ways."""
    words = {t: tuple(data.text_BNT[t][data.text_mask_BNT[t]].tolist()) for t in texts}
    least = config.least_weight
    weight = {
        t: 1.0 if least is None else least + (1 - least) * float(data.confidence_BN[t])
        for t in texts
    }
    images = range(len(one.image_BE))
    own_words = {i: {words[t] for t in texts if t[0] == i} for i in images}

    def logit(i, t):
        return one.scale * (one.image_BE[i] @ one.text_BNE[t])

    def positive(i, t):
        shared = config.duplicates == "share" and words[t] in own_words[i]
        return i == t[0] or alike(i, t[0]) or shared

    def counts(i, t):
        if positive(i, t):
            return True
        same_words = config.duplicates == "leave-out" and words[t] in own_words[i]
        recording = data.recording_B[i] == data.recording_B[t[0]]
        return not same_words and not (recording and config.same_recording == "leave-out")

    to_texts = to_images = mass = 0.0
    for i in images:
        mine = [logit(i, t) for t in texts if positive(i, t)]
        own = [weight[t] for t in texts if t[0] == i]
        image = 1.0 if least is None else sum(own) / max(len(own), 1)
        if mine and image:
            every = log_sum([logit(i, t) for t in texts if counts(i, t)])
            to_texts, mass = to_texts + image * (every - log_sum(mine)), mass + image
    for t in texts:
        mine = log_sum([logit(i, t) for i in images if positive(i, t)])
        every = log_sum([logit(i, t) for i in images if counts(i, t)])
        to_images = to_images + weight[t] * (every - mine)
    to_images = to_images / sum(weight.values())
    return config.to_texts * to_texts / mass + (1 - config.to_texts) * to_images


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"same_recording": "leave-out", "to_texts": 0.3},
        {"duplicates": "share", "least_weight": 0.1},
        {"duplicates": "leave-out", "same_recording": "leave-out", "least_weight": 0.5},
    ],
)
def test_ego_nce_is_that_of_a_loop(options):
    one, data = clips.encodings(6, 2), clips.batch(6, 2, absent=((3, 1), (5, 0)), labels=LABELS)
    ids, mask = data.text_BNT.clone(), data.text_mask_BNT.clone()
    ids[4, 1], mask[4, 1] = ids[1, 0], mask[1, 0]  # the same words
    data = dataclasses.replace(data, text_BNT=ids, text_mask_BNT=mask)
    # One noun is told by two labels, one of which tells of the verb, too.
    config = EgoNceConfig(verbs={"cut": ("a",), "clip": ("b",)}, nouns={"duct": ("b", "c")},
                          **options)  # fmt: skip
    verbs = [{"cut"}, {"clip"}, {"cut", "clip"}, {"cut"}, {"clip"}, set()]
    nouns = [{"duct"}] * 6

    def alike(i, j):
        return bool(verbs[i] & verbs[j] and nouns[i] & nouns[j])

    found = config.build(SIZES)(one, data)
    expected = literal_ego(one, data, config, clips.owners(data), alike)
    torch.testing.assert_close(found, expected)
    fields = ("image_BE", "text_BNE", "scale")
    torch.testing.assert_close(gradients(found, one, *fields), gradients(expected, one, *fields))


def test_a_verb_alone_makes_no_positive():
    config = EgoNceConfig(verbs={"cut": ("a",)}, nouns={"duct": ("b",), "artery": ("c",)})
    one = clips.encodings(3, 1)
    objective = config.build(SIZES)
    apart = clips.batch(3, 1, labels=[[1.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    logits = one.scale * one.image_BE @ one.text_BNE[:, 0].T
    plain = -(logits.log_softmax(1) + logits.log_softmax(0)).diag().mean() / 2
    torch.testing.assert_close(objective(one, apart), plain)
    alike = clips.batch(3, 1, labels=[[1.0, 1, 0], [1, 1, 1], [0, 1, 0]])
    assert objective(one, alike) < plain


def test_labels_that_the_data_lack_are_named():
    with pytest.raises(ConfigError, match=r"ego-nce: verb:cut is not in data\.labels"):
        EgoNceConfig(verbs={"cut": ("verb:cut",)}, nouns={"x": ("a",)}).build(SIZES)


def cross_entropy(one, other, scale):
    """CE(x→y) of row i of both."""
    return F.cross_entropy(scale * one @ other.T, torch.arange(len(one)))


def test_the_published_hierarchy_term_by_term():
    one, data = clips.encodings(5, 4), clips.batch(5, 4)
    v, s = one.image_BE, one.text_BNE[:, 0]
    c = F.normalize(one.text_BNE[:, 1:].mean(1), dim=1)

    def info(x, y):
        return (cross_entropy(x, y, one.scale) + cross_entropy(y, x, one.scale)) / 2

    ntx = 0.75 * cross_entropy(v, s, one.scale) + 0.25 * cross_entropy(s, v, one.scale)
    expected = (info(v, s) + ntx + info(v, c) + info(s, c)) / 4
    found = HierarchyConfig().build(SIZES)(one, data)
    torch.testing.assert_close(found, expected)
    fields = ("image_BE", "text_BNE", "scale")
    torch.testing.assert_close(gradients(found, one, *fields), gradients(expected, one, *fields))


def test_levels_that_are_absent_have_no_term_in_the_hierarchy():
    absent = ((0, 0), (1, 1), (1, 2), (2, 2))
    one, data = clips.encodings(4, 3), clips.batch(4, 3, absent=absent)
    v, text = one.image_BE, one.text_BNE
    mean = F.normalize(
        torch.stack([text[0, 1:].sum(0), 0 * text[1, 1], text[2, 1], text[3, 1:].sum(0)]), dim=1
    )
    within = data.text_mask_BNT.any(2).clone()
    within[:, 0] = False
    torch.testing.assert_close(mean_text(text, within), mean)

    def info(rows, columns, pairs, to_texts=0.5):
        logits = one.scale * rows @ columns.T
        r, c = zip(*pairs, strict=True)
        total = -to_texts * logits.log_softmax(1)[r, c].mean()
        return total - (1 - to_texts) * logits.log_softmax(0)[r, c].mean()

    own = [(1, 0), (2, 1), (3, 2)]
    had = [(0, 0), (2, 1), (3, 2)]
    expected = (
        info(v, text[[1, 2, 3], 0], own)
        + info(v, text[[1, 2, 3], 0], own, 0.75)
        + info(v, mean[[0, 2, 3]], had)
        + info(text[[1, 2, 3], 0], mean[[2, 3]], [(1, 0), (2, 1)])
    ) / 4
    torch.testing.assert_close(HierarchyConfig().build(SIZES)(one, data), expected)


def test_sums_of_groups_have_finite_gradients():
    value = torch.tensor([1.0, 2.0, -torch.inf, -torch.inf], dtype=torch.float64).requires_grad_()
    found = group_logsumexp(value, torch.tensor([0, 0, 0, 2]), 4)
    assert found[0].item() == pytest.approx(math.log(math.e + math.e**2))
    assert (found[1:] < -1e29).all()
    (grad,) = torch.autograd.grad(found[0] + torch.logaddexp(found[0], found[2]), value)
    assert grad.isfinite().all()
    torch.testing.assert_close(grad[:2], 2 * torch.softmax(value[:2], 0))
