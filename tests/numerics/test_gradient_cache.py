"""Micro-batches give the losses and gradients of the plain big batch."""

import dataclasses
from typing import ClassVar

import pytest
import torch

from medvlp.data.batch import Batch, TokenIds
from medvlp.data.relations import Names
from medvlp.encoding import Encodings
from medvlp.errors import ConfigError
from medvlp.losses.label_text import LabelTextConfig
from medvlp.losses.local import LocalConfig
from medvlp.losses.masked_text import MaskedTextConfig
from medvlp.losses.multi_text import MultiTextConfig
from medvlp.losses.objective import Objective
from medvlp.losses.objectives import ClipConfig, LabelsConfig, SigLipConfig
from medvlp.losses.prompt_pool import PromptPoolConfig
from medvlp.losses.unicl import UniclConfig
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache

CPU = torch.device("cpu")
TOKENS = TokenIds(
    count=40, mask=4, special=(0, 1, 2, 3, 4),
    encode=lambda texts: (
        torch.tensor([[1, 5 + i, 2] for i in range(len(texts))]),
        torch.ones(len(texts), 3, dtype=torch.bool),
    ),
)  # fmt: skip
VIT = Vit2dConfig(size=16, patch=8, width=16, depth=2, heads=2)


class Local(Objective):
    """Reads everything that a batch objective may read: patches, tokens, features, maps."""

    scope: ClassVar = "batch"
    reads: ClassVar = frozenset({"patch_BPE", "token_BNTE", "image", "text_mask_BNT", "scale"})

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(16, 6)

    def forward(self, encodings: Encodings, batch: Batch):
        assert encodings.image.grid == (2, 2)
        token_BTE = (encodings.token_BNTE * batch.text_mask_BNT[..., None]).flatten(1, 2)
        pairs = torch.einsum("ape,bte->abpt", encodings.patch_BPE, token_BTE)
        maps_BE = self.mix(encodings.image.maps[0].amax((2, 3)) * encodings.image.pooled_BD)
        return pairs.amax(2).mean() * encodings.scale + torch.logsumexp(maps_BE.flatten(), 0)


def model(image=VIT, dropout=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, dropout=dropout)
    config = TwoTowerConfig(embed=6, init_bias=-2.0)
    return TwoTower(config, image.build(1), text.build(40, 0)).to(dtype)


def batch(count=7, dtype=torch.float64):
    torch.manual_seed(1)
    mask = torch.ones(count, 2, 8, dtype=torch.bool)
    mask[::2, 1, 5:] = False
    mask[2, 1] = False
    labels = torch.randint(-1, 2, (count, 3)).to(dtype)
    labels[:4, 0] = torch.nan
    return Batch(
        image=torch.randn(count, 1, 16, 16, dtype=dtype),
        text_BNT=torch.randint(5, 40, (count, 2, 8)) * mask,
        text_mask_BNT=mask,
        level_BN=torch.zeros(count, 2, dtype=torch.long),
        labels_BL=labels,
        sample=tuple(map(str, range(count))),
    )


def build(two_tower, kinds, dtype=torch.float64):
    sizes = two_tower.sizes(Names(labels=("a", "b", "c")), TOKENS)
    known = {
        "clip": ClipConfig().build, "siglip": SigLipConfig().build,
        "labels": LabelsConfig().build, "masked-text": MaskedTextConfig().build,
        "local": lambda _: Local(), "words": LocalConfig().build, "unicl": UniclConfig().build,
        "multi-text": MultiTextConfig(sub=("report",), anchor="section").build,
        "learned": LabelTextConfig().build, "named": LabelTextConfig(prototypes="text").build,
        "prompt-pool": PromptPoolConfig(
            visual=9, language=7, visual_chosen=3, language_chosen=2
        ).build,
    }  # fmt: skip
    torch.manual_seed(2)
    objectives = torch.nn.ModuleDict({kind: known[kind](sizes) for kind in kinds}).to(dtype)
    return objectives, {kind: 0.5 + i for i, kind in enumerate(kinds)}


def gradients(two_tower, objectives):
    modules = torch.nn.ModuleList([two_tower, objectives])
    return {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}


def plain(two_tower, objectives, weights, data):
    two_tower.zero_grad()
    objectives.zero_grad()
    torch.manual_seed(3)
    encodings = two_tower(data)
    values = {name: objective(encodings, data) for name, objective in objectives.items()}
    sum(weights[name] * value for name, value in values.items()).backward()
    return values, gradients(two_tower, objectives)


def cached(two_tower, objectives, weights, data, size):
    two_tower.zero_grad()
    objectives.zero_grad()
    torch.manual_seed(3)
    values = GradientCache(two_tower, objectives, weights, size)(data, CPU)
    values.pop("loss").backward()
    return values, gradients(two_tower, objectives)


KINDS = ["clip", "siglip", "labels", "masked-text", "local"]


@pytest.mark.parametrize(
    ("kinds", "size"),
    [(KINDS, 1), (KINDS, 3), (KINDS, 7), (["clip"], 2), (["masked-text", "clip"], 4),
     (["labels", "masked-text"], 3)],
)  # fmt: skip
def test_micro_batches_give_the_plain_losses_and_gradients(kinds, size):
    two_tower, data = model(), batch()
    objectives, weights = build(two_tower, kinds)
    expected = plain(two_tower, objectives, weights, data)
    found = cached(two_tower, objectives, weights, data, size)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert {"1." + k for k in objectives.state_dict()} <= expected[1].keys()


@pytest.mark.parametrize("size", [1, 3])
def test_objectives_on_words_texts_labels_and_prompts_are_no_exception(size):
    two_tower, data = model(), batch()
    data = dataclasses.replace(data, level_BN=torch.tensor([[1, 0]]).repeat(7, 1))
    kinds = ["words", "multi-text", "learned", "named", "unicl", "prompt-pool"]
    objectives, weights = build(two_tower, kinds)
    expected = plain(two_tower, objectives, weights, data)
    found = cached(two_tower, objectives, weights, data, size)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert {f"1.{name}" for name, _ in objectives.named_parameters()} <= expected[1].keys()


def test_single_precision_is_equal_to_1e_5():
    two_tower, data = model(dtype=torch.float32), batch(dtype=torch.float32)
    objectives, weights = build(two_tower, KINDS, torch.float32)
    expected = plain(two_tower, objectives, weights, data)
    found = cached(two_tower, objectives, weights, data, 2)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    largest = max(grad.norm() for grad in expected[1].values())
    for name, grad in expected[1].items():
        assert (found[1][name] - grad).norm() < 1e-5 * max(grad.norm(), 0.01 * largest), name


@pytest.mark.parametrize("size", [2, 3])
def test_dropout_draws_the_same_in_both_passes(size):
    two_tower, data = model(dropout=0.3), batch()
    objectives, weights = build(two_tower, ["clip"])
    values, found = cached(two_tower, objectives, weights, data, size)
    # The same draws with every activation kept: each micro-batch in turn, then the loss of all.
    two_tower.zero_grad()
    torch.manual_seed(3)
    parts = [two_tower(data.part(slice(i, i + size))) for i in range(0, 7, size)]
    joined = {n: torch.cat([getattr(p, n) for p in parts]) for n in ("image_BE", "text_BNE")}
    whole = Encodings(**{**parts[0].__dict__, **joined, "scale": two_tower.scale})
    loss = objectives["clip"](whole, data)
    (0.5 * loss).backward()
    torch.testing.assert_close(values["clip"], loss.detach())
    torch.testing.assert_close(found, gradients(two_tower, objectives), rtol=1e-7, atol=1e-9)


def test_under_autocast_the_weights_learn_as_without_micro_batches():
    # bf16 rounds, and sums in another order round otherwise: directions agree.
    two_tower, data = model(dtype=torch.float32), batch(dtype=torch.float32)
    objectives, weights = build(two_tower, KINDS, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(two_tower, objectives, weights, data)[1]
        found = cached(two_tower, objectives, weights, data, 3)[1]
    assert found.keys() == expected.keys()
    pair = [torch.cat([g[n].flatten() for n in expected]) for g in (found, expected)]
    assert torch.cosine_similarity(*pair, dim=0) > 0.999
    assert pair[0].norm() == pytest.approx(float(pair[1].norm()), rel=0.02)


def test_gradients_come_with_the_backward_pass_scaled_and_added():
    two_tower, data = model(), batch()
    objectives, weights = build(two_tower, ["clip", "labels"])
    _, once = plain(two_tower, objectives, weights, data)
    cache = GradientCache(two_tower, objectives, weights, 2)
    loss = cache(data, CPU)["loss"]
    torch.testing.assert_close(gradients(two_tower, objectives), once)
    (loss / 4).backward()
    expected = {name: 1.25 * grad for name, grad in once.items()}
    torch.testing.assert_close(gradients(two_tower, objectives), expected)


def test_without_a_gradient_only_the_values_are_computed():
    two_tower, data = model(), batch()
    objectives, weights = build(two_tower, ["clip", "labels"])
    expected, _ = plain(two_tower, objectives, weights, data)
    two_tower.eval()
    with torch.no_grad():
        values = GradientCache(two_tower, objectives, weights, 2)(data, CPU)
    assert not values["loss"].requires_grad
    torch.testing.assert_close(values["clip"], expected["clip"].detach())
    torch.testing.assert_close(values["labels"], expected["labels"].detach())


def test_what_cannot_be_split_is_refused():
    flat = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8)
    with pytest.raises(ConfigError, match="batch norm"):
        GradientCache(model(flat), *build(model(), ["clip"]), 2)
    mixed = build(model(), ["clip"])
    mixed[0]["clip"].reads = frozenset({"image_BE", "see"})
    with pytest.raises(ConfigError, match=r"clip reads .* see of the whole batch"):
        GradientCache(model(), *mixed, 2)


def test_a_field_that_is_read_but_not_declared_is_noticed():
    two_tower, data = model(), batch()
    objectives, weights = build(two_tower, ["clip"])
    objectives["clip"].reads = frozenset({"image_BE"})
    with pytest.raises(IndexError):
        GradientCache(two_tower, objectives, weights, 2)(data, CPU)
