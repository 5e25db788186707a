"""Surgical objectives in micro-batches: the losses and gradients of the whole batch, or refused."""

import dataclasses

import clips
import pytest
import torch
import torch.nn.functional as F

from medvlp.data.relations import Names
from medvlp.errors import ConfigError
from medvlp.losses.objective import reads_of
from medvlp.losses.objectives import ClipConfig
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_video.losses.ego_nce import EgoNceConfig
from medvlp_video.losses.hierarchy import HierarchyConfig
from medvlp_video.losses.memory import MemoryConfig
from medvlp_video.losses.mil_nce import MilNceConfig
from medvlp_video.losses.procedural import ProceduralConfig
from medvlp_video.losses.video_ssl import VideoSslConfig

CONFIGS = {
    "clip": ClipConfig(texts="first", to_texts=0.75, least_weight=0.1, same_recording="leave-out"),
    "mil-nce": MilNceConfig(),
    "mil-nce_2": MilNceConfig(form="published"),
    "ego-nce": EgoNceConfig(verbs={"x": ("a",)}, nouns={"y": ("b", "c")}),
    "hierarchy": HierarchyConfig(),
    "procedural": ProceduralConfig(),
    "memory": MemoryConfig(retrieved=2),
}
WEIGHTS = {name: 0.5 + i for i, name in enumerate(CONFIGS)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    frame = ResNet2dConfig(depths=(1,), widths=(8,), stem=8, norm="group")
    image = FrameEncoderConfig(frame=frame).build(3)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, dropout=0.0).build(20, 0)
    return TwoTower(TwoTowerConfig(embed=6), image, text).double()


def batch():
    absent = ((0, 3), (2, 0), (2, 1), (2, 2), (2, 3))
    labels = [[1.0, 1, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]]
    data = clips.batch(6, 4, absent=absent, labels=labels)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(6, clips.FRAMES, 3, 16, 16, generator=generator, dtype=torch.float64)
    return dataclasses.replace(data, image=image, labels_BL=data.labels_BL.double())


def built(model):
    sizes = model.sizes(Names(labels=("a", "b", "c")))
    objectives = {name: config.build(sizes).double() for name, config in CONFIGS.items()}
    # Something to retrieve, as an earlier batch left it.
    generator = torch.Generator().manual_seed(2)
    silent = F.normalize(torch.randn(3, 6, generator=generator, dtype=torch.float64), dim=1)
    objectives["memory"].memory.take(silent, torch.tensor([1, 2, 3]))
    return objectives


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_micro_batches_are_the_whole(model, size):
    data, whole = batch(), built(model)
    encodings = model(data, reads_of(whole.values()))
    values = {name: objective(encodings, data) for name, objective in whole.items()}
    sum(WEIGHTS[name] * value for name, value in values.items()).backward()
    expected = gradients(model)
    assert all(value > 0 for value in values.values())
    parts = built(model)
    found = GradientCache(model, parts, WEIGHTS, size)(data, torch.device("cpu"))
    found.pop("loss").backward()
    torch.testing.assert_close(found, values)
    torch.testing.assert_close(gradients(model), expected)
    # The silent sample entered once.
    for name, value in whole["memory"].state_dict().items():
        torch.testing.assert_close(parts["memory"].state_dict()[name], value)
    assert len(parts["memory"].memory) == 4


def test_embeddings_before_their_norm_are_those_that_are_normalised(model):
    data = batch()
    one = model(data, {"image_raw_BE", "text_raw_BNE"})
    torch.testing.assert_close(F.normalize(one.image_raw_BE, dim=1), one.image_BE)
    torch.testing.assert_close(F.normalize(one.text_raw_BNE, dim=2), one.text_BNE)
    assert (one.text_raw_BNE[2] == 0).all()
    torch.testing.assert_close(one.place(one.see(data.image)), one.image_raw_BE)
    plain = model(data)
    assert plain.image_raw_BE is None
    assert plain.text_raw_BNE is None


def test_views_need_the_tower_and_are_refused_by_name(model):
    objective = VideoSslConfig().build(model.sizes())
    with pytest.raises(ConfigError, match="micro_batch: objective video-ssl reads"):
        GradientCache(model, {"video-ssl": objective}, {"video-ssl": 1.0}, 2)
