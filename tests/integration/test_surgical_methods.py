"""Published surgical methods (configs/video), made small: each trains, and its bundle opens."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

import medvlp
from medvlp.data.phantom_source import PhantomData
from medvlp.train.fit import train_run
from medvlp.train.phantom_data import phantom_manifest

CONFIGS = Path(__file__).resolve().parents[2] / "configs/video"
RESNET = "{kind: resnet, depths: [1, 1], widths: [16, 24], stem: 8}"
WITHIN = "{levels: [step], n: 3}"
SMALL = [
    "data.cache=memory", "data.batch_size=4", "data.workers=0", "data.tokenizer={vocab_size: 400}",
    "preprocess.size=32", "model.embed=24",
    "trainer={steps: 3, accelerator: cpu, log_every: 1, valid_every: 3, save_every: 3}",
]  # fmt: skip
BERT = "{kind: bert, width: 24, depth: 4, heads: 2, max_tokens: 40, layers: [-4, -3, -2, -1]}"
CAMMA = [f"image.frame={RESNET}", f"text={BERT}"]


def streams(*names, frames=4):
    """Each in turn, in batches of two, from texts of any source."""
    values = [f"data.mix.streams.{name}.ratio=1" for name in names]
    for name in names[1:]:
        values += [f"data.mix.streams.{name}.batch_size=2",
                   f"data.mix.streams.{name}.preprocess={{frames: {frames}}}"]  # fmt: skip
    return values


LEVELS = [
    *streams("clip", "phase", "procedure"),
    f"data.mix.streams.clip.texts={{levels: [clip], along: {WITHIN}}}",
    f"data.mix.streams.phase.texts={{levels: [phase], along: {WITHIN}}}",
    "data.mix.streams.procedure.texts={levels: [procedure], along: {levels: [phase], n: 8}}",
]
OWN = {
    "surgvlp": [*CAMMA, f"data.texts={{levels: [clip], along: {WITHIN}}}"],
    "hecvl": [*CAMMA, *LEVELS],
    "peskavlp": [*CAMMA, *LEVELS],
    "surgclip": [
        "image={kind: timesformer, size: 32, patch: 16, width: 24, depth: 1, heads: 2, frames: 4}",
        "preprocess.frames=4", "text={kind: bert, width: 24, depth: 1, heads: 2, pool: cls}",
        "optim.warmup_steps=1",
    ],
    "ophclip": [*CAMMA, *streams("clip", "video", "silent"), "data.mix.schedule=[]"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Phantom recordings by a seed, made when they are asked for."""

    @functools.cache
    def manifest(seed):
        settings = ("seconds=4", "size=64", "fps=2", "workers=1")
        data = PhantomData(n=6, seed=seed, kind="video", settings=settings)
        return phantom_manifest("video", data, tmp_path_factory.mktemp(f"surgery{seed}"))

    return manifest


@pytest.mark.parametrize(
    "name", ["peskavlp", "surgclip", *(pytest.param(n, marks=pytest.mark.soak) for n in
             ("surgvlp", "hecvl", "ophclip"))],
)  # fmt: skip
def test_a_method_trains_and_its_bundle_opens(name, made, tmp_path, read_losses):
    narrated = made(1)
    given = [*SMALL, *OWN[name], f"data.manifests=['{narrated}']"]
    if name == "ophclip":
        silent = made(2)
        given[-1] = f"data.manifests=['{narrated}', '{silent}']"
        for stream, manifest in (("clip", narrated), ("video", narrated), ("silent", silent)):
            given.append(f"data.mix.streams.{stream}.manifests=['{manifest}']")
    torch.manual_seed(0)
    train_run(CONFIGS / f"{name}.yaml", given, tmp_path / "run")
    losses = read_losses(tmp_path / "run")
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    bundle = medvlp.load(tmp_path / "run/bundle")
    frames = np.random.default_rng(0).integers(0, 255, (8, 40, 60, 3), np.uint8)
    image_E, text_E = bundle.embed_image(frames)[0], bundle.embed_text("the duct is clipped")[0]
    assert np.linalg.norm(text_E) == pytest.approx(1, abs=1e-5)
    shorter = bundle.model.config.image_mean == "units"
    assert (np.linalg.norm(image_E) < 1 - 1e-6) is shorter
