"""Layouts, compilation, fused attention and readers: faster, and the same numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medvlp.data.dataset import Example, collater
from medvlp.data.items import DataConfig
from medvlp.errors import ConfigError
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.experiment import TrainerConfig
from medvlp.train.loader import build_loader
from medvlp.train.optim import OptimConfig, build_optimizer
from medvlp.train.pace import compile_towers, lay_channels_last, set_pace
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig

TEXT = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16, dropout=0.1)
RESNET = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
VIT = Vit2dConfig(size=32, patch=8, width=24, depth=2, heads=2)
RESNET3D = ResNet3dConfig(widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1), stem_kernel=3)
VIT3D = Vit3dConfig(patch=(4, 8, 8), width=24, depth=2, heads=2)
FRAMES = FrameEncoderConfig(frame=VIT, pool="attention")


def model(image=RESNET) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(TwoTowerConfig(embed=8), image.build(1), TEXT.build(50, 0))


def step(two_tower: TwoTower, image: torch.Tensor) -> list[torch.Tensor]:
    """A loss and its gradients, with dropout."""
    torch.manual_seed(1)
    ids = torch.arange(1, 17).repeat(len(image), 1)
    _, image_BE, _ = two_tower.encode_image(image)
    text_ME, _ = two_tower.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
    loss = (image_BE @ text_ME.T).square().sum()
    loss.backward()
    gradients = [p.grad for p in two_tower.parameters() if p.grad is not None]
    two_tower.zero_grad()
    return [loss.detach(), *gradients]


# Torch's compiler imports parts of torch that torch calls outdated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_compiled_towers_compute_the_same_under_the_same_names(backend: str) -> None:
    plain, compiled = model(), model()
    compile_towers(compiled, backend)
    image = torch.randn(2, 1, 32, 32)
    for expected, found in zip(step(plain, image), step(compiled, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    copy.deepcopy(compiled).load_state_dict(plain.state_dict())


def test_compiling_without_a_compiler_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        set_pace(model(), TrainerConfig(steps=1, compile=True), "cpu")


@pytest.mark.parametrize(
    ("image", "shape", "layout"),
    [
        (RESNET, (2, 1, 32, 32), torch.channels_last),
        (RESNET3D, (2, 1, 16, 16, 16), torch.channels_last_3d),
    ],
)
def test_channels_last_computes_the_same(image, shape, layout) -> None:
    plain, last = model(image), model(image)
    set_pace(last, TrainerConfig(steps=1, channels_last=True), "cpu")
    kernels = [p for p in last.image.parameters() if p.ndim == len(shape)]
    assert kernels
    assert all(p.is_contiguous(memory_format=layout) for p in kernels)
    assert last.image(torch.randn(shape)).maps[0].is_contiguous(memory_format=layout)
    pixels = torch.randn(shape, dtype=torch.float64)
    plain.double(), last.double()  # so that no rounding hides a difference
    for expected, found in zip(step(plain, pixels), step(last, pixels), strict=True):
        largest = expected.abs().max().clamp(min=1e-3).item()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * largest)


def test_a_tower_without_convolutions_has_no_layout_to_change() -> None:
    lay_channels_last(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("image", "shape", "calls"),
    [
        (VIT, (1, 1, 32, 32), 2),
        (VIT3D, (1, 1, 8, 16, 16), 2),
        (FRAMES, (1, 3, 1, 32, 32), 3),
    ],
)
def test_every_attention_is_the_fused_one(image, shape, calls, monkeypatch) -> None:
    two_tower, seen = model(image), []
    fused = F.scaled_dot_product_attention

    def counted(*args, **kwargs):
        seen.append(args[0].shape)
        return fused(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    step(two_tower, torch.randn(shape))
    assert len(seen) == calls + TEXT.depth


def test_the_fused_optimiser_steps_as_the_plain_one_and_goes_on_exactly() -> None:
    config = OptimConfig(lr=0.01, weight_decay=0.1)

    def trained(steps: int, start=None):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        ours = build_optimizer(layer, config)
        groups = [
            {"params": [layer.weight], "weight_decay": 0.1},
            {"params": [layer.bias], "weight_decay": 0.0},
        ]
        plain = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, foreach=False)
        optimizer = plain if start == "plain" else ours
        if isinstance(start, tuple):
            layer.load_state_dict(start[0])
            optimizer.load_state_dict(start[1])
        for k in range(steps):
            done = 0 if not isinstance(start, tuple) else 3
            layer.weight.grad = torch.full_like(layer.weight, 0.3 + k + done)
            layer.bias.grad = torch.full_like(layer.bias, -0.2 * (k + done))
            optimizer.step()
        return copy.deepcopy((layer.state_dict(), optimizer.state_dict()))

    whole, plain = trained(6), trained(6, "plain")
    assert whole[1]["param_groups"][0]["fused"]
    torch.testing.assert_close(whole[0], plain[0], rtol=1e-6, atol=1e-7)
    resumed = trained(3, trained(3))
    for name, value in whole[0].items():
        assert torch.equal(resumed[0][name], value)


def example(tokens: int) -> Example:
    return Example(
        image=torch.zeros(2, 2),
        drawn_K=None,
        ids=([5] * tokens,),
        levels=(0,),
        confidences=(1.0,),
        seed=0,
        labels_L=torch.zeros(0),
        sample="s",
        patient="p",
    )


@pytest.mark.parametrize(
    ("lengths", "multiple", "width"),
    [((3, 9), 8, 16), ((3, 8), 8, 8), ((18,), 8, 20), ((3,), 1, 3)],
)
def test_texts_are_padded_to_few_lengths(lengths, multiple: int, width: int) -> None:
    batch = collater(0, {"items": 1}, multiple, 20)([example(n) for n in lengths])
    assert batch.text_BNT.shape == (len(lengths), 1, width)
    assert batch.text_mask_BNT.sum(-1).flatten().tolist() == list(lengths)


def test_padding_more_changes_no_embedding() -> None:
    two_tower = model().eval()
    short, long = (collater(0, {"items": 1}, m, 16)([example(5)]) for m in (1, 16))
    found = [two_tower.encode_text(b.text_BNT[0], b.text_mask_BNT[0])[0] for b in (short, long)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


class Squares(torch.utils.data.Dataset):
    def __getitem__(self, i: int) -> int:
        return i * i

    def __len__(self) -> int:
        return 6


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_all_batches_each_time_and_counts_the_wait(workers: int) -> None:
    config = DataConfig(manifests=("m",), workers=workers, prefetch=3)
    loader = build_loader(Squares(), [[0, 1], [2, 5]], np.array, config, "cpu")
    for _ in range(2):
        before = loader.waited_s
        assert [batch.tolist() for batch in loader] == [[0, 1], [4, 25]]
        assert loader.waited_s > before
    assert loader.prefetch_factor == (3 if workers else None)
