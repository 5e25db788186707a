"""Directions, confidences, recordings and kinds of texts in the core's contrasts, by loops."""

import dataclasses
import itertools

import clips
import pytest
import torch
from encoded import SIZES, gradients

from medvlp.losses.objectives import ClipConfig, SigLipConfig

REST, FIRST = slice(1, None), slice(1)
ABSENT = ((0, 2), (3, 1), (3, 2), (4, 0))
OPTIONS = {
    "first": {"texts": "first"},
    "rest": {"texts": "rest"},
    "to texts": {"to_texts": 0.75},
    "to images": {"to_texts": 0.0},
    "sure": {"least_weight": 0.1},
    "recording": {"same_recording": "leave-out"},
    "both": {"same_recording": "leave-out", "same_patient": "leave-out"},
    "all": {"texts": "rest", "to_texts": 0.6, "least_weight": 0.3, "same_recording": "leave-out"},
}


def literal_clip(one, data, config):
    """One logarithm at a time."""
    which = {"all": slice(None), "first": FIRST, "rest": REST}[config.texts]
    texts = clips.owners(data, which)
    least = config.least_weight
    weight = {
        t: 1.0 if least is None else least + (1 - least) * float(data.confidence_BN[t])
        for t in texts
    }

    def apart(i, t):
        """Whether a pair counts."""
        recording = data.recording_B[i] == data.recording_B[t[0]]
        patient = data.patient_B[i] == data.patient_B[t[0]]
        out = (recording and config.same_recording == "leave-out") or (
            patient and config.same_patient == "leave-out"
        )
        return i == t[0] or not out

    def logit(i, t):
        return one.scale * (one.image_BE[i] @ one.text_BNE[t])

    images = range(len(one.image_BE))
    told = [i for i in images if any(t[0] == i for t in texts)]
    to_texts = to_images = mass = 0.0
    for i in told:
        own = [t for t in texts if t[0] == i]
        total = torch.logsumexp(torch.stack([logit(i, t) for t in texts if apart(i, t)]), 0)
        share = sum(weight[t] for t in own)
        term = sum(weight[t] / share * (total - logit(i, t)) for t in own)
        image = 1.0 if least is None else share / len(own)
        to_texts, mass = to_texts + image * term, mass + image
    to_texts = to_texts / mass
    for t in texts:
        total = torch.logsumexp(torch.stack([logit(i, t) for i in images if apart(i, t)]), 0)
        to_images = to_images + weight[t] * (total - logit(t[0], t))
    to_images = to_images / sum(weight.values())
    return config.to_texts * to_texts + (1 - config.to_texts) * to_images


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_clip_is_that_of_a_loop(name):
    one, data = clips.encodings(6, 3), clips.batch(6, 3, absent=ABSENT)
    config = ClipConfig(**OPTIONS[name])
    found, expected = config.build(SIZES)(one, data), literal_clip(one, data, config)
    assert found > 0
    torch.testing.assert_close(found, expected)
    fields = ("image_BE", "text_BNE", "scale")
    torch.testing.assert_close(gradients(found, one, *fields), gradients(expected, one, *fields))


def test_siglip_leaves_out_what_is_of_the_same_recording():
    one, data = clips.encodings(6, 2), clips.batch(6, 2)
    config = SigLipConfig(texts="first", same_recording="leave-out", least_weight=0.2)
    total = weights = 0.0
    for j in range(6):
        weight = 0.2 + 0.8 * data.confidence_BN[j, 0].double()
        weights = weights + weight
        for i in range(6):
            if i != j and data.recording_B[i] == data.recording_B[j]:
                continue
            sign = 1 if i == j else -1
            logit = one.scale * (one.image_BE[i] @ one.text_BNE[j, 0]) + one.bias
            total = total + weight * torch.log1p(torch.exp(-sign * logit))
    torch.testing.assert_close(config.build(SIZES)(one, data), total / weights)


def test_what_a_batch_does_not_say_is_asked_for_by_name():
    one, data = clips.encodings(3, 2), clips.batch(3, 2)
    for field, options in (
        ("recording_B", {"same_recording": "leave-out"}),
        ("patient_B", {"same_patient": "leave-out"}),
        ("confidence_BN", {"least_weight": 0.1}),
    ):
        bare = dataclasses.replace(data, **{field: None})
        with pytest.raises(ValueError, match=f"the batch has no {field}"):
            ClipConfig(**options).build(SIZES)(one, bare)


def test_sure_texts_alone_count_where_the_least_weight_is_zero():
    one, data = clips.encodings(4, 1), clips.batch(4, 1)
    sure = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    data = dataclasses.replace(data, confidence_BN=sure)
    found = ClipConfig(least_weight=0.0).build(SIZES)(one, data)
    logits = one.scale * one.image_BE @ one.text_BNE[:, 0].T
    expected = sum(
        -x.log_softmax(1)[i, i] for x, i in itertools.product((logits, logits.T), (0, 2))
    )
    torch.testing.assert_close(found, expected / 4)
