"""Views of clips, and what is learnt from two of them, against loops."""

import dataclasses

import clips
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.losses.objectives import ClipConfig
from medvlp_video.losses.ego_nce import EgoNceConfig
from medvlp_video.losses.mil_nce import MilNceConfig
from medvlp_video.losses.video_ssl import VideoSslConfig, unlike
from medvlp_video.losses.views import Look, Reach, draw_looks, look_at

SIZES = Sizes(image=5, text=5, embed=4, channels=3, labels=("a", "b", "c"))
REACH = Reach(least_crop=0.3, jitter=0.4, jittered=0.8, grey=0.2, blur=0.5, flip=0.5)
SAME = Look(y=0, x=0, height=1, width=1, flip=0, bright=1, contrast=1, colour=1, sigma=0)


def pictures(count=2, frames=3, side=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, frames, 3, side, side, generator=generator)


def look(**changes):
    """One look at all frames of `pictures()`."""
    return torch.tensor(SAME._replace(**changes), dtype=torch.float64).expand(2, 3, -1)


def test_views_by_hand():
    clip = pictures()
    torch.testing.assert_close(look_at(clip, look()), clip)
    torch.testing.assert_close(look_at(clip, look(flip=1)), clip.flip(4))
    # A quarter of the picture, enlarged: its middle lies where its own middle was.
    half = look_at(clip, look(y=0.5, height=0.5, width=0.5))
    ramp = torch.arange(12.0).view(1, 1, 1, 12, 1).expand(2, 3, 3, 12, 12) / 12
    seen = look_at(ramp, look(y=0.5, height=0.5, width=0.5))[0, 0, 0, :, 0]
    assert half.shape == clip.shape
    torch.testing.assert_close(seen[1:-1].diff(), torch.full((9,), 1 / 24), atol=1e-5, rtol=0)
    assert seen.mean().item() == pytest.approx(ramp[0, 0, 0, 6:, 0].mean().item(), abs=0.01)
    grey = look_at(clip, look(colour=0))
    luma = torch.einsum("bfchw,c->bfhw", clip, torch.tensor([0.299, 0.587, 0.114]))
    torch.testing.assert_close(grey, luma[:, :, None].expand_as(clip))
    torch.testing.assert_close(look_at(clip, look(bright=1.3)), (clip * 1.3).clamp(0, 1))
    flat = look_at(clip, look(contrast=0))
    torch.testing.assert_close(flat, luma.mean((2, 3))[:, :, None, None, None].expand_as(clip))
    # On a side of 12 pixels, a blur of 37.3 at 224 has a standard deviation of 2.
    point = torch.zeros(2, 3, 3, 25, 25)
    point[..., 12, 12] = 1
    blurred = look_at(point, look(sigma=2.0 * 224 / 25))[0, 0, 0]
    assert blurred.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert (blurred[12, 13] / blurred[12, 12]).item() == pytest.approx(np.exp(-1 / 8), abs=1e-4)


def test_colours_change_in_pictures_whatever_the_contract_makes_of_them():
    clip = pictures()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    shape = (3, 1, 1)
    given = (clip - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    changes = look(bright=1.2, contrast=0.7, colour=0.5, x=0.1, width=0.8)
    seen = look_at(given, changes, mean, std)
    expected = look_at(clip, changes)
    torch.testing.assert_close(
        seen, (expected - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    )


def test_looks_follow_from_each_clips_seed_and_stay_within_reach():
    seed = torch.arange(40)
    looks = draw_looks(REACH, seed, 5, "frame", 0)
    assert torch.equal(draw_looks(REACH, seed[7:9], 5, "frame", 0), looks[7:9])
    other = draw_looks(REACH, seed, 5, "frame", 1)
    assert not torch.equal(other, looks)
    alike = draw_looks(REACH, seed, 5, "clip", 0)
    assert (alike == alike[:, :1]).all()
    assert (looks[:, 0] != looks[:, 1]).any(1).all()
    drawn = Look.of(looks.flatten(0, 1))
    assert (drawn.y >= 0).all()
    assert (drawn.y + drawn.height <= 1 + 1e-9).all()
    assert (drawn.x + drawn.width <= 1 + 1e-9).all()
    area = drawn.height * drawn.width
    assert area.min() > 0.25
    assert area.max() > 0.9
    for factor in (drawn.bright, drawn.contrast):
        assert (factor - 1).abs().max() <= 0.4
    assert 0.1 < (drawn.bright == 1).float().mean() < 0.3
    assert 0.1 < (drawn.colour == 0).float().mean() < 0.3
    assert 0.4 < (drawn.sigma > 0).float().mean() < 0.6
    assert 0.4 < drawn.flip.mean() < 0.6
    plain = Reach(least_crop=1, jitter=0, jittered=1, grey=0, blur=0, flip=0)
    clip = pictures()
    # All that is left is the crop's shape.
    wide = Look.of(draw_looks(plain, torch.arange(2), 3, "clip", 0).flatten(0, 1))
    assert (wide.height * wide.width > 0.7).all()
    assert look_at(clip, draw_looks(plain, torch.arange(2), 3, "clip", 0)).isfinite().all()


def seeing(pooled):
    """Encodings of which the tower may be asked, and gives what it is told."""
    one = clips.encodings(len(pooled) // 2, 2)

    def see(_):
        return ImageFeatures(pooled_BD=pooled, tokens_BPD=pooled, grid=(), maps=())

    def place(features):
        return features.pooled_BD[:, :4] * 2.0

    return dataclasses.replace(one, see=see, place=place)


def numbers(*shape):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def literal_simclr(one, other, temperature):
    views = [*one, *other]
    count = len(views)

    def likeness(i, k):
        return F.cosine_similarity(views[i], views[k], dim=0) / temperature

    terms = [
        torch.logsumexp(torch.stack([likeness(i, k) for k in range(count) if k != i]), 0)
        - likeness(i, (i + count // 2) % count)
        for i in range(count)
    ]
    return torch.stack(terms).mean()


def batch(count=3, texts=2):
    data = clips.batch(count, texts, labels=[[1.0, 1, 0]] * count)
    return dataclasses.replace(data, image=pictures(count))


def test_simclr_is_that_of_a_loop():
    pooled = numbers(6, 5)
    found = VideoSslConfig(temperature=0.2).build(SIZES).double()(seeing(pooled), batch())
    expected = literal_simclr(pooled[:3, :4], pooled[3:, :4], 0.2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, pooled)[0], torch.autograd.grad(expected, pooled)[0]
    )


def test_simsiam_predicts_views_that_have_no_gradient():
    pooled = numbers(6, 5)
    objective = VideoSslConfig(contrast=0, siamese=2.0).build(SIZES).double()
    found = objective(seeing(pooled), batch())
    vector = pooled[:, :4] * 2
    ahead = objective.predictor(vector)
    terms = [
        (1 - F.cosine_similarity(ahead[i], vector[(i + 3) % 6].detach(), dim=0)) for i in range(6)
    ]
    expected = 2 * torch.stack(terms).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, pooled, retain_graph=True)[0],
        torch.autograd.grad(expected, pooled)[0],
    )
    one, other = numbers(2, 4), numbers(2, 4)
    assert torch.autograd.grad(unlike(one, other).sum(), other, allow_unused=True)[0] is None


def test_a_projection_of_its_own_looks_at_the_towers_vector():
    pooled = numbers(6, 5)
    objective = VideoSslConfig(embed=7, siamese=1.0).build(SIZES).double()
    found = objective(seeing(pooled), batch())
    vector = objective.projection(pooled)
    expected = literal_simclr(vector[:3], vector[3:], 0.1)
    ahead = objective.predictor(vector)
    siamese = unlike(ahead, vector.roll(3, 0)).mean()
    torch.testing.assert_close(found, expected + siamese)
    assert vector.shape == (6, 7)


def test_views_meet_the_texts_of_their_clips():
    pooled, data = numbers(6, 5), batch(3, 3)
    each = (
        ClipConfig(texts="first", weight=0.5),
        ClipConfig(texts="first", to_texts=0.75, weight=0.25),
        MilNceConfig(form="published", weight=2.0),
        EgoNceConfig(verbs={"x": ("a",)}, nouns={"y": ("b",)}),
    )
    config = VideoSslConfig(contrast=0.5, on_views=each)
    objective = config.build(SIZES).double()
    found_in = seeing(pooled)
    texts = clips.encodings(3, 3)
    found_in = dataclasses.replace(
        found_in, text_BNE=texts.text_BNE, text_raw_BNE=texts.text_raw_BNE
    )
    found = objective(found_in, data)
    expected = 0.5 * literal_simclr(pooled[:3, :4], pooled[3:, :4], 0.1)
    for view in (pooled[:3, :4] * 2, pooled[3:, :4] * 2):
        seen: Encodings = dataclasses.replace(
            found_in, image_BE=F.normalize(view, dim=1), image_raw_BE=view
        )
        for one in each:
            expected = expected + one.weight * one.build(SIZES)(seen, data)
    torch.testing.assert_close(found, expected)
    assert {"text_BNE", "text_raw_BNE", "see", "labels_BL"} <= objective.reads
    assert not {"image_BE", "image_raw_BE"} & objective.reads
    assert objective.reads > VideoSslConfig().build(SIZES).reads


def test_the_tower_is_shown_two_views_of_the_batch():
    shown, data = [], batch()

    def see(image):
        shown.append(image)
        return ImageFeatures(
            pooled_BD=image.flatten(1)[:, :5].double(), tokens_BPD=image, grid=(), maps=()
        )

    one = dataclasses.replace(seeing(numbers(6, 5)), see=see)
    objective = VideoSslConfig().build(dataclasses.replace(SIZES, mean=0.5, std=0.25)).double()
    objective(one, data)
    again = dataclasses.replace(data, seed_B=data.seed_B.clone())
    objective(one, again)
    first, second = shown
    assert torch.equal(first, second)
    reach = Reach(least_crop=0.3, jitter=0.4, jittered=0.8, grey=0.2, blur=0.5, flip=0.0)
    for number, view in enumerate(first.chunk(2)):
        looks = draw_looks(reach, data.seed_B, 3, "clip", number)
        torch.testing.assert_close(view, look_at(data.image, looks, 0.5, 0.25))
    # The views of a clip do not depend on which others are there.
    objective(one, data.rows(torch.tensor([2])))
    assert torch.equal(shown[2][0], first[2])
    bare = dataclasses.replace(data, seed_B=None)
    with pytest.raises(ValueError, match="no seed_B"):
        objective(one, bare)


def test_an_objective_without_a_term_is_refused():
    with pytest.raises(ValueError, match="no weight"):
        VideoSslConfig(contrast=0)
