"""Augmentation of whole batches: what it does to one sample never depends on the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.batch import Batch
from medvlp.data.no_image import NoImageConfig
from medvlp.data.preprocess import model_input
from medvlp_video.preprocess import ClipPreprocessConfig, View
from medvlp_volumetric.preprocess import CtPreprocessConfig

RNG = np.random.default_rng(0)
CASES = {
    "cxr": (
        CxrPreprocessConfig(size=32),
        RNG.integers(0, 65536, (5, 32, 32)).astype(np.uint16),
        (1, 32, 32),
    ),
    "ct": (
        CtPreprocessConfig(shape=(6, 10, 12), more_windows_hu=((-160.0, 240.0),)),
        RNG.integers(-1500, 1500, (5, 6, 10, 12)).astype(np.int16),
        (2, 6, 10, 12),
    ),
    "video": (
        ClipPreprocessConfig(frames=3, size=20),
        RNG.integers(0, 256, (5, 3, 20, 20, 3)).astype(np.uint8),
        (3, 3, 20, 20),
    ),
    "none": (NoImageConfig(), np.zeros((5, 1, 1), np.uint8), (1, 1, 1)),
}


def generators(seeds: list[int]) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_its_samples_one_by_one(name: str, augmented: bool) -> None:
    config, stored, shape = CASES[name]
    preprocess = config.build()
    seeds = [3, 1, 4, 1, 5]
    rngs = generators(seeds) if augmented else None
    whole = model_input(preprocess, list(stored), rngs=rngs)
    assert whole.dtype == torch.float32
    assert whole.shape == (5, *shape)
    for b, seed in enumerate(seeds):
        alone = model_input(preprocess, [stored[b]], rngs=generators([seed]) if augmented else None)
        torch.testing.assert_close(whole[b], alone[0], atol=1e-5, rtol=0)
    if augmented and name != "none":
        assert not torch.allclose(whole, model_input(preprocess, list(stored)))


def test_clips_are_cropped_and_coloured_as_their_view_says() -> None:
    config, stored, _ = CASES["video"]
    view = View(side=10, y=4, x=7, bright=1.1, contrast=0.9, red=1.2, green=1.0, blue=0.8)
    drawn = torch.tensor([view], dtype=torch.float64)
    out = config.build().tensor(torch.from_numpy(stored[:1]), drawn)[0]
    part = torch.from_numpy(stored[0]).permute(0, 3, 1, 2).float()[..., 4:14, 7:17] / 255
    large = F.interpolate(part, (20, 20), mode="bilinear", align_corners=False)
    gain = 1.1 * torch.tensor([1.1, 1.0, 0.9]).view(3, 1, 1)
    expected = (((large - large.mean()) * 0.9 + large.mean()) * gain).clamp(0, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    torch.testing.assert_close(out, (expected - mean) / std, atol=1e-5, rtol=0)


def test_numbers_that_steer_the_device_stay_on_the_cpu() -> None:
    batch = Batch(
        image=torch.zeros(1, 4, 4, dtype=torch.uint16),
        text_BNT=torch.zeros(1, 1, 1, dtype=torch.long),
        text_mask_BNT=torch.ones(1, 1, 1, dtype=torch.bool),
        level_BN=torch.zeros(1, 1, dtype=torch.long),
        labels_BL=torch.zeros(1, 0),
        sample=("s",),
        drawn_BK=torch.zeros(1, 6),
    )
    moved = batch.to(torch.device("meta"))
    assert moved.image.device.type == moved.text_BNT.device.type == "meta"
    assert moved.drawn_BK.device.type == "cpu"
